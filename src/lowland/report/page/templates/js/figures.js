// A click on a saved figure shows it as large as the screen; Escape, or a click beside it, closes it.

const BROAD = 1.6; // width over height, from which on a figure has a row of its own
for (const image of findAll(".enlarge img")) {
  const place = () => {
    const isBroad = image.naturalWidth > BROAD * image.naturalHeight;
    image.closest("figure").classList.toggle("broad", isBroad);
  };
  image.decode().then(place, () => {}); // one that can't be decoded has no size
}

const enlarged = find("#enlarged");
for (const button of findAll(".enlarge")) {
  button.addEventListener("click", () => {
    const [small, large] = [find("img", button), find("img", enlarged)];
    [large.src, large.alt] = [small.src, small.alt];
    enlarged.showModal();
  });
}
enlarged?.addEventListener("click", (event) => event.target === enlarged && enlarged.close());
