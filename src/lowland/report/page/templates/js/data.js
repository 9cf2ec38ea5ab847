// All that the page draws, and a few words and elements that every part of it needs.

const data = JSON.parse(document.getElementById("data").textContent);
const find = (selector, within = document) => within.querySelector(selector);
const findAll = (selector, within = document) => [...within.querySelectorAll(selector)];

// An element with attributes, text and children. Text is never read as markup.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

// Plotly reads some markup in its texts; this text is to be read as it stands.
function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

// A number with few digits.
const brief = (value, digits) => String(Number(value.toPrecision(digits)));

function short(value) {
  if (typeof value !== "number") return String(value ?? "");
  return Number.isInteger(value) ? String(value) : brief(value, 4);
}

// A group's name, which may be broken after a comma but not within a setting.
const unbroken = (name) => name.replaceAll(" = ", "\u00a0=\u00a0");

// "1 row", "2 rows"; for words that take an s.
const counted = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

const manyDirectories = data.directories.length > 1;
const isNumber = (value) => typeof value === "number";
const symbol = (name) => data.axes[name] ?? name.replaceAll("_", " ");
const label = (column) => data.columns[column] ?? column;

// The values of a setting among groups: numbers in ascending order, others in the order of the grid.
function valuesOf(groups, name) {
  const values = [...new Set(groups.map((group) => group.settings[name]))];
  return values.every(isNumber) ? values.sort((a, b) => a - b) : values;
}

// Whether values suit a logarithmic axis: all above 0, spanning more than a factor of ten.
const isLogarithmic = (values) =>
  values.length > 1 && Math.min(...values) > 0 && Math.max(...values) > 10 * Math.min(...values);
