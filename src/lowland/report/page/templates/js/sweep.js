// A metric over a grid: lines with bands, a map, and all settings at once.

const numericAxes = (groups, names) => names.filter((name) => { const values = valuesOf(groups, name); return values.length > 1 && values.every(isNumber); });

// One sweep's charts: its groups, its controls, and how they are drawn.
class Sweep {
  constructor(container) {
    this.container = container;
    this.number = Number(container.dataset.directory);
    this.directory = data.directories[this.number];
    this.groups = data.groups.map((group, index) => ({ ...group, index })).filter((group) => group.directories.includes(this.number));
    this.varied = this.directory.varied.filter((name) => valuesOf(this.groups, name).length > 1);
    const metrics = Object.keys(data.columns).filter((column) => this.groups.some((group) => group.finals[column]));
    const first = [this.directory.metric, ...data.main, ...metrics].find((column) => metrics.includes(column));
    const numeric = numericAxes(this.groups, this.varied);
    const across = numeric.includes("rho") ? "rho" : numeric[0] ?? this.varied[0];
    const down = ["lr", ...this.varied].find((name) => this.varied.includes(name) && name !== across) ?? across;
    this.control("metric", metrics.map((column) => [column, label(column)]), first);
    this.control("x", this.varied.map((name) => [name, symbol(name)]), across);
    this.control("rows", this.varied.map((name) => [name, symbol(name)]), down);
    this.control("columns", this.varied.map((name) => [name, symbol(name)]), across);
    this.empty = metrics.length === 0 || this.varied.length === 0;
    if (this.varied.length > 1) return;
    for (const name of ["rows", "columns"]) find(`.${name}`, this.container).closest("label").hidden = true; // a map takes two
  }

  key(name) { return `${name}-${this.number}`; }

  control(name, options, fallback) {
    const select = find(`.${name}`, this.container);
    select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
    bind(select, this.key(name), fallback);
  }

  chosen(name) { return find(`.${name}`, this.container).value; }

  mean(group) { return group.finals[this.chosen("metric")]?.[ESTIMATE.mean] ?? null; }

  draw() {
    const selection = find(".selection", this.container);
    if (this.empty) { selection.textContent = this.varied.length ? "No run has recorded anything yet." : "Nothing but the seed varies."; return; }
    const best = this.directory.selected;
    selection.textContent = best == null ? "" : `★ Selected: ${data.groups[best].name}, by ${label(this.directory.metric)}.`;
    this.drawLines();
    if (this.varied.length > 1) this.drawMap();
    this.drawParallel();
  }

  drawLines() {
    const [metric, x, chosen] = [this.chosen("metric"), this.chosen("x"), picked()];
    const positions = valuesOf(this.groups, x);
    const lines = new Map();
    for (const group of this.groups) {
      const others = this.varied.filter((name) => name !== x).map((name) => `${symbol(name)} = ${short(group.settings[name])}`).join(", ");
      if (!lines.has(others)) lines.set(others, []);
      lines.get(others).push(group);
    }
    const traces = [];
    let number = 0;
    for (const [name, groups] of lines) {
      const paint = lines.size <= FEW.length ? FEW[number] : shade(number / (lines.size - 1));
      number += 1;
      const at = positions.map((value) => groups.find((group) => group.settings[x] === value));
      const ends = (which) => at.map((group) => group?.finals[metric]?.[ESTIMATE[which]] ?? null);
      const places = positions.map((_, index) => index);
      const faint = chosen.size > 0 && !groups.some((group) => chosen.has(group.index));
      if (!faint && lines.size <= MOST_BANDS) traces.push(band(places, ends("low"), ends("high"), paint, { wide: 0.05 }));
      traces.push({
        x: places, y: at.map((group) => (group ? this.mean(group) : null)), type: "scatter", mode: "lines+markers", name: plain(name || label(metric)), connectgaps: false,
        line: { color: faint ? colour("faint") : paint, width: 1.8 }, customdata: at.map((group) => group?.index ?? null),
        marker: { color: faint ? colour("faint") : paint, size: at.map((group) => (group?.index === this.directory.selected ? 14 : chosen.has(group?.index) ? 12 : 7)), symbol: at.map((group) => (group?.index === this.directory.selected ? "star" : "circle")) },
        text: at.map((group) => (group ? told(group, metric) : "")), hovertemplate: "%{text}<extra></extra>", showlegend: Boolean(name),
      });
    }
    const lost = positions.map((value) => this.groups.filter((group) => group.settings[x] === value).reduce((sum, group) => sum + group.diverged, 0));
    const room = find(".lines", this.container).clientWidth / positions.length;
    plot(find(".lines", this.container), `${label(metric)} against ${symbol(x)}`, traces, look({
      height: 420, showlegend: lines.size > 1 && lines.size <= 20, legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", font: { size: 12 } },
      xaxis: axis({ title: { text: plain(symbol(x)) }, tickvals: positions.map((_, index) => index), ticktext: positions.map((value) => plain(short(value))), range: [-0.4, positions.length - 0.6] }),
      yaxis: axis({ title: { text: plain(label(metric)) }, type: isLogarithmic(this.groups.map((group) => this.mean(group)).filter((value) => value != null)) ? "log" : "linear" }),
      annotations: lost.flatMap((count, index) => (count ? [{ x: index, y: 1, yref: "paper", yanchor: "bottom", showarrow: false, text: room > 100 ? `× ${count} diverged` : `× ${count}`, font: { size: 11, color: colour("fails") } }] : [])),
      margin: { l: 10, r: 10, t: lost.some(Boolean) ? 46 : 28, b: 10 },
    }), (point) => point.customdata != null && toggle(point.customdata));
  }

