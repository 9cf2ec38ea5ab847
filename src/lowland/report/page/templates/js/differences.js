// Differences, paired by seed, with their intervals.

function drawDifferences() {
  const column = find("#difference-column").value;
  const rows = data.differences[column] ?? [];
  const chosen = picked();
  const names = rows.map((row) => `${data.groups[row.group].name} − ${data.groups[row.against].name}`);
  const room = Math.floor(find("#difference-chart").clientWidth / 18); // characters
  const brief = rows.map((row, index) => (row.kind === "to ρ = 0" ? data.groups[row.group].name : names[index]));
  const kinds = [...new Set(rows.map((row) => row.kind))].join(", or ");
  const paint = rows.map((row) => (chosen.size && !chosen.has(row.group) && !chosen.has(row.against) ? colour("faint") : sideOf(row)));
  plot(find("#difference-chart"), `Differences in ${label(column)}`, [{
    type: "scatter", mode: "markers", x: rows.map((row) => row.mean), y: rows.map((_, index) => index), marker: { size: 9, color: paint },
    customdata: rows.map((row) => row.group), text: rows.map((row, index) => `<b>${plain(names[index])}</b><br>${describe(row)}`), hovertemplate: "%{text}<extra></extra>",
  }, ...rows.flatMap((row, index) => (row.interval ? [{ type: "scatter", mode: "lines", x: row.interval, y: [index, index], line: { color: paint[index], width: 2 }, hoverinfo: "skip" }] : []))],
  look({
    height: Math.max(160, 70 + 24 * rows.length),
    shapes: [{ type: "line", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1, line: { color: colour("quiet"), dash: "dot", width: 1.5 } }],
    xaxis: axis({ title: { text: `${plain(label(column))}, difference ${kinds}` } }),
    yaxis: axis({ tickvals: rows.map((_, index) => index), ticktext: brief.map((name) => plain(name.length > room ? name.slice(0, room - 1) + "…" : name)), range: [rows.length - 0.4, -0.6], showgrid: false, zeroline: false }),
  }), (point) => point.customdata != null && toggle(point.customdata));
  find("#difference-table").replaceChildren(
    element("thead", {}, element("tr", {}, ...["Difference", "Mean", "95 % interval", "Seeds", "p (Holm)", ""].map((text) => element("th", { scope: "col" }, text)))),
    element("tbody", {}, ...rows.map((row, index) => element("tr", {}, element("th", { scope: "row" }, names[index]),
      ...[short(row.mean), row.interval ? `${short(row.interval[0])} to ${short(row.interval[1])}` : "", row.n, row.p == null ? "" : short(Number(row.p.toPrecision(2))), verdictOf(row)]
        .map((text) => element("td", { class: "number" }, String(text)))))));
}

const verdictOf = (row) => {
  if (!row.interval) return "one seed says nothing of the scatter";
  return row.p > 0.05 ? "undecided" : row.mean < 0 ? "below" : "above";
};
const sideOf = (row) => (row.interval && row.p <= 0.05 ? (row.mean < 0 ? FEW[0] : FEW[1]) : colour("quiet"));
const describe = (row) => `${short(row.mean)}${row.interval ? `, 95 %: ${short(row.interval[0])} to ${short(row.interval[1])}` : ""}<br>${row.n} ${row.n === 1 ? "seed" : "seeds"}: ${verdictOf(row)}`;
