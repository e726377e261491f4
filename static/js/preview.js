/** What is written, as it will look (rendered and sanitised by the server), and its length in the model's tokens. */

import { send } from "./api.js";
import { remember, remembered } from "./kept.js";

const ASK_AFTER = 350; // ms without typing
const BESIDE = "(min-width: 1200px)"; // wide enough for text and preview side by side
const OFF = "labelapp:preview-off";

export class Preview {
  /** `onTokens(count)` is told the length, null while it is not known. */
  constructor({ editor, page, onTokens }) {
    this.editor = editor;
    this.page = page;
    this.onTokens = onTokens;
    this.pane = document.getElementById("preview");
    this.button = document.getElementById("preview-switch");
    this.frame = document.getElementById("writing");
    this.wide = matchMedia(BESIDE);
    this.asked = 0;
    this.timer = null;
    this.button.addEventListener("click", () => this.toggle());
    this.wide.addEventListener("change", () => this.#show(this.wide.matches && this.#wanted()));
    addEventListener("online", () => this.refresh(0));
    this.#show(this.wide.matches && this.#wanted());
  }

  get shown() {
    return !this.pane.hidden;
  }

  /** On a wide screen the choice stays with this device; a narrow one always begins with the text. */
  toggle() {
    const on = !this.shown;
    if (this.wide.matches) {
      remember(OFF, !on);
    }
    this.#show(on);
    if (on && !this.wide.matches) this.pane.focus();
    else this.editor.focus();
  }

  /** Ask the server again, a moment after the last call. */
  refresh(after = ASK_AFTER) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#ask(), after);
  }

  #wanted() {
    return !remembered(OFF);
  }

  #show(on) {
    this.pane.hidden = !on;
    this.button.setAttribute("aria-pressed", String(on));
    this.frame.classList.toggle("previewing", on);
  }

  async #ask() {
    const text = this.editor.value;
    this.asked += 1;
    const turn = this.asked;
    if (!text.trim()) {
      this.#say(this.page.words.preview_empty);
      this.onTokens(null);
      return;
    }
    try {
      const options = { csrfCookie: this.page.data.csrf_cookie };
      const answer = await send("POST", this.page.data.urls.preview, { text }, options);
      if (turn !== this.asked) return;
      this.pane.innerHTML = answer.html; // held against the server's allow-list
      for (const link of this.pane.querySelectorAll("a")) link.target = "_blank";
      this.pane.dispatchEvent(new CustomEvent("shown", { bubbles: true }));
      this.onTokens(answer.tokens);
    } catch {
      if (turn !== this.asked) return;
      if (!this.pane.childElementCount || this.pane.dataset.says) this.#say(this.page.words.preview_away);
      this.onTokens(null);
      return;
    }
    delete this.pane.dataset.says;
  }

  #say(text) {
    const line = document.createElement("p");
    line.className = "quiet";
    line.textContent = text;
    this.pane.replaceChildren(line);
    this.pane.dataset.says = "yes";
  }
}
