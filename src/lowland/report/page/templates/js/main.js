// Puts the page together, and draws anew what a choice changes.

function goTo(id) {
  const section = document.getElementById(id);
  section.scrollIntoView();
  section.focus({ preventScroll: true });
}

for (const link of findAll('a[href^="#"]')) link.addEventListener("click", (event) => {
  event.preventDefault(); // the address holds the reader's choices
  goTo(link.getAttribute("href").slice(1));
});
for (const link of findAll("a.of-image")) link.href = find("img", link.closest("figure")).src;
document.addEventListener("click", (event) => findAll("details.menu[open]").forEach((menu) => menu.contains(event.target) || (menu.open = false)));
document.addEventListener("keydown", (event) => event.key === "Escape" && findAll("details.menu[open]").forEach((menu) => { menu.open = false; find("summary", menu).focus(); }));

for (const [id, name] of [["filter", "filter"], ["each", "each"]]) bind(find(`#${id}`), name);
find("#each").closest("label").hidden = !severalSeeds;
boxes(find("#shown"), "columns", Object.entries(data.columns), data.main);
if (data.panels.length) {
  for (const id of ["y-scale", "x-scale", "x-what", "seeds", "only"]) bind(find(`#${id}`), id);
  find("#seeds-label").hidden = !severalSeeds;
  find("#x-what-label").hidden = !hasEpochs;
  boxes(find("#panels"), "panels", data.panels.map((panel, index) => [index, panel.title]), data.open);
}
const sweeps = findAll(".sweep").filter((container) => find(".metric", container)).map((container) => new Sweep(container));
if (find("#difference-column")) {
  const columns = Object.keys(data.differences);
  find("#difference-column").replaceChildren(...columns.map((column) => element("option", { value: column }, label(column))));
  bind(find("#difference-column"), "difference", data.main.find((column) => columns.includes(column)) ?? columns[0]);
}

// Each part is drawn when it first comes near the screen, and from then on whenever a choice concerns it.
const parts = [
  { near: "#curves", names: ["panels", "y-scale", "x-scale", "x-what", "seeds", "only", "picked", "theme"], draw: () => { if (data.panels.length) { drawLegend(); drawPanels(); } } },
  ...sweeps.map((sweep) => ({ near: sweep.container, names: [...["metric", "x", "rows", "columns"].map((name) => sweep.key(name)), "slice", "columns", "picked", "theme"], draw: () => sweep.draw() })),
  ...(find("#difference-column") ? [{ near: "#differences", names: ["difference", "picked", "theme"], draw: drawDifferences }] : []),
];
const concerns = (part, changes) => Object.keys(changes).some((change) => part.names.some((name) => change === name || (name === "slice" && change.startsWith("slice-"))));

drawTable();
drawPicked();
const seen = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
  seen.unobserve(entry.target);
  const part = parts.find((each) => each.target === entry.target);
  part.drawn = true;
  part.draw();
}), { rootMargin: "600px" });
for (const part of parts) seen.observe(part.target = typeof part.near === "string" ? find(part.near) : part.near);

whenChosen((changes) => {
  if (["sort", "filter", "each", "columns", "picked", "theme"].some((name) => name in changes)) drawTable();
  if ("picked" in changes) drawPicked();
  for (const part of parts) if (part.drawn && concerns(part, changes)) part.draw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => choose({ theme: state.theme ?? "" }));

// While training goes on the page loads itself anew, but not under the hands of somebody who is at it.
const watching = find("#watching");
if (watching) {
  let touched = 0;
  for (const kind of ["pointerdown", "keydown", "wheel", "touchstart"]) document.addEventListener(kind, () => { touched = Date.now(); }, { passive: true });
  const every = 1000 * Number(watching.dataset.seconds);
  setInterval(() => { if (!document.hidden && Date.now() - touched > every) location.reload(); }, every);
}
document.documentElement.dataset.ready = "yes";
