// What lines mean: dashes beside each panel, and a button for each group, which picks it.

const MOST_BUTTONS = 40;
const PATTERNS = { solid: "", dash: "7 4", dot: "2 3", dashdot: "7 3 2 3" };

function dashes(panel) {
  const signs = panel.curves.length > 1 ? panel.curves.map((curve) => element("span", {}, sign(curve.dash), curve.label)) : [];
  return element("div", { class: "dashes" }, ...signs);
}

function sign(dash) {
  const drawn = (tag, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const line = { x1: 0, x2: 34, y1: 4, y2: 4, stroke: "currentColor", "stroke-width": 2 };
  const made = drawn("svg", { width: 34, height: 8, "aria-hidden": "true" });
  made.append(drawn("line", { ...line, "stroke-dasharray": PATTERNS[dash] }));
  return made;
}

// A small square in a colour; that of a group.
function box(paint) {
  const made = element("span", { class: "swatch" });
  made.style.background = paint;
  return made;
}

const swatch = (index) => box(colourOf(index));

function drawLegend() {
  const chosen = picked();
  const many = data.groups.length > MOST_BUTTONS;
  const isListed = (group, index) => group.runs.some((run) => run.status !== "waiting") && (!many || chosen.has(index));
  const buttons = data.groups.flatMap((group, index) => (isListed(group, index) ? [groupButton(group, index, chosen)] : []));
  const hint = element("span", { class: "quiet" }, `${data.groups.length} groups: pick some in the table`);
  find("#legend").replaceChildren(...buttons, ...(many ? [hint] : []));
  find("#keys").replaceChildren(...keys());
}

function groupButton(group, index, chosen) {
  const several = group.runs.length > 1 ? `${group.diverged} of ${group.runs.length} ` : "";
  const ended = group.diverged ? ` (${several}diverged)` : "";
  const attributes = { type: "button", "aria-pressed": String(chosen.has(index)), title: group.told };
  return element("button", { ...attributes, onclick: () => toggle(index) }, swatch(index), unbroken(group.name) + ended);
}
