/** Dialogs that the server wants open at once, because what was sent from them has errors. */

for (const dialog of document.querySelectorAll("dialog[data-open]")) dialog.showModal();
