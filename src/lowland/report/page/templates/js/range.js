// The range of a vertical axis: bands may widen it, but not so far that they flatten the curves.

const BEYOND = 0.5; // of the curves' own height, by which bands widen the axis on either side
const MARGIN = 0.05;

function extent(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}

// Whether no value of lines is negative: then neither bands nor axis have anything to say below 0.
const isPositive = (lines) => lines.every((line) => line.y.every((value) => value == null || value >= 0));

// [low, high] for an axis of `lines` with their bands, as Plotly takes it; null where the axis finds its own.
function clipped(lines, log = false) {
  const place = (value) => (log ? (value > 0 ? Math.log10(value) : -Infinity) : value);
  const all = (which) => lines.flatMap((line) => line[which] ?? []).filter((value) => value != null).map(place);
  const [low, high] = extent(all("y").filter(Number.isFinite));
  const [lowest, most] = extent([...all("low"), ...all("high")]);
  const least = !log && isPositive(lines) ? Math.max(lowest, 0) : lowest;
  const room = BEYOND * (high - low);
  if (!(room > 0) || (least >= low - room && most <= high + room)) return null;
  const margin = MARGIN * (high - low);
  return [Math.max(low - room, Math.min(low, least)) - margin, Math.min(high + room, Math.max(high, most)) + margin];
}

// How many ticks a logarithmic axis is to have: then Plotly writes 1, 2, 5, and of many decades the powers of ten alone.
function logTicks(lines) {
  const values = lines.flatMap((line) => [...line.y, ...(line.low ?? []), ...(line.high ?? [])]);
  const [low, high] = extent(values.filter((value) => value > 0));
  const decades = Math.log10(high / low);
  if (!(decades >= 1)) return 5;
  return decades <= 3 ? Math.ceil(2 * decades) : Math.min(Math.ceil(1.15 * decades), 9); // the axis has margins
}

// The same where nothing is cut off; lines that all have one value stand halfway up, above 0 if that is above it.
const ranged = (range, lines, log) => {
  const found = range && !state.whole ? range : flat(lines, log);
  return found ? { range: found, autorange: false } : {};
};

function flat(lines, log) {
  const [low, high] = extent(lines.flatMap((line) => ["y", "low", "high"].flatMap((which) => line[which] ?? []))
    .filter((value) => value != null));
  if (low !== high || log) return null;
  return low === 0 ? [-MARGIN, 1] : [low - Math.abs(low), low + Math.abs(low)];
}

// What is said of bands or intervals that are cut off, with a button that shows them whole, or cuts them again.
function cutting(range, what) {
  if (!range) return [];
  const said = !state.whole ? `${what} are cut off at the axis: those of few seeds are wide. ` : "";
  const onclick = (event) => {
    const note = event.target.parentElement;
    choose({ whole: state.whole ? "" : "yes" });
    find("button", note)?.focus(); // it was made anew
  };
  return [said, element("button", { type: "button", onclick }, !state.whole ? "Show them whole" : `Cut wide ${what.toLowerCase()}`)];
}
