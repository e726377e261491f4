/** The instructions: in a drawer, or on wide screens kept open beside the text, as this device remembers. */

import { remember, remembered } from "./kept.js";

const BESIDE = "labelapp:instructions-beside";
const WIDE = "(min-width: 1001px)";

export class Instructions {
  constructor() {
    this.drawer = document.getElementById("instructions");
    this.aside = document.getElementById("beside");
    this.text = document.getElementById("instructions-text");
    this.place = document.getElementById("beside-text");
    this.wide = matchMedia(WIDE);
    document.getElementById("beside-open").addEventListener("click", () => this.keep(true));
    document.getElementById("beside-close").addEventListener("click", () => this.keep(false));
    for (const opener of document.querySelectorAll("[data-dialog=instructions]")) {
      delete opener.dataset.dialog;
      opener.addEventListener("click", () => this.show());
    }
    this.wide.addEventListener("change", () => this.#arrange());
    this.#arrange();
  }

  get beside() {
    return this.wide.matches && remembered(BESIDE);
  }

  /** Bring them before the reader, wherever they are. */
  show() {
    if (this.beside) this.aside.focus();
    else this.drawer.showModal();
  }

  keep(beside) {
    remember(BESIDE, beside);
    this.drawer.close();
    this.#arrange();
    if (beside) this.aside.focus();
    else document.getElementById("answer").focus();
  }

  #arrange() {
    this.aside.hidden = !this.beside;
    (this.beside ? this.place : this.drawer).append(this.text);
  }
}
