// Differences, paired by seed, with their intervals.

const SIGNIFICANT = 0.05; // of the corrected p
const ROOM = 0.06; // of the axis, beyond the intervals

function drawDifferences() {
  const column = find("#difference-column").value;
  const rows = (data.differences[column] ?? []).map((row) => ({
    ...row, name: `${data.groups[row.group].name} − ${data.groups[row.against].name}`,
  }));
  drawDifferenceChart(column, rows);
  const heads = ["Difference", "Verdict", "Mean", "95 % interval", "Seeds", "p, corrected"];
  find("#difference-table").replaceChildren(
    element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)))),
    element("tbody", {}, ...rows.map(differenceRow)));
  const lacking = [...new Set(rows.map((row) => row.lacks).filter(Boolean))];
  find("#difference-lacks").textContent = [
    ...lacking.map((lacks) => `–: ${lacks}.`),
    ...(rows.some(isWeak) ? [`† The interval lies on that side, but the corrected p is above ${SIGNIFICANT}: among ${rows.length} differences one such interval may be chance.`] : []),
  ].join(" ");
}

function drawDifferenceChart(column, rows) {
  const container = find("#difference-chart");
  const chosen = picked();
  const isFaint = (row) => chosen.size && !chosen.has(row.group) && !chosen.has(row.against);
  const paint = rows.map((row) => (isFaint(row) ? colour("faint") : sideOf(row)));
  const room = Math.floor(container.clientWidth / 18); // characters
  const names = rows.map((row) => (row.kind === "to ρ = 0" ? data.groups[row.group].name : row.name));
  const gap = container.clientWidth < 600 ? "<br>" : " ";
  const kinds = [...new Set(rows.map((row) => row.kind))].join(`,${gap}or `);
  const points = {
    type: "scatter",
    mode: "markers",
    x: rows.map((row) => row.mean),
    y: rows.map((_, index) => index),
    marker: { size: 9, color: paint },
    customdata: rows.map((row) => row.group),
    text: rows.map(described),
    hovertemplate: "%{text}<extra></extra>",
  };
  const intervals = rows.flatMap((row, index) => (row.interval ? [{
    type: "scatter", mode: "lines", x: row.interval, y: [index, index], line: { color: paint[index], width: 2 }, hoverinfo: "skip",
  }] : []));
  const [low, high] = extent([0, ...rows.flatMap((row) => [row.mean, ...(row.interval ?? [])])]);
  const margin = ROOM * (high - low || 1); // so that no interval ends at the edge
  const none = { type: "line", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1, line: { color: colour("quiet"), dash: "dot" } };
  plot(container, `Differences in ${label(column)}`, [points, ...intervals], look({
    height: Math.max(160, 70 + (names.some((name) => name.length > room) ? 36 : 24) * rows.length),
    shapes: [none],
    xaxis: axis({ title: { text: `${plain(label(column))},${gap}difference ${kinds}` }, range: [low - margin, high + margin] }),
    yaxis: axis({
      tickvals: rows.map((_, index) => index),
      ticktext: names.map((name) => inLines(name, room)),
      range: [rows.length - 0.4, -0.6],
      showgrid: false,
      zeroline: false,
    }),
  }), (point) => point.customdata != null && toggle(point.customdata));
}

// A name in one line, or both sides of a difference in a line each; what is still too long is cut.
function inLines(name, room) {
  const lines = name.length > room ? name.split(/ (?=− )/) : [name];
  return lines.map((line) => plain(line.length > room ? `${line.slice(0, room - 1)}…` : line)).join("<br>");
}

function differenceRow(row) {
  const texts = [short(row.mean), between(row), String(row.n), row.p == null ? "–" : brief(row.p, 2)];
  const cells = texts.map((text) => element("td", { class: "number" }, text));
  const verdict = element("td", {}, verdictOf(row)); // first, where a phone shows it
  return element("tr", {}, element("th", { scope: "row" }, unbroken(row.name)), verdict, ...cells);
}

const between = (row) => (row.interval ? `${short(row.interval[0])} to ${short(row.interval[1])}` : "–");

// Whether a verdict goes when it is corrected for the other differences.
const isWeak = (row) => row.verdict !== "undecided" && row.p > SIGNIFICANT;
const verdictOf = (row) => row.verdict + (isWeak(row) ? " †" : "");

const sideOf = (row) => ({ below: FEW[0], above: FEW[1] })[row.verdict] ?? colour("quiet");

function described(row) {
  const interval = row.interval ? `, 95 %: ${between(row)}` : "";
  const seeds = counted(row.n, "seed");
  const corrected = isWeak(row) ? `, corrected p ${brief(row.p, 2)}` : "";
  return `<b>${plain(row.name)}</b><br>${short(row.mean)}${interval}<br>${seeds}: ${row.verdict}${corrected}`;
}
