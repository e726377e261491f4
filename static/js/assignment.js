/**
 * One assignment in work, whatever its kind: the draft (server, and this device when the network is
 * down), the lease and its heartbeat, active time, submit and skip.
 */

import { csrfToken, newId, send } from "./api.js";
import { Kept, ServerClock, windowOf } from "./kept.js";

const SAVE_AFTER = 600; // ms without typing
const SAVE_WITHIN = 1_000; // however long one types without a pause
const RETRY_AFTER = 5_000;
const BEAT_EVERY = 60_000;
const IDLE_AFTER = 60_000; // time without a sign of the person is not counted
const LONGEST_IDLE = 24 * 3600_000; // a page left open counts no further
const GONE_AFTER = 15 * 60_000; // after that, the lease is left to lapse
const PAUSED_AFTER = 60 * 60_000; // a pause holds the task so long
const WARN_BEFORE = 5 * 60_000; // a lapse is announced so long before
const SLEPT = 10_000; // a device's clock that leaps so far has slept, or was set

const read = (id) => JSON.parse(document.getElementById(id).textContent);

export const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");

export class AssignmentPage {
  /** `draftRead()` gives the draft as it stands, `draftWrite(draft)` puts one on the page. */
  constructor({ draftRead, draftWrite }) {
    this.data = read("page-data");
    this.words = read("wording");
    this.draftRead = draftRead;
    this.draftWrite = draftWrite;
    this.kept = new Kept(`labelapp:draft:${this.data.id}`);
    // a draft of the server's without one was handed in and opened again: this will be another submit
    const kept = this.data.draft_saved_at ? undefined : this.kept.read()?.draft?.client_id;
    this.clientId = this.data.draft.client_id ?? kept ?? newId();
    this.window = newId();
    this.over = this.data.draft.stamp ?? this.data.draft_saved_at; // the draft that this page begins with
    this.clock = new ServerClock(Date.parse(this.data.now));
    this.leaseUntil = Date.parse(this.data.lease_until);
    this.activeMs = this.data.active_ms;
    this.idleMs = this.data.idle_ms;
    this.lastSign = performance.now();
    this.revision = 0;
    this.savedRevision = 0;
    this.timer = null;
    this.unsavedSince = null;
    this.busy = false;
    this.closed = false;
    this.title = document.title;
    this.status = document.getElementById("saved");
    this.spoken = document.getElementById("saved-spoken");
    this.notice = document.getElementById("task-notice");
  }

  start() {
    this.#draftRestore();
    this.#clocks();
    addEventListener("online", () => this.#saveNow());
    addEventListener("offline", () => this.#say("offline", this.words.offline));
    addEventListener("pagehide", () => this.#saveLeaving());
    addEventListener("submit", (event) => this.#tokenRenew(event.target));
    addEventListener("pageshow", (event) => event.persisted && location.reload()); // back to what was
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.#saveLeaving();
      else this.#beat();
    });
    for (const kind of ["keydown", "pointerdown", "pointermove", "wheel", "touchstart"]) {
      addEventListener(kind, () => (this.lastSign = performance.now()), { passive: true });
    }
    this.#beat();
  }

  /** Call after every change of the page's content. */
  changed() {
    if (this.closed) return;
    this.revision += 1;
    this.#keep();
    this.#say("saving", this.words.saving);
    clearTimeout(this.timer);
    this.unsavedSince ??= performance.now();
    const wait = Math.min(SAVE_AFTER, this.unsavedSince + SAVE_WITHIN - performance.now());
    this.timer = setTimeout(() => this.#saveNow(), Math.max(wait, 0));
  }

  /** Hand in `content` ({text} or {groups}); goes on to the next task. Tries until it is told yes or no. */
  async submit(content) {
    if (this.closed) return;
    this.closed = true;
    clearTimeout(this.timer);
    this.#busy(true);
    this.#keep();
    const body = {
      client_id: this.clientId,
      draft: this.draftRead(),
      ...this.#times(),
      ...content,
    };
    this.#say("saving", this.words.submitting);
    for (;;) {
      try {
        const answer = await this.#send("POST", "submit", body);
        this.#next(answer.state);
        return;
      } catch (error) {
        if (!error.unreachable) {
          this.#refused(error);
          return;
        }
        this.#tell("warn", this.words.submit_waits);
        this.#say("offline", this.words.offline);
        await this.#untilOnline();
      }
    }
  }

  async skip(reason) {
    await this.#send("POST", "skip", { reason });
    this.closed = true;
    this.#next("skipped");
  }

  #send(method, name, body, options = {}) {
    return send(method, this.data.urls[name], body, { csrfCookie: this.data.csrf_cookie, ...options });
  }

  #next(after) {
    this.kept.forget(this.window);
    const form = document.getElementById("next-form");
    form.elements.after.value = after;
    this.#tokenRenew(form);
    form.submit();
  }

  /** The page's own forms may be older than the last signing in. */
  #tokenRenew(form) {
    const field = form.elements.csrfmiddlewaretoken;
    if (field) field.value = csrfToken(this.data.csrf_cookie);
  }

