// A metric against one setting of a grid: a line for each combination of the others, with intervals over seeds.

const APART = 0.05; // of the distance of two places

function drawLines(sweep) {
  const [metric, x, chosen] = [sweep.chosen("metric"), sweep.chosen("x"), picked()];
  const positions = valuesOf(sweep.groups, x); // evenly spaced, so that 0 has a place
  const lines = combinations(sweep, x);
  const spread = lines.size > MOST_BANDS ? [] : sweep.groups.map((group) => edges(group, metric));
  const floor = isPositive(spread) ? 0 : -Infinity;
  const traces = [...lines].map(([name, groups], number) => {
    const paint = lines.size <= FEW.length ? FEW[number] : shade(number / (lines.size - 1));
    const at = positions.map((value) => groups.find((group) => group.settings[x] === value));
    const faint = chosen.size > 0 && !groups.some((group) => chosen.has(group.index));
    const bars = faint || !spread.length ? {} : { error_y: whiskers(at, metric, paint, floor) };
    const shift = APART * (number - (lines.size - 1) / 2); // so that bars don't hide each other
    return { ...gridLine(sweep, at, name, faint ? colour("faint") : paint, spread.length ? shift : 0), ...bars };
  });
  const means = sweep.groups.map((group) => sweep.mean(group)).filter((value) => value != null);
  const log = isLogarithmic(means);
  const range = clipped(spread, log);
  const hasEnds = spread.some((each) => each.low[0] != null);
  sweep.find(".cut").replaceChildren(...(hasEnds ? ["Error bars are 95 % intervals over seeds. ", ...cutting(range, "Intervals")] : []));
  const diverged = divergedAt(sweep, x, positions);
  plot(sweep.find(".lines"), `${label(metric)} against ${symbol(x)}`, traces, look({
    height: 420,
    showlegend: lines.size > 1 && lines.size <= 20,
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", font: { size: 12 } },
    xaxis: placesAxis(x, positions, [-0.4, positions.length - 0.6]),
    yaxis: axis({ title: { text: plain(label(metric)) }, ...(log ? { type: "log", nticks: logTicks(spread.length ? spread : [{ y: means }]) } : {}), ...ranged(range, spread.length ? spread : [{ y: means }], log) }),
    annotations: diverged,
    margin: { l: 10, r: 10, t: diverged.length ? 46 : 28, b: 10 },
  }), (point) => point.customdata != null && toggle(point.customdata));
}

// The groups of each combination of the settings other than x, by its name.
function combinations(sweep, x) {
  const others = sweep.varied.filter((name) => name !== x);
  const lines = new Map();
  for (const group of sweep.groups) {
    const name = others.map((each) => `${symbol(each)} = ${short(group.settings[each])}`).join(", ");
    lines.set(name, [...(lines.get(name) ?? []), group]);
  }
  return lines;
}

// The mean of a group, and the ends of its interval, as `clipped` takes them.
function edges(group, metric) {
  const found = group.finals[metric] ?? [];
  const one = (which) => [found[ESTIMATE[which]] ?? null];
  return { y: one("mean"), low: one("low"), high: one("high") };
}

// The intervals as error bars, which end at 0 where no value is negative.
function whiskers(at, metric, paint, floor) {
  const arms = (sign, which) => at.map((group) => {
    const [mean, end] = ["mean", which].map((each) => group?.finals[metric]?.[ESTIMATE[each]] ?? null);
    return end == null ? null : sign * (Math.max(end, floor) - mean);
  });
  return { type: "data", symmetric: false, array: arms(1, "high"), arrayminus: arms(-1, "low"), color: paint, thickness: 1.2, width: 3 };
}

function gridLine(sweep, at, name, paint, shift) {
  const chosen = picked();
  const isBest = (group) => group && group.index === sweep.directory.selected;
  return {
    type: "scatter",
    mode: "lines+markers",
    name: plain(name || label(sweep.chosen("metric"))),
    x: at.map((_, index) => index + shift),
    y: at.map((group) => sweep.mean(group)),
    line: { color: paint, width: 1.8 },
    marker: {
      color: paint,
      size: at.map((group) => (isBest(group) ? 14 : chosen.has(group?.index) ? 12 : 7)),
      symbol: at.map((group) => (isBest(group) ? "star" : "circle")),
    },
    customdata: at.map((group) => group?.index ?? null),
    text: at.map((group) => (group ? sweep.told(group) : "")),
    hovertemplate: "%{text}<extra></extra>",
  };
}

// How many runs diverged at each position, above the chart.
function divergedAt(sweep, x, positions) {
  const words = sweep.find(".lines").clientWidth / positions.length > 100 ? " diverged" : "";
  return positions.flatMap((value, index) => {
    const there = sweep.groups.filter((group) => group.settings[x] === value);
    const count = there.reduce((sum, group) => sum + group.diverged, 0);
    const text = { text: `× ${count}${words}`, font: { size: 11, color: colour("fails") }, showarrow: false };
    return count ? [{ ...text, x: index, y: 1, yref: "paper", yanchor: "bottom" }] : [];
  });
}

// An axis of evenly spaced places, labelled with a setting's values.
function placesAxis(name, values, range, more = {}) {
  return axis({
    title: { text: plain(symbol(name)) },
    tickvals: values.map((_, index) => index),
    ticktext: values.map((value) => plain(short(value))),
    range,
    ...more,
  });
}
