// The table of results: sorted, filtered, its rows picked.

const ESTIMATE = { mean: 0, error: 1, low: 2, high: 3, n: 4, done: 5 };
const manyDirectories = data.directories.length > 1;
const selected = new Set(data.directories.map((directory) => directory.selected).filter((index) => index != null));

// A row for each group, or each run: what its cells show, and what they are sorted and filtered by.
function rowsOf() {
  const columns = Object.keys(data.columns);
  return data.groups.flatMap((group, index) => {
    const where = group.directories.map((number) => data.directories[number].name).join(", ");
    const common = { index, directory: where, settings: group.settings };
    if (!state.each) return [{ ...common, name: group.name, told: group.told, finals: group.finals }];
    return group.runs.map((run) => ({
      ...common, name: group.name, seed: run.seed, told: run.told, directory: data.directories[run.directory].name,
      finals: Object.fromEntries(columns.filter((column) => run.curves[column]).map((column) =>
        [column, [run.curves[column].y.at(-1), null, null, null, 1, run.status === "done" ? 1 : 0]])),
    }));
  });
}

function columnsShown() {
  const metrics = chosenOf("columns", data.main).filter((column) => column in data.columns);
  return [
    { key: "name", text: "Name", value: (row) => row.name },
    ...(manyDirectories ? [{ key: "directory", text: "Directory", value: (row) => row.directory }] : []),
    ...(state.each ? [{ key: "seed", text: "Seed", value: (row) => row.seed }] : []),
    ...Object.keys(data.axes).map((name) => ({ key: name, text: symbol(name), value: (row) => row.settings[name] })),
    ...metrics.map((column) => ({ key: column, text: label(column), metric: true, value: (row) => row.finals[column]?.[ESTIMATE.mean] })),
    { key: "told", text: "Status", value: (row) => row.told },
  ];
}

// A filter's conditions and words; a row must meet all.
const TESTS = {
  "=": (a, b) => String(a) === b || (isNumber(a) && a === Number(b)), "!=": (a, b) => !TESTS["="](a, b),
  "<": (a, b) => isNumber(a) && a < Number(b), "<=": (a, b) => isNumber(a) && a <= Number(b),
  ">": (a, b) => isNumber(a) && a > Number(b), ">=": (a, b) => isNumber(a) && a >= Number(b),
};

function passes(row) {
  const parts = (state.filter ?? "").replace(/\s*(<=|>=|!=|=|<|>)\s*/g, "$1").split(/\s+/).filter(Boolean);
  return parts.every((part) => {
    const [, name, sign, wanted] = part.match(/^([^<>=!]+)(<=|>=|!=|=|<|>)(.+)$/) ?? [];
    if (!sign) return `${row.name} ${row.told} ${row.directory}`.toLowerCase().includes(part.toLowerCase());
    const key = Object.keys(row.settings).find((each) => each === name || symbol(each) === name);
    const value = key != null ? row.settings[key] : name === "seed" ? row.seed : row.finals[name]?.[ESTIMATE.mean];
    return value != null && TESTS[sign](value, wanted);
  });
}

function compare(a, b) {
  if (isNumber(a) && isNumber(b)) return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

function inOrder(rows, columns) {
  const [key, down] = (state.sort ?? "").split("-down").length > 1 ? [state.sort.slice(0, -5), true] : [state.sort, false];
  const by = columns.find((column) => column.key === key);
  if (!by) return rows;
  const has = (row) => by.value(row) != null;
  return [...rows.filter(has).sort((a, b) => (down ? -1 : 1) * compare(by.value(a), by.value(b))), ...rows.filter((row) => !has(row))];
}

function drawTable() {
  const columns = columnsShown();
  const all = rowsOf();
  const rows = inOrder(all.filter(passes), columns);
  find("#table thead").replaceChildren(element("tr", {}, ...columns.map(head)));
  const chosen = picked();
  find("#table tbody").replaceChildren(...rows.map((row) => element("tr", { class: chosen.has(row.index) ? "picked" : null }, ...columns.map((column) => cell(row, column, chosen)))));
  find("#count").textContent = rows.length < all.length ? `${rows.length} of ${all.length} rows` : `${all.length} rows`;
}

function head(column) {
  const down = state.sort === `${column.key}-down`;
  const sorted = down ? "descending" : state.sort === column.key ? "ascending" : "none";
  const sign = { descending: " ▾", ascending: " ▴", none: "" }[sorted];
  const next = { none: column.key, ascending: `${column.key}-down`, descending: "" }[sorted];
  return element("th", { scope: "col", "aria-sort": sorted }, element("button", { type: "button", "data-sort": column.key, onclick: () => { choose({ sort: next }); find(`[data-sort="${CSS.escape(column.key)}"]`)?.focus(); } }, column.text + sign));
}

function cell(row, column, chosen) {
  if (column.key === "name") {
    const swatch = element("span", { class: "swatch" });
    swatch.style.background = colourOf(row.index);
    const star = selected.has(row.index) ? " ★" : "";
    const button = element("button", { type: "button", "aria-pressed": String(chosen.has(row.index)), "data-row": row.index }, swatch, row.name + star);
    return element("th", { scope: "row" }, button);
  }
  if (!column.metric) return element("td", { class: isNumber(column.value(row)) ? "number" : null }, short(column.value(row)));
  const found = row.finals[column.key];
  if (!found) return element("td");
  const error = found[ESTIMATE.error] == null ? "" : ` ± ${Number(found[ESTIMATE.error].toPrecision(2))}`;
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

find("#csv").addEventListener("click", () => {
  const columns = columnsShown();
  const quoted = (value) => (/[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const lines = [columns.flatMap((column) => (column.metric && !state.each ? [column.key, `${column.key}_standard_error`] : [column.key]))];
  for (const row of inOrder(rowsOf().filter(passes), columns)) {
    lines.push(columns.flatMap((column) => {
      const value = column.value(row) ?? "";
      return column.metric && !state.each ? [value, row.finals[column.key]?.[ESTIMATE.error] ?? ""] : [value];
    }));
  }
  const content = lines.map((line) => line.map((value) => quoted(String(value))).join(",")).join("\n") + "\n";
  const address = URL.createObjectURL(new Blob([content], { type: "text/csv" }));
  element("a", { href: address, download: "results.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
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
