// One sweep of the page: its groups, and the choices of what is drawn over its grid.

const sameOrSeveral = (groups, names, several) => names.filter((name) => valuesOf(groups, name).length > 1 === several);
const numericAxes = (groups, names) =>
  sameOrSeveral(groups, names, true).filter((name) => valuesOf(groups, name).every(isNumber));

class Sweep {
  constructor(container) {
    this.container = container;
    this.number = Number(container.dataset.directory);
    this.directory = data.directories[this.number];
    this.groups = data.groups
      .map((group, index) => ({ ...group, index }))
      .filter((group) => group.directories.includes(this.number));
    this.varied = sameOrSeveral(this.groups, this.directory.varied, true);
    this.metrics = Object.keys(data.columns).filter((column) => this.groups.some((group) => group.finals[column]));
    this.makeControls();
  }

  makeControls() {
    const numeric = numericAxes(this.groups, this.varied);
    const across = numeric.includes("rho") ? "rho" : numeric[0] ?? this.varied[0];
    const down = ["lr", ...this.varied].find((name) => this.varied.includes(name) && name !== across) ?? across;
    const settings = this.varied.map((name) => [name, symbol(name)]);
    const first = [this.directory.metric, ...data.main].find((column) => this.metrics.includes(column));
    this.control("metric", this.metrics.map((column) => [column, label(column)]), first ?? this.metrics[0]);
    this.control("x", settings, across);
    this.control("rows", settings, down);
    this.control("columns", settings, across);
    this.find(".map").hidden = this.varied.length < 2; // a map takes two settings
    for (const name of ["rows", "columns"]) this.find(`.${name}`).closest("label").hidden = this.varied.length < 2;
  }

  control(name, options, fallback) {
    const select = this.find(`.${name}`);
    select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
    bind(select, this.key(name), fallback);
  }

  find(selector) { return find(selector, this.container); }

  key(name) { return `${name}-${this.number}`; }

  chosen(name) { return this.find(`.${name}`).value; }

  // The mean of the chosen metric, null where there is none.
  mean(group) { return group?.finals[this.chosen("metric")]?.[ESTIMATE.mean] ?? null; }

  draw() {
    const selection = this.find(".selection");
    if (!this.metrics.length || !this.varied.length) {
      selection.textContent = this.varied.length ? "No run has recorded anything yet." : "Nothing but the seed varies.";
      return;
    }
    const best = data.groups[this.directory.selected];
    const by = best && `★ Selected: ${best.name}, by ${label(this.directory.metric)}.`;
    selection.textContent = best ? [by, this.directory.end].filter(Boolean).join(" ") : "";
    drawLines(this);
    if (this.varied.length > 1) drawMap(this);
    drawParallel(this);
  }

  // What a group came to, for the hover.
  told(group) {
    const metric = this.chosen("metric");
    const [mean, error, low, high, n] = group.finals[metric] ?? [];
    const spread = error == null ? "" : ` ± ${brief(error, 2)}`;
    const interval = low == null ? "" : `<br>95 %: ${short(low)} to ${short(high)}, ${counted(n, "seed")}`;
    const value = mean == null ? "no value" : `${plain(label(metric))}: ${short(mean)}${spread}${interval}`;
    return `<b>${plain(group.name)}</b><br>${value}<br>${plain(group.told)}`;
  }
}
