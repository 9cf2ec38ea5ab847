// A map of a metric over two settings of a grid, at one value of each other setting.

const MOST_WRITTEN = [14, 20]; // columns and rows for which numbers fit into the cells

function drawMap(sweep) {
  const [metric, rows, columns] = [sweep.chosen("metric"), sweep.chosen("rows"), sweep.chosen("columns")];
  const fixed = slices(sweep, rows, columns);
  const there = sweep.groups.filter((group) => fixed.every(([name, value]) => group.settings[name] === value));
  const [down, across] = [valuesOf(there, rows), valuesOf(there, columns)];
  const cells = down.map((y) => across.map((x) =>
    there.find((group) => group.settings[rows] === y && group.settings[columns] === x)));
  const values = cells.flat().map((group) => sweep.mean(group)).filter((value) => value != null);
  const written = across.length <= MOST_WRITTEN[0] && down.length <= MOST_WRITTEN[1];
  const plainAxis = { showgrid: false, zeroline: false };
  plot(sweep.find(".map"), `${label(metric)} over ${symbol(rows)} and ${symbol(columns)}`, [{
    type: "heatmap",
    ...heights(sweep, cells, values),
    x: across.map((_, index) => index),
    y: down.map((_, index) => index),
    xgap: 2,
    ygap: 2,
    hoverongaps: false,
    text: cells.map((row) => row.map((group) => annotation(sweep, group))),
    texttemplate: written ? "%{text}" : "",
    textfont: { size: 11 },
    customdata: cells.map((row) => row.map((group) => (group ? [group.index, sweep.told(group)] : [null, ""]))),
    hovertemplate: "%{customdata[1]}<extra></extra>",
  }], look({
    height: 420,
    shapes: frames(sweep, cells),
    annotations: empty(sweep, cells),
    xaxis: placesAxis(columns, across, [-0.5, across.length - 0.5], plainAxis),
    yaxis: placesAxis(rows, down, [-0.5, down.length - 0.5], plainAxis),
  }), (point) => point.customdata?.[0] != null && toggle(point.customdata[0]));
}

// The settings that the map doesn't show, each at the value that the reader chooses: at first that of the selected group.
function slices(sweep, rows, columns) {
  const rest = sweep.varied.filter((name) => name !== rows && name !== columns);
  const container = sweep.find(".slices");
  if (container.dataset.of !== rest.join()) {
    container.dataset.of = rest.join();
    const best = data.groups[sweep.directory.selected ?? sweep.groups[0].index];
    container.replaceChildren(...rest.map((name) => {
      const options = valuesOf(sweep.groups, name).map((value) =>
        element("option", { value: JSON.stringify(value) }, short(value)));
      const select = element("select", { "data-slice": name }, ...options);
      bind(select, sweep.key(`slice-${name}`), JSON.stringify(best.settings[name]));
      return element("label", {}, `at ${symbol(name)} `, select);
    }));
  }
  return findAll("select", container).map((select) => [select.dataset.slice, JSON.parse(select.value)]);
}

// The colours' values and their scale, logarithmic where that suits them.
function heights(sweep, cells, values) {
  const log = isLogarithmic(values);
  const ticks = log ? ticksBetween(values) : null;
  const title = { text: plain(label(sweep.chosen("metric"))), side: "right" };
  return {
    z: cells.map((row) => row.map((group) => {
      const value = sweep.mean(group);
      return log && value != null ? Math.log10(value) : value;
    })),
    colorscale: "Viridis",
    showscale: Math.min(...values) < Math.max(...values),
    colorbar: {
      title, thickness: 12, outlinewidth: 0, ...(log && { tickvals: ticks.map(Math.log10), ticktext: ticks.map(short) }),
    },
  };
}

// What stands in a cell: the mean, and how many runs diverged.
function annotation(sweep, group) {
  const value = sweep.mean(group);
  if (value == null) return "";
  return brief(value, 3) + (group.diverged ? `<br>× ${group.diverged}/${group.runs.length}` : "");
}

// Cells without a value, which have no text of the map's own.
function empty(sweep, cells) {
  const words = sweep.find(".map").clientWidth / cells[0].length > 90;
  return cells.flatMap((row, y) => row.flatMap((group, x) => {
    if (!group || sweep.mean(group) != null) return [];
    const [text, paint] = group.diverged ? [words ? "diverged" : "×", "fails"] : ["–", "quiet"];
    return [{ x, y, text, showarrow: false, font: { size: 11, color: colour(paint) } }];
  }));
}

// Around the selected cell, and those that are picked.
function frames(sweep, cells) {
  const chosen = picked();
  return cells.flatMap((row, y) => row.flatMap((group, x) => {
    const best = group?.index === sweep.directory.selected;
    if (!group || !(best || chosen.has(group.index))) return [];
    const line = best ? { color: FEW[1], width: 3 } : { color: colour("ink"), width: 2 };
    return [{ type: "rect", x0: x - 0.48, x1: x + 0.48, y0: y - 0.47, y1: y + 0.47, line }];
  }));
}

function ticksBetween(values) {
  const [low, high] = [Math.log10(Math.min(...values)), Math.log10(Math.max(...values))];
  const steps = high - low > 3 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let power = Math.floor(low); power <= high; power++) ticks.push(...steps.map((step) => step * 10 ** power));
  return ticks.filter((tick) => low <= Math.log10(tick) && Math.log10(tick) <= high);
}
