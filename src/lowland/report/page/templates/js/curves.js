// Curves of all runs on the same axes, in as many panels as are chosen.

const MOST_LINES = 150; // drawn one by one in a panel; beyond, what isn't picked is one grey trace
const MOST_BANDS = 8;
const severalSeeds = data.groups.some((group) => group.runs.length > 1);
const hasEpochs = data.groups.some((group) => group.runs.some((run) => run.epochs_per_step));

// The curves of a group in a column: one for each run, or the mean with its band.
function linesOf(group, column) {
  if (group.bands[column] && state.seeds !== "runs") {
    const found = group.bands[column];
    return [{ x: along_x(found.x, group.runs[0]), y: found.mean, low: found.low, high: found.high, run: null }];
  }
  return group.runs.filter((run) => run.curves[column]).map((run) => {
    const curve = run.curves[column];
    return { x: along_x(curve.x ?? run.steps, run), y: curve.y, run };
  });
}

const along_x = (steps, run) => (state["x-what"] === "epoch" && run.epochs_per_step ? steps.map((step) => step * run.epochs_per_step) : steps);

function drawPanels() {
  const open = chosenOf("panels", data.open).map(Number).filter((index) => index in data.panels);
  const charts = find("#charts");
  for (const chart of findAll(".chart", charts)) if (!open.includes(Number(chart.dataset.panel))) {
    Plotly.purge(find(".plot", chart) ?? chart);
    chart.remove();
  }
  for (const index of open) {
    const made = find(`[data-panel="${index}"]`, charts) ?? element("div", { class: "chart", "data-panel": index },
      element("h3", {}, data.panels[index].title), element("div", { class: "dashes" }), element("div"), element("p", { class: "note" }));
    charts.append(made);
    drawPanel(made, data.panels[index]);
  }
}

function drawPanel(chart, panel) {
  const chosen = picked();
  const log = state["y-scale"] ? state["y-scale"] === "log" : panel.log;
  const lines = data.groups.flatMap((group, index) => panel.curves.flatMap((curve) =>
    linesOf(group, curve.column).map((line) => ({ ...line, group, index, curve, out: chosen.size > 0 && !chosen.has(index) }))));
  const shown = state.only ? lines.filter((line) => !line.out) : lines;
  const standing = shown.filter((line) => !line.out);
  const single = standing.slice(0, MOST_LINES);
  const grey = [...shown.filter((line) => line.out), ...standing.slice(MOST_LINES)];
  const bands = new Set(standing.filter((line) => line.low).map((line) => line.index)).size <= MOST_BANDS;
  const floor = log ? lowest(shown) / 3 : -Infinity;
  const traces = [
    ...(grey.length ? [together(grey)] : []),
    ...(bands ? single.filter((line) => line.low).map((line) => band(line.x, line.low, line.high, colourOf(line.index), { floor })) : []),
    ...single.map((line) => trace(line, panel)),
    ...ends(standing, panel),
  ];
  const what = state["x-what"] === "epoch" ? "epoch" : "step";
  plot(chart.children[2], panel.title, traces, look({
    xaxis: axis({ title: { text: what }, type: state["x-scale"] === "log" ? "log" : "linear" }),
    yaxis: axis({ title: { text: plain(panel.ylabel) }, type: log ? "log" : "linear" }),
    uirevision: `${log}${what}${state["x-scale"]}`,
  }), (point) => point.data.meta != null && toggle(point.data.meta));
  showDashes(chart.children[1], panel);
  chart.children[3].textContent = remarks(panel, shown, standing, bands, log);
}

function trace(line, panel) {
  const seed = line.run && line.group.runs.length > 1 ? `, seed ${line.run.seed}` : "";
  const what = panel.curves.length > 1 ? `${line.curve.label}<br>` : "";
  const between = line.low ? line.low.map((low, i) => (low == null ? "" : `<br>95 %: ${short(low)} to ${short(line.high[i])}`)) : "";
  return {
    x: line.x, y: line.y, type: "scatter", mode: line.x.length > 1 ? "lines" : "markers", meta: line.index, customdata: between || undefined,
    line: { color: colourOf(line.index), dash: panel.curves.length > 1 ? line.curve.dash : dashOf(line.index), width: line.low || line.group.runs.length === 1 ? 1.8 : 1 },
    marker: { color: colourOf(line.index) },
    hovertemplate: `<b>${plain(line.group.name)}</b>${seed}<br>${what}step %{x}: %{y:.4g}${between ? "%{customdata}" : ""}<extra></extra>`,
  };
}

