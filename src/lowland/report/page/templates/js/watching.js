// While training goes on the page loads itself anew, but not under the hands of somebody who is at it.

const watching = find("#watching");
if (watching) {
  const every = 1000 * Number(watching.dataset.seconds);
  let touched = 0;
  for (const kind of ["pointerdown", "keydown", "wheel", "touchstart"]) {
    document.addEventListener(kind, () => { touched = Date.now(); }, { passive: true });
  }
  setInterval(() => {
    if (!document.hidden && Date.now() - touched > every) location.reload();
  }, every);
}
