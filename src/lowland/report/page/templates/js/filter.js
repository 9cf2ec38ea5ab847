// A filter of the table: words, which a row must have in its name or status, and conditions on settings and columns.

const TESTS = {
  "=": (a, b) => String(a) === b || (isNumber(a) && a === Number(b)),
  "!=": (a, b) => !TESTS["="](a, b),
  "<": (a, b) => isNumber(a) && a < Number(b),
  "<=": (a, b) => isNumber(a) && a <= Number(b),
  ">": (a, b) => isNumber(a) && a > Number(b),
  ">=": (a, b) => isNumber(a) && a >= Number(b),
};

// Whether a row meets every part of the filter.
function passes(row) {
  const joined = (state.filter ?? "").replace(/\s*(<=|>=|!=|=|<|>)\s*/g, "$1"); // without spaces around a sign
  return joined.split(/\s+/).filter(Boolean).every((part) => meets(row, part));
}

function meets(row, part) {
  const [, name, sign, wanted] = part.match(/^([^<>=!]+)(<=|>=|!=|=|<|>)(.+)$/) ?? [];
  if (!sign) return `${row.name} ${row.told} ${row.directory}`.toLowerCase().includes(part.toLowerCase());
  const setting = Object.keys(row.settings).find((each) => each === name || symbol(each) === name);
  const other = ["seed", "gradients", "seconds"].includes(name) ? row[name] : row.finals[name]?.[ESTIMATE.mean];
  const value = setting == null ? other : row.settings[setting];
  return value != null && TESTS[sign](value, wanted);
}
