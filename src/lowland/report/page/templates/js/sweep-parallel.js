// All settings of a grid at once, with what they came to: a line for each, on parallel axes.

const MOST_METRICS = 5;

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
    container.textContent = "As soon as two settings have values.";
    return;
  }
  if (!container.dataset.ready) container.textContent = "";
  const mean = (group, column) => group.finals[column][ESTIMATE.mean];
  const text = (size, paint) => ({ size, color: colour(paint) });
  plot(container, `All settings and ${metrics.map(label).join(", ")}`, [{
    type: "parcoords",
    dimensions: [
      ...sweep.varied.map((name) => placesDimension(whole, name)),
      ...metrics.map((column) => ({ label: plain(label(column)), values: whole.map((group) => mean(group, column)) })),
    ],
    line: {
      color: whole.map((group) => mean(group, metric)),
      colorscale: [0, 0.25, 0.5, 0.75, 1].map((share) => [share, shade(share)]),
    },
    labelangle: 0,
    labelfont: text(12, "ink"),
    tickfont: text(11, "quiet"),
    rangefont: text(10, "quiet"),
    unselected: { line: { color: colour("faint"), opacity: 0.25 } },
  }], look({ height: 360, margin: { l: 60, r: 60, t: 60, b: 24 } }));
  container.removeAllListeners?.("plotly_restyle");
  container.on("plotly_restyle", () => pickWithin(container, whole));
}

// A setting's values, evenly spaced.
function placesDimension(groups, name) {
  const values = valuesOf(groups, name);
  return {
    label: plain(symbol(name)),
    values: groups.map((group) => values.indexOf(group.settings[name])),
    tickvals: values.map((_, index) => index),
    ticktext: values.map((value) => plain(short(value))),
    range: [-0.05, values.length - 0.95],
  };
}

// Pick the groups that lie within the ranges that are drawn along the axes.
function pickWithin(container, groups) {
  const within = groups.filter((_, index) => container.data[0].dimensions.every((dimension) =>
    inRanges(dimension.values[index], dimension.constraintrange)));
  pick(within.length < groups.length ? within.map((group) => group.index) : []);
}

function inRanges(value, ranges) {
  if (!ranges) return true;
  return (Array.isArray(ranges[0]) ? ranges : [ranges]).some(([low, high]) => low <= value && value <= high);
}
