// The colour of each group: one of a few that all people can tell apart, or along a scale where there are many.

const FEW = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1"];
const SCALE = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]; // viridis
const NONE = FEW[1]; // which the scale doesn't have
const DARK_START = 0.35; // of the scale, where it would vanish in the dark

function along(share) {
  const position = Math.min(share, 1) * (SCALE.length - 1);
  const from = Math.min(Math.floor(position), SCALE.length - 2);
  const mixed = SCALE[from].map((value, i) => Math.round(value + (position - from) * (SCALE[from + 1][i] - value)));
  return `rgb(${mixed.join(",")})`;
}

// The setting that colours follow where there are many groups: ρ, or the one with the most values.
function colouredBy() {
  const names = Object.keys(data.axes).filter((name) => valuesOf(data.groups, name).length > 1);
  if (names.includes("rho")) return "rho";
  return names.sort((a, b) => valuesOf(data.groups, b).length - valuesOf(data.groups, a).length)[0];
}

const directoryOf = (index) => data.groups[index].directories[0];
const own = (index) => data.groups.filter((group) => group.directories[0] === directoryOf(index));

// What has a colour of its own: each group where they are few; else each arm, where a directory has few of them, and
// directories differ in dashes and shades; else each value of a setting, and dashes are those of another.
function colouredAs(index) {
  if (data.groups.length <= FEW.length) return "group";
  return own(index).length <= FEW.length ? "arm" : "setting";
}

const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];

const dashedBy = () => manyDirectories ? undefined
  : Object.keys(data.axes).find((each) => each !== colouredBy() && valuesOf(data.groups, each).length > 1);

function dashOf(index) {
  if (colouredAs(index) === "group") return "solid";
  if (manyDirectories) return DASHES[directoryOf(index) % DASHES.length];
  const name = dashedBy();
  return name ? DASHES[valuesOf(data.groups, name).indexOf(data.groups[index].settings[name]) % DASHES.length] : "solid";
}

function colourOf(index) {
  const as = colouredAs(index);
  if (as === "group") return FEW[index];
  if (as === "arm") return paler(FEW[own(index).indexOf(data.groups[index])], directoryOf(index));
  const name = colouredBy();
  return name ? shadeOf(data.groups[index].settings[name], valuesOf(data.groups, name)) : shadeOf(index, [...data.groups.keys()]);
}

// Of one of several values; a 0 before others, as ρ without SAM, is no end of the scale.
function shadeOf(value, values) {
  const zero = values[0] === 0 && values.length > 2;
  if (zero && value === 0) return NONE;
  const scaled = zero ? values.slice(1) : values;
  return shade(scaled.length > 1 ? scaled.indexOf(value) / (scaled.length - 1) : 0);
}

// Along the scale, without the end that would vanish on the ground.
const shade = (share) => along(colour("ground") === "#fff" ? 0.93 * share : DARK_START + (1 - DARK_START) * share);

// A colour nearer to white, for the directories after the first.
function paler(paint, directory) {
  const share = [0, 0.35, 0.55][Math.min(directory, 2)];
  const channels = paint.slice(1).match(/../g).map((digits) => parseInt(digits, 16));
  return `rgb(${channels.map((value) => Math.round(value + share * (255 - value))).join(",")})`;
}

const translucent = (paint, alpha) => paint.startsWith("#")
  ? paint + Math.round(alpha * 255).toString(16).padStart(2, "0")
  : paint.replace("rgb(", "rgba(").replace(")", `,${alpha})`);
