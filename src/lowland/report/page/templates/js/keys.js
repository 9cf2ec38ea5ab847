// What colours and dashes mean, where not every group has a colour of its own.

const MOST_SHADES = 8; // of a setting's values; beyond, the first, the middle and the last

function keys() {
  const indices = [...data.groups.keys()];
  const there = (as) => indices.filter((index) => colouredAs(index) === as);
  const shared = [...there("arm"), ...there("setting")];
  if (!shared.length) return [];
  return [
    ...(there("setting").length ? shadesKey() : []),
    ...(manyDirectories ? directoriesKey(shared) : dashesKey()),
  ];
}

function directoriesKey(indices) {
  const numbers = [...new Set(indices.map(directoryOf))];
  return [element("span", {}, "Directories:"), ...numbers.map((number) => element("span", {},
    box(paler(FEW[0], number)), sign(DASHES[number % DASHES.length]), data.directories[number].name))];
}

function shadesKey() {
  const name = colouredBy();
  if (!name) return [];
  const values = valuesOf(data.groups, name);
  const ends = [0, Math.floor(values.length / 2), values.length - 1];
  const shown = values.length > MOST_SHADES ? ends : [...values.keys()];
  return [element("span", {}, `Colours, ${symbol(name)}:`), ...shown.map((place) => element("span", {},
    box(shadeOf(values[place], values)), short(values[place])))];
}

function dashesKey() {
  const name = dashedBy();
  const values = name ? valuesOf(data.groups, name) : [];
  const signs = values.map((value, place) => element("span", {}, sign(DASHES[place % DASHES.length]), short(value)));
  return name ? [element("span", {}, `Dashes, ${symbol(name)}:`), ...signs] : [];
}
