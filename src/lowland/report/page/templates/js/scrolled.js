// Fades the sides at which more can be scrolled to: of the report's wide parts, and of the site's.

for (const box of findAll(".wide, nav, .table-wrapper, .output")) {
  const look = () => {
    box.classList.toggle("more-left", box.scrollLeft > 1);
    box.classList.toggle("more-right", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  };
  box.addEventListener("scroll", look, { passive: true });
  const sizes = new ResizeObserver(look);
  for (const sized of [box, ...box.children]) sizes.observe(sized);
}
