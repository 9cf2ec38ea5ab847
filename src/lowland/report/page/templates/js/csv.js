// The table as it stands, as a file.

find("#csv").addEventListener("click", () => {
  const columns = columnsShown();
  const isEstimate = (column) => column.metric && !state.each;
  const heads = columns.flatMap((column) => (isEstimate(column) ? [column.key, `${column.key}_standard_error`] : [column.key]));
  const values = (row) => columns.flatMap((column) => {
    const value = column.value(row) ?? "";
    return isEstimate(column) ? [value, row.finals[column.key]?.[ESTIMATE.error] ?? ""] : [value];
  });
  const lines = [heads, ...inOrder(rowsOf().filter(passes), columns).map(values)];
  save("results.csv", lines.map((line) => line.map(quoted).join(",") + "\n").join(""));
});

const quoted = (value) => (/[",\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));

function save(name, content) {
  const address = URL.createObjectURL(new Blob([content], { type: "text/csv" }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