  // The settings that the map doesn't show, each at one value.
  slices(rows, columns) {
    const rest = this.varied.filter((name) => name !== rows && name !== columns);
    const container = find(".slices", this.container);
    if (container.dataset.of !== rest.join()) {
      container.dataset.of = rest.join();
      const best = data.groups[this.directory.selected ?? this.groups[0].index];
      container.replaceChildren(...rest.map((name) => {
        const select = element("select", { "data-slice": name }, ...valuesOf(this.groups, name).map((value) => element("option", { value: JSON.stringify(value) }, short(value))));
        bind(select, this.key(`slice-${name}`), JSON.stringify(best.settings[name]));
        return element("label", {}, `at ${symbol(name)} `, select);
      }));
    }
    return findAll("select", container).map((select) => [select.dataset.slice, JSON.parse(select.value)]);
  }

  drawMap() {
    const [metric, rows, columns, chosen] = [this.chosen("metric"), this.chosen("rows"), this.chosen("columns"), picked()];
    const fixed = this.slices(rows, columns);
    const there = this.groups.filter((group) => fixed.every(([name, value]) => group.settings[name] === value));
    const [down, across] = [valuesOf(there, rows), valuesOf(there, columns)];
    const cellAt = (y, x) => there.find((group) => group.settings[rows] === y && group.settings[columns] === x);
    const cells = down.map((y) => across.map((x) => cellAt(y, x)));
    const values = cells.flat().map((group) => (group ? this.mean(group) : null)).filter((value) => value != null);
    const log = isLogarithmic(values);
    const ticks = log ? logTicks(values) : null;
    const written = cells.map((row) => row.map((group) => (group && this.mean(group) != null ? annotation(this.mean(group), group) : "")));
    const frames = cells.flatMap((row, y) => row.flatMap((group, x) => {
      if (!group || (group.index !== this.directory.selected && !chosen.has(group.index))) return [];
      const star = group.index === this.directory.selected;
      return [{ type: "rect", x0: x - 0.48, x1: x + 0.48, y0: y - 0.47, y1: y + 0.47, line: { color: star ? "#d55e00" : colour("ink"), width: star ? 3 : 2 } }];
    }));
    plot(find(".map", this.container), `${label(metric)} over ${symbol(rows)} and ${symbol(columns)}`, [{
      type: "heatmap", colorscale: "Viridis", xgap: 2, ygap: 2, hoverongaps: false, x: across.map((_, index) => index), y: down.map((_, index) => index),
      z: cells.map((row) => row.map((group) => { const value = group ? this.mean(group) : null; return value != null && log ? Math.log10(value) : value; })),
      text: written, texttemplate: across.length <= 14 && down.length <= 20 ? "%{text}" : "", textfont: { size: 11 },
      customdata: cells.map((row) => row.map((group) => (group ? [group.index, told(group, metric)] : [null, ""]))), hovertemplate: "%{customdata[1]}<extra></extra>",
      showscale: Math.min(...values) < Math.max(...values), colorbar: { title: { text: plain(label(metric)), side: "right" }, thickness: 12, outlinewidth: 0, ...(ticks && { tickvals: ticks.map(Math.log10), ticktext: ticks.map(short) }) },
    }], look({
      height: 420, shapes: frames,
      annotations: diverged(cells, this),
      xaxis: axis({ title: { text: plain(symbol(columns)) }, tickvals: across.map((_, index) => index), ticktext: across.map((value) => plain(short(value))), range: [-0.5, across.length - 0.5], showgrid: false, zeroline: false }),
      yaxis: axis({ title: { text: plain(symbol(rows)) }, tickvals: down.map((_, index) => index), ticktext: down.map((value) => plain(short(value))), range: [-0.5, down.length - 0.5], showgrid: false, zeroline: false }),
    }), (point) => point.customdata?.[0] != null && toggle(point.customdata[0]));
  }