// Many lines as one trace, which takes a browser far less.
function together(lines) {
  const x = [], y = [];
  for (const line of lines) { x.push(...line.x, null); y.push(...line.y, null); }
  return { x, y, type: "scatter", mode: "lines", line: { color: colour("faint"), width: 0.8 }, hoverinfo: "skip" };
}

// Where runs diverged: at their last value, in the first curve of the panel that they have.
function ends(lines, panel) {
  const at = { x: [], y: [], text: [], marker: { symbol: "x", size: 9, color: [] } };
  for (const index of new Set(lines.map((line) => line.index))) for (const run of data.groups[index].runs) {
    const curve = run.status === "diverged" && panel.curves.map((each) => run.curves[each.column]).find(Boolean);
    if (!curve) continue;
    at.x.push(along_x(curve.x ?? run.steps, run).at(-1));
    at.y.push(curve.y.findLast((value) => value != null));
    at.text.push(`<b>${plain(data.groups[index].name)}</b><br>${plain(run.told)}`);
    at.marker.color.push(colourOf(index));
  }
  return at.x.length ? [{ ...at, type: "scatter", mode: "markers", hovertemplate: "%{text}<extra></extra>" }] : [];
}

function lowest(lines) {
  const values = lines.flatMap((line) => line.y).filter((value) => value > 0);
  return values.reduce((least, value) => Math.min(least, value), Infinity);
}

function showDashes(container, panel) {
  const patterns = { solid: "", dash: "7 4", dot: "2 3", dashdot: "7 3 2 3" };
  container.innerHTML = "";
  if (panel.curves.length < 2) return;
  for (const curve of panel.curves) {
    const sign = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    sign.setAttribute("width", 34); sign.setAttribute("height", 8); sign.setAttribute("aria-hidden", "true");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [name, value] of Object.entries({ x1: 0, x2: 34, y1: 4, y2: 4, stroke: "currentColor", "stroke-width": 2, "stroke-dasharray": patterns[curve.dash] })) line.setAttribute(name, value);
    sign.append(line);
    container.append(element("span", {}, sign, curve.label));
  }
}

// What the panel can't show.
function remarks(panel, shown, standing, bands, log) {
  const said = [];
  const without = data.groups.flatMap((group) => group.runs.filter((run) => run.status === "diverged" && !panel.curves.some((curve) => run.curves[curve.column]))
    .map((run) => `${group.name}${group.runs.length > 1 ? ` (seed ${run.seed})` : ""}`));
  if (without.length) said.push(`Diverged before the first record: ${without.slice(0, 5).join("; ")}${without.length > 5 ? ` and ${without.length - 5} more` : ""}.`);
  if (standing.length > MOST_LINES) said.push(`${MOST_LINES} of ${standing.length} lines are coloured, the others grey: pick some in the table.`);
  if (!bands) said.push(`Bands are drawn of at most ${MOST_BANDS} groups: pick some.`);
  if (log && shown.some((line) => line.y.some((value) => value != null && value <= 0))) said.push("Values at or below 0 have no place on a logarithmic axis.");
  if (log && bands && standing.some((line) => line.low?.some((value) => value != null && value <= 0))) said.push("A band that reaches 0 is cut off below.");
  return said.join(" ");
}

function drawLegend() {
  const chosen = picked();
  const many = data.groups.length > 60;
  const listed = data.groups.map((group, index) => [group, index]).filter(([group, index]) =>
    group.runs.some((run) => run.status !== "waiting") && (!many || chosen.has(index)));
  find("#legend").replaceChildren(...listed.map(([group, index]) => {
    const swatch = element("span", { class: "swatch" });
    swatch.style.background = colourOf(index);
    const ended = group.diverged ? ` (${group.runs.length > 1 ? `${group.diverged} of ${group.runs.length} ` : ""}diverged)` : "";
    return element("button", { type: "button", "aria-pressed": String(chosen.has(index)), onclick: () => toggle(index), title: group.told }, swatch, group.name + ended);
  }), ...(many ? [element("span", { class: "quiet" }, `${data.groups.length} groups: pick some in the table`)] : []));
}
