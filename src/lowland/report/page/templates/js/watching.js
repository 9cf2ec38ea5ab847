// While training goes on the page loads itself anew, but not under the hands of somebody who is at it.

const watching = find("#watching");
if (history.state?.at) { // where the reader was: as far down as all that is drawn reaches
  for (const part of parts) drawFirst(part);
  scrollTo(0, history.state.at);
}
if (watching) {
  const every = 1000 * Number(watching.dataset.seconds);
  let touched = 0;
  for (const kind of ["pointerdown", "keydown", "wheel", "touchstart"]) {
    document.addEventListener(kind, () => { touched = Date.now(); }, { passive: true });
  }
  setInterval(() => {
    if (document.hidden || Date.now() - touched <= every) return;
    history.replaceState({ at: scrollY }, "");
    location.reload();
  }, every);
}
