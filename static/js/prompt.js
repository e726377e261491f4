/**
 * A long prompt is folded where it stands above the work (a phone, a tablet): else the way to each answer leads
 * through all of it. The whole is a press away, and a screen reader has it anyway.
 */

const WORTH = 80; // px: less than that is not hidden behind a button

const body = document.getElementById("prompt-body");
const button = document.getElementById("prompt-fold");
let open = false;

/** Whether the style sheet would hide enough of it. */
function folds() {
  body.classList.add("folded");
  return body.scrollHeight - body.clientHeight > WORTH;
}

function draw() {
  const long = folds();
  body.classList.toggle("folded", long && !open);
  body.scrollTop = 0;
  button.hidden = !long;
  button.setAttribute("aria-expanded", String(open));
}

/** Fold it, where it is long: the work has gone on. */
export function promptFold() {
  open = false;
  if (button) draw();
}

if (button) {
  button.addEventListener("click", () => {
    open = !open;
    draw();
  });
  body.addEventListener("focusin", () => {
    open = true; // what has the focus is seen
    draw();
  });
  addEventListener("resize", draw);
  document.fonts.ready.then(draw);
  draw();
}
