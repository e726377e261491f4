/** A field that the browser refuses opens the folded section it is in, so that it can be gone to. */

document.addEventListener("invalid", (event) => event.target.closest("details")?.setAttribute("open", ""), true);
