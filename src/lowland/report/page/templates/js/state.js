// What the reader has chosen. It stands in the address, so that a reload and a link keep it.

const state = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
const listeners = [];
const whenChosen = (listener) => listeners.push(listener);

function choose(changes) {
  Object.assign(state, changes);
  for (const [name, value] of Object.entries(state)) if (value === "" || value == null) delete state[name];
  history.replaceState(null, "", "#" + new URLSearchParams(state));
  for (const listener of listeners) listener(changes);
}

// A select, a text or a checkbox that shows one choice and makes it.
function bind(control, name, fallback = "") {
  const box = control.type === "checkbox";
  if (box) control.checked = name in state;
  else control.value = state[name] ?? fallback;
  if (control.value === "" && control.options?.length) control.selectedIndex = 0;
  control.addEventListener(control.type === "search" ? "input" : "change", () =>
    choose({ [name]: box ? (control.checked ? "yes" : "") : control.value }));
}

// Several of a list: numbers, kept as text.
const chosenOf = (name, fallback) =>
  (name in state ? state[name].split(" ").filter((item) => item !== "-") : fallback.map(String));
const chooseOf = (name, items) => choose({ [name]: items.length ? items.join(" ") : "-" });

// Checkboxes for several of a list.
function boxes(container, name, texts, fallback) {
  const checked = () => findAll("input", container).filter((box) => box.checked).map((box) => box.value);
  container.replaceChildren(...texts.map(([key, text]) => {
    const box = element("input", { type: "checkbox", value: key });
    box.checked = chosenOf(name, fallback).includes(String(key));
    box.addEventListener("change", () => chooseOf(name, checked()));
    return element("label", {}, box, " ", text);
  }));
}

// Groups that stand out in every chart.
function picked() {
  const indices = (state.picked ?? "").split(" ").filter(Boolean).map(Number);
  return new Set(indices.filter((index) => index in data.groups));
}

const pick = (indices) => choose({ picked: [...indices].join(" ") });

function toggle(index) {
  const chosen = picked();
  if (!chosen.delete(index)) chosen.add(index);
  pick(chosen);
}
