// Light and dark: as the system has it, or as the reader says.

const THEMES = { "": "as the system", light: "light", dark: "dark" };
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function showTheme() {
  const theme = state.theme in THEMES ? state.theme : "";
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  find("#theme").replaceChildren("◐", element("span", {}, ` Theme: ${THEMES[theme]}`));
  find("#theme").setAttribute("aria-label", `Theme: ${THEMES[theme]}`);
}

find("#theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  choose({ theme: names[(names.indexOf(state.theme ?? "") + 1) % names.length] });
});
showTheme();
whenChosen((changes) => "theme" in changes && showTheme());
