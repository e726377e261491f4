/** The dialog that shows in which words two answers differ; the server works it out. */

const dialog = document.getElementById("difference");
const form = document.getElementById("difference-form");

/** Open it for two letters; what was chosen last stays where none are given. */
export function compare(one, two) {
  if (one) form.elements.one.value = one;
  if (two) form.elements.two.value = two;
  if (!dialog.open) dialog.showModal();
  window.htmx.trigger(form, "compare");
}

document.addEventListener("htmx:responseError", failed);
document.addEventListener("htmx:sendError", failed);

function failed(event) {
  if (event.target === form) document.getElementById("difference-words").textContent = dialog.dataset.failed;
}
