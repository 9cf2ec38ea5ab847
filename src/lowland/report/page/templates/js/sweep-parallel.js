// All settings of a grid at once, with what they came to: a line for each, on parallel axes.

const MOST_METRICS = 5;
const COPIES = [-1, 0, 1]; // of each line, a hair apart: Plotly has no width for them
const HAIR = 0.003; // of an axis
const MOST_WRITTEN_PLACES = 12; // of a setting's values, beside its axis
const PLACE = 130; // pixels that an axis takes at least, for its words
const EDGE = 0.05; // of an axis beyond its values

function drawParallel(sweep) {
  const metric = sweep.chosen("metric");
  const shown = [...new Set([metric, ...chosenOf("columns", data.main)])];
  const metrics = shown.filter((column) => sweep.metrics.includes(column)).slice(0, MOST_METRICS);
  const whole = sweep.groups.filter((group) => metrics.every((column) => group.finals[column]));
  const container = sweep.find(".parallel");
  const without = sweep.groups.length - whole.length;
  sweep.find(".lacking").textContent =
    without ? `${without} of ${sweep.groups.length} settings have no value yet, or none because they diverged.` : "";
  if (whole.length < 2) {
    container.textContent = "They are drawn as soon as two settings have values.";
    return;
  }
  if (!container.dataset.ready) container.textContent = "";
  container.style.minWidth = `${PLACE * (sweep.varied.length + metrics.length)}px`;
  const means = (column) => whole.map((group) => group.finals[column][ESTIMATE.mean]);
  const thick = (values) => COPIES.flatMap(() => values);
  const text = (size, paint) => ({ size, color: colour(paint) });
  plot(container, `All settings and ${metrics.map(label).join(", ")}`, [{
    type: "parcoords",
    dimensions: [
      ...sweep.varied.map((name) => placesDimension(whole, name)),
      ...metrics.map((column) => dimension(plain(label(column)), means(column))),
    ],
    line: {
      color: thick(means(metric)),
      colorscale: [0, 0.25, 0.5, 0.75, 1].map((share) => [share, shade(share)]),
      showscale: true,
      colorbar: {
        title: { text: plain(label(metric)), font: text(12, "ink") }, tickfont: text(11, "quiet"), nticks: 5,
        orientation: "h", x: 0, xanchor: "left", y: 0, yanchor: "top", thickness: 8, len: 0.6, outlinewidth: 0,
      },
    },
    labelangle: 0,
    labelfont: text(12, "ink"),
    tickfont: text(11, "quiet"),
    rangefont: { size: 1, color: "rgba(0,0,0,0)" }, // the ends of the axes are no values
    unselected: { line: { color: colour("faint"), opacity: 0.25 } },
  }], look({ height: 410, margin: { l: 60, r: 60, t: 60, b: 70 } }));
  container.removeAllListeners?.("plotly_restyle");
  container.on("plotly_restyle", () => pickWithin(container, whole));
}

// An axis with a place for each group, as many times as its line is drawn.
function dimension(text, values, more = {}) {
  const [low, high] = extent(values);
  const height = high - low || Math.abs(high) || 1;
  return {
    label: text,
    values: COPIES.flatMap((copy) => values.map((value) => value + copy * HAIR * height)),
    range: [low - EDGE * height, high + EDGE * height],
    ...more,
  };
}

// A setting's values, evenly spaced; of many, some are written.
function placesDimension(groups, name) {
  const values = valuesOf(groups, name);
  const every = Math.ceil(values.length / MOST_WRITTEN_PLACES);
  const written = [...values.keys()].filter((index) => index % every === 0);
  return dimension(plain(symbol(name)), groups.map((group) => values.indexOf(group.settings[name])), {
    tickvals: written,
    ticktext: written.map((index) => plain(short(values[index]))),
  });
}

// Pick the groups that lie within the ranges that are drawn along the axes.
function pickWithin(container, groups) {
  const middle = COPIES.indexOf(0) * groups.length;
  const within = groups.filter((_, index) => container.data[0].dimensions.every((dimension) =>
    inRanges(dimension.values[middle + index], dimension.constraintrange)));
  pick(within.length < groups.length ? within.map((group) => group.index) : []);
}

function inRanges(value, ranges) {
  if (!ranges) return true;
  return (Array.isArray(ranges[0]) ? ranges : [ranges]).some(([low, high]) => low <= value && value <= high);
}
