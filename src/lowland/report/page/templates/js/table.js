// The table of results: a row for each group, or each run.

const ESTIMATE = { mean: 0, error: 1, low: 2, high: 3, n: 4, done: 5 }; // where each stands in a group's `finals`
const COSTS = [{ key: "gradients", text: "gradients" }, { key: "seconds", text: "training, s" }];
const selected = new Set(data.directories.map((directory) => directory.selected).filter((index) => index != null));

// What the cells of each row show, and what it is sorted and filtered by.
function rowsOf() {
  return data.groups.flatMap((group, index) => {
    const common = { index, name: group.name, settings: group.settings, gradients: group.gradients, seconds: group.seconds };
    const where = group.directories.map((number) => data.directories[number].name).join(", ");
    if (!state.each) return [{ ...common, told: group.told, directory: where, finals: group.finals }];
    return group.runs.map((run) => ({
      ...common, seed: run.seed, told: run.told, directory: data.directories[run.directory].name, finals: lastOf(run),
      gradients: run.gradients, seconds: run.seconds,
    }));
  });
}

// The last values of one run, as the `finals` of a group.
function lastOf(run) {
  const done = run.status === "done" ? 1 : 0;
  return Object.fromEntries(Object.entries(run.curves).map(([column, curve]) =>
    [column, [curve.y.at(-1), null, null, null, 1, done]]));
}

function columnsShown() {
  const metrics = chosenOf("columns", data.main).filter((column) => column in data.columns);
  const mean = (column) => (row) => row.finals[column]?.[ESTIMATE.mean];
  return [
    { key: "name", text: "Name", value: (row) => row.name },
    ...(manyDirectories ? [{ key: "directory", text: "Directory", value: (row) => row.directory }] : []),
    ...(state.each ? [{ key: "seed", text: "Seed", value: (row) => row.seed }] : []),
    ...Object.keys(data.axes).map((name) => ({ key: name, text: symbol(name), value: (row) => row.settings[name] })),
    ...metrics.map((column) => ({ key: column, text: label(column), metric: true, value: mean(column) })),
    ...COSTS.filter(({ key }) => data.groups.some((group) => group[key])).map(({ key, text }) => ({
      key, text, value: (row) => row[key],
    })),
    { key: "told", text: "Status", value: (row) => row.told },
  ];
}

function compare(a, b) {
  if (isNumber(a) && isNumber(b)) return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

// Sorted by the chosen column; rows without a value come last.
function inOrder(rows, columns) {
  const down = (state.sort ?? "").endsWith("-down");
  const by = columns.find((column) => column.key === (down ? state.sort.slice(0, -"-down".length) : state.sort));
  if (!by) return rows;
  const has = (row) => by.value(row) != null;
  const sorted = rows.filter(has).sort((a, b) => (down ? -1 : 1) * compare(by.value(a), by.value(b)));
  return [...sorted, ...rows.filter((row) => !has(row))];
}

function drawTable() {
  const [columns, all, chosen] = [columnsShown(), rowsOf(), picked()];
  const rows = inOrder(all.filter(passes), columns);
  find("#table thead").replaceChildren(element("tr", {}, ...columns.map(head)));
  find("#table tbody").replaceChildren(...rows.map((row) =>
    element("tr", { class: chosen.has(row.index) && "picked" }, ...columns.map((column) => cell(row, column, chosen)))));
  find("#count").textContent = `${rows.length < all.length ? `${rows.length} of ` : ""}${counted(all.length, "row")}`;
}

function head(column) {
  const down = `${column.key}-down`;
  const sorted = { [down]: "descending", [column.key]: "ascending" }[state.sort] ?? "none";
  const sign = { descending: " ▾", ascending: " ▴", none: "" }[sorted];
  const next = { descending: "", ascending: down, none: column.key }[sorted];
  const onclick = () => {
    choose({ sort: next });
    find(`[data-sort="${CSS.escape(column.key)}"]`)?.focus(); // the heading was made anew
  };
  const button = element("button", { type: "button", "data-sort": column.key, onclick }, column.text + sign);
  return element("th", { scope: "col", "aria-sort": sorted }, button);
}

function cell(row, column, chosen) {
  if (column.key === "name") {
    const pressed = String(chosen.has(row.index));
    const star = selected.has(row.index) ? " ★" : "";
    const attributes = { type: "button", "aria-pressed": pressed, "data-row": row.index };
    return element("th", { scope: "row" }, element("button", attributes, swatch(row.index), unbroken(row.name) + star));
  }
  const value = column.value(row);
  if (!column.metric) return element("td", { class: isNumber(value) && "number" }, short(value));
  const found = row.finals[column.key];
  if (!found) return element("td");
  const error = found[ESTIMATE.error] == null ? "" : ` ± ${brief(found[ESTIMATE.error], 2)}`;
  const text = short(found[ESTIMATE.mean]) + error;
  return element("td", { class: "number" }, found[ESTIMATE.done] ? text : element("em", {}, text));
}

// A click anywhere in a row picks it; its name is a button for those who don't click.
find("#table tbody").addEventListener("click", (event) => {
  const button = find("button", event.target.closest("tr"));
  const place = findAll("#table tbody button").indexOf(button);
  toggle(Number(button.dataset.row));
  findAll("#table tbody button")[place]?.focus({ preventScroll: true });
});

function drawPicked() {
  const chosen = picked();
  const bar = find("#picked");
  bar.hidden = chosen.size === 0;
  bar.replaceChildren(
    element("span", {}, chosen.size === 1 ? data.groups[[...chosen][0]].name : `${chosen.size} picked`),
    element("button", { type: "button", onclick: () => goTo("curves") }, "See the curves"),
    element("button", { type: "button", onclick: () => pick([]) }, "Pick none"));
}
