// Puts the page together, and draws anew what a choice changes.

function goTo(id) {
  const section = document.getElementById(id);
  section.scrollIntoView();
  section.focus({ preventScroll: true });
}

for (const link of findAll('a[href^="#"]')) {
  link.addEventListener("click", (event) => {
    event.preventDefault(); // the address holds the reader's choices
    goTo(link.getAttribute("href").slice(1));
  });
}
for (const link of findAll("a.of-image")) link.href = find("img", link.closest("figure")).src;

// Menus close by a click elsewhere, and by Escape.
const openMenus = () => findAll("details.menu[open]");
document.addEventListener("click", (event) => {
  for (const menu of openMenus()) menu.open = menu.contains(event.target);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of openMenus()) {
    menu.open = false;
    find("summary", menu).focus();
  }
});

for (const id of ["filter", "each"]) bind(find(`#${id}`), id);
find("#each").closest("label").hidden = !severalSeeds;
boxes(find("#shown"), "columns", Object.entries(data.columns), data.main);
if (data.panels.length) {
  for (const id of ["y-scale", "x-scale", "x-what", "seeds", "only"]) bind(find(`#${id}`), id);
  find("#seeds-label").hidden = !severalSeeds;
  find("#x-what-label").hidden = !hasEpochs;
  boxes(find("#panels"), "panels", data.panels.map((panel, index) => [index, panel.title]), data.open);
}
if (find("#difference-column")) {
  const columns = Object.keys(data.differences);
  const options = columns.map((column) => element("option", { value: column }, label(column)));
  find("#difference-column").replaceChildren(...options);
  bind(find("#difference-column"), "difference", data.main.find((column) => columns.includes(column)) ?? columns[0]);
}
const sweeps = findAll(".sweep").filter((each) => find(".metric", each)).map((each) => new Sweep(each));

// Parts of the page: where they are, how they are drawn, and the choices that concern them.
const parts = [
  ...(data.panels.length ? [{
    place: find("#curves"),
    concerns: (name) => ["panels", "y-scale", "x-scale", "x-what", "seeds", "only", "whole"].includes(name),
    draw: () => { drawLegend(); drawPanels(); },
  }] : []),
  ...sweeps.map((sweep) => ({
    place: sweep.container,
    concerns: (name) => name.endsWith(`-${sweep.number}`) || name === "columns" || name === "whole",
    draw: () => sweep.draw(),
  })),
  ...(find("#difference-column") ? [{
    place: find("#differences"),
    concerns: (name) => name === "difference",
    draw: drawDifferences,
  }] : []),
];

// Each is drawn when it first comes near the screen, and from then on whenever a choice concerns it.
const near = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((each) => each.isIntersecting)) {
    drawFirst(parts.find((each) => each.place === entry.target));
  }
}, { rootMargin: "600px" });

function drawFirst(part) {
  near.unobserve(part.place);
  part.drawn = true;
  part.draw();
}

whenChosen((changes) => {
  const names = Object.keys(changes);
  const all = names.includes("picked") || names.includes("theme");
  if (all || names.some((name) => ["sort", "filter", "each", "columns"].includes(name))) drawTable();
  if (names.includes("picked")) drawPicked();
  for (const part of parts) if (part.drawn && (all || names.some(part.concerns))) part.draw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => choose({ theme: state.theme ?? "" }));

drawTable();
drawPicked();
for (const part of parts) near.observe(part.place);
document.documentElement.dataset.ready = "yes";
