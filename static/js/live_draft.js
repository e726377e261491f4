/** What is typed of a live prompt: on the server within a second, and on this device until it is there. */

import { newId, send } from "./api.js";
import { fill } from "./assignment.js";
import { Kept, ServerClock } from "./kept.js";

const SAVE_AFTER = 600; // ms without typing
const SAVE_WITHIN = 1_000; // however long one types without a pause
const RETRY_AFTER = 5_000;

export class LiveDraft {
  /** `read()` gives {text, use_case} as they stand, `write(draft)` puts them on the page. */
  constructor({ page, words, read, write }) {
    Object.assign(this, { page, words, read });
    this.kept = new Kept(page.key);
    this.clock = new ServerClock(Date.parse(page.now));
    this.status = document.getElementById("saved");
    this.spoken = document.getElementById("saved-spoken");
    this.id = newId();
    this.asked = false; // whether the server may know this id as a prompt
    this.asking = false;
    this.saved = true;
    this.timer = null;
    this.since = null;
    this.#begin(write);
    addEventListener("online", () => this.#save());
    addEventListener("pagehide", () => this.#saveLeaving());
    document.addEventListener("visibilitychange", () => document.hidden && this.#saveLeaving());
  }

  /** Call after every change. Another text than the one that was asked is another prompt. */
  typed() {
    if (this.asked) this.renew();
    this.saved = false;
    this.#keep();
    this.#say("saving", this.words.saving);
    clearTimeout(this.timer);
    this.since ??= performance.now();
    const wait = Math.min(SAVE_AFTER, this.since + SAVE_WITHIN - performance.now());
    this.timer = setTimeout(() => this.#save(), Math.max(wait, 0));
  }

  /** It is asked now: what is sent. A second try of the same text is the same prompt. */
  ask() {
    clearTimeout(this.timer);
    this.asked = this.asking = true;
    this.#keep();
    return { client_id: this.id, ...this.read() };
  }

  /** It may not have arrived: it is a draft as before. */
  failed() {
    this.asking = this.saved = false;
    this.#keep();
    this.#save();
  }

  /** The next one is another prompt. */
  renew() {
    this.id = newId();
    this.asked = false;
  }

  /** The server has it as a prompt. */
  done() {
    this.asking = false;
    this.saved = true;
    this.kept.forget("");
    this.renew();
    this.status.hidden = true;
  }

  /** The later one of what the server and what this device has. */
  #begin(write) {
    const theirs = this.page.draft && { ...this.page.draft, id: this.page.draft.client_id };
    const ours = this.kept.read();
    const later = !theirs || (ours?.at ?? 0) > Date.parse(theirs.saved_at) ? ours : theirs;
    if (!later?.text) return;
    write(later);
    this.id = later.id ?? this.id;
    this.asked = later.asked ?? false;
    if (later === theirs) this.#saidSaved(theirs.saved_at);
    else if (!this.asked) this.typed();
  }

  #keep() {
    this.kept.write({ ...this.read(), id: this.id, asked: this.asked, at: this.clock.now() });
  }

  #send(options = {}) {
    const body = { client_id: this.id, ...this.read() };
    return send("PUT", this.page.draft_url, body, { csrfCookie: this.page.csrf_cookie, ...options });
  }

  async #save() {
    clearTimeout(this.timer);
    if (this.saved || this.asking) return;
    this.saved = true;
    this.since = null;
    try {
      const answer = await this.#send();
      if (!this.saved || this.asking) return; // typed or asked meanwhile
      this.clock.set(Date.parse(answer.saved_at));
      this.kept.forget("");
      this.#saidSaved(answer.saved_at);
    } catch (error) {
      this.saved = false;
      if (this.asking) return;
      const away = error.unreachable || error.signedOut;
      if (away) this.#say("offline", this.words.offline);
      else this.#say("failed", fill(this.words.failed, { message: error.message }));
      this.timer = setTimeout(() => this.#save(), RETRY_AFTER);
    }
  }

  #saveLeaving() {
    if (!this.saved && !this.asking) this.#send({ keepalive: true }).catch(() => {});
  }

  #saidSaved(at) {
    this.#say("saved", fill(this.words.saved, { time: this.clock.shown(Date.parse(at)) }));
  }

  /** Shown at every save; read aloud only where saving fails. */
  #say(state, text) {
    this.status.hidden = false;
    this.status.dataset.state = state;
    this.status.textContent = text;
    if (state === "offline" || state === "failed") this.spoken.textContent = text;
  }
}
