// Curves of all runs on the same axes, in as many panels as are chosen.

const MOST_LINES = 150; // drawn one by one in a panel; beyond, what isn't picked is one grey trace
const MOST_BANDS = 8;
const severalSeeds = data.groups.some((group) => group.runs.length > 1);
const hasEpochs = data.groups.some((group) => group.runs.some((run) => run.epochs_per_step));

const isByEpoch = () => state["x-what"] === "epoch";
const positionsOf = (steps, run) =>
  (isByEpoch() && run.epochs_per_step ? steps.map((step) => step * run.epochs_per_step) : steps);

function drawPanels() {
  const open = chosenOf("panels", data.open).map(Number).filter((index) => index in data.panels);
  const charts = find("#charts");
  for (const chart of findAll(".chart", charts).filter((each) => !open.includes(Number(each.dataset.panel)))) {
    Plotly.purge(chart.children[2]);
    chart.remove();
  }
  for (const index of open) {
    const chart = find(`[data-panel="${index}"]`, charts) ?? newChart(index);
    charts.append(chart);
    drawPanel(chart, data.panels[index]);
  }
}

const newChart = (index) => element("div", { class: "chart", "data-panel": index },
  element("h3", {}, data.panels[index].title), dashes(data.panels[index]), element("div"), element("p", { class: "note" }));

function drawPanel(chart, panel) {
  const log = state["y-scale"] ? state["y-scale"] === "log" : panel.log ?? suitsLogarithm(panel);
  const what = isByEpoch() ? "epoch" : "step";
  const drawing = drawingOf(panel, log);
  plot(chart.children[2], panel.title, tracesOf(drawing), look({
    xaxis: axis({ title: { text: what }, type: state["x-scale"] === "log" ? "log" : "linear" }),
    yaxis: axis({ title: { text: plain(panel.ylabel) }, ...(log ? { type: "log", nticks: logTicks(drawing.shown) } : {}), ...ranged(drawing.range, drawing.shown, log) }),
    uirevision: `${log}${what}${state["x-scale"]}`, // a zoom stays for as long as the axes do
  }), (point) => point.data.meta != null && toggle(point.data.meta));
  chart.children[3].replaceChildren(remarks(drawing), ...cutting(drawing.range, "Bands"));
}

// Whether a panel without a figure's word for it is logarithmic: above 0, over more than two powers of ten.
function suitsLogarithm(panel) {
  const lines = data.groups.flatMap((group) => panel.curves.flatMap((curve) => linesOf(group, curve.column)));
  const [low, high] = extent(lines.flatMap((line) => line.y).filter((value) => value != null));
  return low > 0 && high > 100 * low;
}

// What a panel draws: lines one by one, lines in grey, and whether there are bands.
function drawingOf(panel, log) {
  const chosen = picked();
  const isOut = (index) => chosen.size > 0 && !chosen.has(index);
  const lines = data.groups.flatMap((group, index) => panel.curves.flatMap((curve) =>
    linesOf(group, curve.column).map((line) => ({ ...line, group, index, curve, out: isOut(index) }))));
  const shown = state.only ? lines.filter((line) => !line.out) : lines;
  const standing = shown.filter((line) => !line.out);
  const bands = new Set(standing.filter((line) => line.low).map((line) => line.index)).size <= MOST_BANDS;
  const grey = [...shown.filter((line) => line.out), ...standing.slice(MOST_LINES)];
  const reach = shown.map((line) => (line.out ? { y: line.y } : line)); // the bands of grey lines aren't drawn
  const range = bands ? clipped(reach, log) : null;
  return { panel, log, shown, standing, grey, bands, range, floor: log ? lowest(lines) / 3 : isPositive(lines) ? 0 : -Infinity };
}

// The curves of a group in a column: one for each run, or the mean with its band.
function linesOf(group, column) {
  const found = group.bands[column];
  if (found && state.seeds !== "runs") {
    return [{ x: positionsOf(found.x, group.runs[0]), y: found.mean, low: found.low, high: found.high, run: null }];
  }
  return group.runs.filter((run) => run.curves[column]).map((run) => {
    const curve = run.curves[column];
    return { x: positionsOf(curve.x ?? run.steps, run), y: curve.y, run };
  });
}

