// The range of a vertical axis: bands may widen it, but not so far that they flatten the curves.

const BEYOND = 0.5; // of the curves' own height, by which bands widen the axis on either side
const MARGIN = 0.05;

function extent(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}

// [low, high] for an axis of `lines` with their bands, as Plotly takes it; null where the axis finds its own.
function clipped(lines, log = false) {
  const place = (value) => (log ? (value > 0 ? Math.log10(value) : -Infinity) : value);
  const all = (which) => lines.flatMap((line) => line[which] ?? []).filter((value) => value != null).map(place);
  const [low, high] = extent(all("y").filter(Number.isFinite));
  const [least, most] = extent([...all("low"), ...all("high")]);
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

const ranged = (range) => (range ? { range, autorange: false } : {});
const CUT = "Bands that reach beyond the axis are cut off there: the intervals of few seeds are wide. The key 0 shows all.";