  drawParallel() {
    const metric = this.chosen("metric");
    const metrics = [...new Set([metric, ...chosenOf("columns", data.main)])].filter((column) => this.groups.some((group) => group.finals[column])).slice(0, 5);
    const whole = this.groups.filter((group) => metrics.every((column) => group.finals[column]));
    const container = find(".parallel", this.container);
    if (whole.length < 2) { container.textContent = "As soon as two settings have values."; return; }
    if (!container.dataset.ready) container.textContent = "";
    const without = this.groups.length - whole.length;
    find(".lacking", this.container).textContent = without ? `${without} of ${this.groups.length} settings have no value yet, or none because they diverged.` : "";
    const dimensions = [
      ...this.varied.map((name) => {
        const values = valuesOf(whole, name);
        return { label: plain(symbol(name)), values: whole.map((group) => values.indexOf(group.settings[name])), tickvals: values.map((_, index) => index), ticktext: values.map((value) => plain(short(value))), range: [-0.05, values.length - 0.95] };
      }),
      ...metrics.map((column) => ({ label: plain(label(column)), values: whole.map((group) => group.finals[column][ESTIMATE.mean]) })),
    ];
    plot(container, `All settings and ${metrics.map(label).join(", ")}`, [{
      type: "parcoords", dimensions, labelangle: 0, labelfont: { size: 12, color: colour("ink") }, tickfont: { size: 11, color: colour("quiet") }, rangefont: { size: 10, color: colour("quiet") },
      line: { color: whole.map((group) => group.finals[metric][ESTIMATE.mean]), colorscale: [0, 0.25, 0.5, 0.75, 1].map((share) => [share, shade(share)]) },
      unselected: { line: { color: colour("faint"), opacity: 0.25 } },
    }], look({ height: 360, margin: { l: 60, r: 60, t: 60, b: 24 } }));
    container.removeAllListeners?.("plotly_restyle");
    container.on("plotly_restyle", () => {
      const within = whole.filter((_, index) => container.data[0].dimensions.every((dimension) => inRanges(dimension.values[index], dimension.constraintrange)));
      pick(within.length < whole.length ? within.map((group) => group.index) : []);
    });
  }
}

function inRanges(value, ranges) {
  if (!ranges) return true;
  return (Array.isArray(ranges[0]) ? ranges : [ranges]).some(([low, high]) => low <= value && value <= high);
}

// What a group came to, for the hover.
function told(group, metric) {
  const found = group.finals[metric];
  const [mean, error, low, high, n] = found ?? [];
  const interval = low == null ? "" : `<br>95 %: ${short(low)} to ${short(high)}, ${n} seeds`;
  const value = found ? `${plain(label(metric))}: ${short(mean)}${error == null ? "" : ` ± ${short(Number(error.toPrecision(2)))}`}${interval}` : "no value";
  return `<b>${plain(group.name)}</b><br>${value}<br>${plain(group.told)}`;
}

// What stands in a cell of the map: the mean, and how many runs diverged.
function annotation(mean, group) {
  const value = short(Number(mean.toPrecision(3)));
  return group.diverged ? `${value}<br>× ${group.diverged}/${group.runs.length}` : value;
}

// Cells without a value have no text of the map's own.
function diverged(cells, sweep) {
  return cells.flatMap((row, y) => row.flatMap((group, x) => (group && sweep.mean(group) == null
    ? [{ x, y, showarrow: false, text: group.diverged ? "diverged" : "–", font: { size: 11, color: colour(group.diverged ? "fails" : "quiet") } }] : [])));
}

function logTicks(values) {
  const [low, high] = [Math.log10(Math.min(...values)), Math.log10(Math.max(...values))];
  const steps = high - low > 3 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let power = Math.floor(low); power <= high; power++) for (const step of steps) {
    const at = Math.log10(step) + power;
    if (at >= low && at <= high) ticks.push(step * 10 ** power);
  }
  return ticks;
}