function tracesOf({ panel, standing, grey, bands, floor }) {
  const single = standing.slice(0, MOST_LINES);
  const areas = single.filter((line) => line.low && bands);
  return [
    ...(grey.length ? [together(grey)] : []),
    ...areas.map((line) => band(line.x, line.low, line.high, colourOf(line.index), floor)),
    ...single.map((line) => trace(line, panel)),
    ...ends(standing, panel),
  ];
}

function trace(line, panel) {
  const seed = line.run && line.group.runs.length > 1 ? `, seed ${line.run.seed}` : "";
  const several = panel.curves.length > 1;
  const interval = (low, i) => (low == null ? "" : `<br>95 %: ${short(low)} to ${short(line.high[i])}`);
  const head = `<b>${plain(line.group.name)}</b>${seed}<br>${several ? `${plain(line.curve.label)}<br>` : ""}`;
  return {
    type: "scatter",
    mode: line.x.length > 1 ? "lines" : "markers",
    x: line.x,
    y: line.y,
    meta: line.index,
    line: {
      color: colourOf(line.index),
      dash: several ? line.curve.dash : dashOf(line.index),
      width: line.low || line.group.runs.length === 1 ? 1.8 : 1,
    },
    marker: { color: colourOf(line.index) },
    customdata: line.low?.map(interval),
    hovertemplate: `${head}${isByEpoch() ? "epoch" : "step"} %{x}: %{y:.4g}${line.low ? "%{customdata}" : ""}<extra></extra>`,
  };
}

// Many lines as one trace, which takes a browser far less.
function together(lines) {
  const joined = (which) => lines.flatMap((line) => [...line[which], null]);
  const look = { mode: "lines", line: { color: colour("faint"), width: 0.8 }, hoverinfo: "skip" };
  return { type: "scatter", x: joined("x"), y: joined("y"), ...look };
}

// Where runs diverged: at their last value, in the first curve of the panel that they have.
function ends(lines, panel) {
  const at = [...new Set(lines.map((line) => line.index))].flatMap((index) =>
    data.groups[index].runs.filter((run) => run.status === "diverged").flatMap((run) => {
      const curve = panel.curves.map((each) => run.curves[each.column]).find(Boolean);
      return curve ? [{ index, run, curve }] : [];
    }));
  return at.length ? [{
    type: "scatter",
    mode: "markers",
    x: at.map(({ run, curve }) => positionsOf(curve.x ?? run.steps, run).at(-1)),
    y: at.map(({ curve }) => curve.y.findLast((value) => value != null)),
    marker: { symbol: "x", size: 9, color: at.map(({ index }) => colourOf(index)) },
    text: at.map(({ index, run }) => `<b>${plain(data.groups[index].name)}</b><br>${plain(run.told)}`),
    hovertemplate: "%{text}<extra></extra>",
  }] : [];
}

function lowest(lines) {
  const values = lines.flatMap((line) => line.y).filter((value) => value > 0);
  return values.reduce((least, value) => Math.min(least, value), Infinity);
}

// What the panel doesn't show, or can't.
function remarks({ panel, log, shown, standing, bands, range }) {
  const lost = data.groups.flatMap((group) => group.runs.filter((run) => hasNothing(run, panel)).map((run) =>
    (group.runs.length > 1 ? `${group.name} (seed ${run.seed})` : group.name)));
  const more = lost.length > 5 ? ` and ${lost.length - 5} more` : "";
  const has = (lines, which) => lines.some((line) => line[which]?.some((value) => value != null && value <= 0));
  return [
    lost.length && `Diverged before the first record: ${lost.slice(0, 5).join("; ")}${more}.`,
    standing.length > MOST_LINES &&
      `${MOST_LINES} of ${standing.length} lines are coloured, the others grey: pick some in the table.`,
    !bands && `Bands are drawn of at most ${MOST_BANDS} groups: pick some.`,
    log && has(shown, "y") && "Values at or below 0 have no place on a logarithmic axis.",
    log && bands && (!range || state.whole) && has(standing, "low") && "A band that reaches 0 is cut off below.",
  ].filter(Boolean).map((sentence) => `${sentence} `).join("");
}

const hasNothing = (run, panel) => run.status === "diverged" && !panel.curves.some((curve) => run.curves[curve.column]);