  #refused(error) {
    this.closed = false;
    this.#busy(false);
    this.#say("failed", fill(this.words.failed, { message: error.message }));
    this.#tell("bad", error.signedOut ? this.words.signed_out : error.message, {
      link: error.signedOut || error.status === 409,
    });
  }

  #untilOnline() {
    return new Promise((resolve) => {
      const done = () => {
        removeEventListener("online", done);
        clearTimeout(timer);
        resolve();
      };
      const timer = setTimeout(done, RETRY_AFTER);
      addEventListener("online", done);
    });
  }

  // --- the draft

  #draft() {
    return { ...this.draftRead(), client_id: this.clientId, stamp: `${this.window}:${this.revision}` };
  }

  #keep() {
    const { activeMs, idleMs, over } = this;
    this.kept.write({ draft: this.#draft(), over, at: this.clock.now(), activeMs, idleMs });
  }

  #draftRestore() {
    const kept = this.kept.read();
    const savedAt = this.data.draft_saved_at ? Date.parse(this.data.draft_saved_at) : 0;
    const theirs = this.over;
    if (kept?.draft && (kept.over === theirs || windowOf(kept.draft.stamp) === windowOf(theirs))) {
      const stamp = kept.draft.stamp ?? "";
      this.window = windowOf(stamp) || this.window; // this window goes on where that one ended
      this.revision = Number(stamp.slice(stamp.lastIndexOf(":") + 1)) || 0;
      this.draftWrite(kept.draft);
      this.activeMs = Math.max(this.activeMs, kept.activeMs ?? 0);
      this.idleMs = Math.max(this.idleMs, kept.idleMs ?? 0);
      this.changed();
      return;
    }
    this.draftWrite(this.data.draft);
    if (savedAt) this.#saidSaved(savedAt);
    else this.#say("", this.words.nothing_yet);
    if (kept) {
      this.#tell("", fill(this.words.other_copy, { time: this.clock.shown(kept.at) }), {
        action: "other-copy",
        then: () => {
          this.draftWrite(kept.draft);
          this.changed();
        },
      });
    }
  }

  async #saveNow() {
    clearTimeout(this.timer);
    if (this.closed || this.busy || this.revision === this.savedRevision) return;
    this.busy = true;
    this.unsavedSince = null;
    const revision = this.revision;
    try {
      const answer = await this.#send("PUT", "draft", this.#draftBody());
      this.savedRevision = revision;
      if (revision === this.revision) {
        this.kept.forget(this.window);
        this.clock.set(Date.parse(answer.saved_at));
        this.#saidSaved(Date.parse(answer.saved_at));
        this.#tellNothing("signed-out");
      }
    } catch (error) {
      this.#saveFailed(error);
    } finally {
      this.busy = false;
      if (this.revision !== this.savedRevision && !this.closed) {
        const again = revision === this.revision ? RETRY_AFTER : SAVE_AFTER;
        this.timer = setTimeout(() => this.#saveNow(), again);
      }
    }
  }

  #saveFailed(error) {
    if (error.unreachable) {
      this.#say("offline", this.words.offline);
    } else if (error.signedOut) {
      this.#say("offline", this.words.offline);
      this.#tell("warn", this.words.signed_out, { about: "signed-out", link: true });
    } else {
      this.#say("failed", fill(this.words.failed, { message: error.message }));
      if (error.status === 409) {
        this.closed = true;
        this.#busy(true);
        this.#tell("bad", error.message, { link: true });
      }
    }
  }

  #draftBody() {
    return { draft: this.#draft(), over: this.over, token: this.data.token, ...this.#times() };
  }

  #times() {
    return { active_ms: Math.round(this.activeMs), idle_ms: Math.round(this.idleMs) };
  }

  #saveLeaving() {
    if (this.closed || this.revision === this.savedRevision) return;
    this.#send("PUT", "draft", this.#draftBody(), { keepalive: true }).catch(() => {});
  }

  // --- time: what is counted, and how long the task is held

  #clocks() {
    let before = performance.now();
    let leap = Date.now() - before;
    setInterval(() => {
      const now = performance.now();
      if (Math.abs(Date.now() - now - leap) > SLEPT) {
        leap = Date.now() - now;
        this.#beat();
      }
      const idle = now - this.lastSign > IDLE_AFTER;
      const counted = document.hidden || idle || this.#paused() ? 0 : Math.min(now - before, 2_000);
      this.activeMs += counted;
      this.idleMs += Math.min(now - before - counted, LONGEST_IDLE - this.idleMs);
      if (counted) document.dispatchEvent(new CustomEvent("worked", { detail: counted }));
      before = now;
      this.#leaseWatch();
    }, 1_000);
    setInterval(() => {
      const paused = this.#paused();
      const here = !document.hidden && performance.now() - this.lastSign < GONE_AFTER;
      if (paused ? paused < PAUSED_AFTER : here) this.#beat();
    }, BEAT_EVERY);
    this.#leaseWatch();
  }

  /** Milliseconds since a pause began; 0 while there is none. */
  #paused() {
    const since = Number(document.body.dataset.paused);
    return since ? Math.max(Date.now() - since, 1) : 0;
  }

  async #beat() {
    if (this.closed || this.data.correcting) return;
    try {
      const answer = await this.#send("POST", "heartbeat", { token: this.data.token });
      this.leaseUntil = Date.parse(answer.lease_until);
      this.clock.set(Date.parse(answer.now));
      this.#tellNothing("lease");
      this.#tellNothing("signed-out");
      this.#leaseWatch();
    } catch (error) {
      if (error.code === "lease_expired") {
        this.leaseUntil = null;
        this.#tell("warn", this.words.lapsed_taken, { about: "lease" });
      } else if (error.status === 409) {
        this.closed = true;
        this.#busy(true);
        this.#tell("bad", error.message, { link: true });
      } else if (error.signedOut) {
        this.#tell("warn", this.words.signed_out, { about: "signed-out", link: true });
      }
    }
  }

  #leaseWatch() {
    const shown = document.getElementById("active-time");
    if (shown) shown.textContent = fill(this.words.minutes, { n: Math.floor(this.activeMs / 60_000) });
    const held = this.leaseUntil !== null && !this.closed && !this.data.correcting;
    const left = held ? this.leaseUntil - this.clock.now() : Infinity;
    const warn = Math.min(WARN_BEFORE, (this.data.lease_seconds * 1000) / 3);
    document.title = document.hidden && left < warn ? this.words.title_lapsing : this.title;
    if (left <= 0) {
      this.#tell("warn", this.words.lapsed, { about: "lease", action: "keep", then: () => this.#beat() });
    } else if (left < warn) {
      const text = fill(this.words.lapsing, { time: this.clock.shown(this.leaseUntil) });
      this.#tell("warn", text, { about: "lease", action: "keep", then: () => this.#beat() });
    }
  }

  // --- what the page says

  #saidSaved(when) {
    this.#say("saved", fill(this.words.saved, { time: this.clock.shown(when) }));
  }

  /** Shown at every save; read aloud only where saving fails, and once it is well again. */
  #say(state, text) {
    if (state === "saving" && !navigator.onLine) return;
    this.status.dataset.state = state;
    this.status.textContent = text;
    const ill = state === "offline" || state === "failed";
    if (!ill && !(this.ill && state === "saved")) return;
    this.ill = ill;
    this.spoken.textContent = text;
  }

  #tell(level, text, { link = false, action = null, then = null, about = "" } = {}) {
    if (this.notice.dataset.text === text) return;
    this.notice.dataset.text = text;
    this.notice.dataset.about = about;
    this.notice.className = `notice ${level}`;
    this.notice.querySelector("[data-says]").textContent = text;
    this.notice.querySelector("[data-away]").hidden = !link;
    for (const button of this.notice.querySelectorAll("[data-action]")) {
      button.hidden = button.dataset.action !== action;
      button.onclick = () => {
        this.#tellNothing(about);
        then?.();
      };
    }
    this.notice.hidden = false;
  }

  #tellNothing(about) {
    if (this.notice.dataset.about !== about) return;
    this.notice.hidden = true;
    this.notice.dataset.text = "";
  }

  #busy(busy) {
    document.body.classList.toggle("busy", busy);
    for (const button of document.querySelectorAll("[data-busy]")) button.setAttribute("aria-busy", String(busy));
    this.onBusy?.(busy);
  }
}

/** The skip dialog: a reason from the list, words of one's own, or both. */
export function skipDialog(page) {
  const dialog = document.getElementById("skip");
  const form = dialog.querySelector("form");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const said = new FormData(form);
    const reason = [said.get("reason"), (said.get("words") ?? "").trim()].filter(Boolean).join(": ");
    const complaint = form.querySelector("[data-complaint]");
    if (!reason) {
      complaint.hidden = false;
      form.elements.words.focus();
      return;
    }
    try {
      await page.skip(reason.slice(0, 200));
    } catch (error) {
      complaint.textContent = error.message || page.words.offline;
      complaint.hidden = false;
    }
  });
}
