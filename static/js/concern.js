/** The drawer "Ask or flag": questions to the admins and flags, sent without leaving the task. */

import { newId, send } from "./api.js";
import { fill } from "./assignment.js";
import { keysListen } from "./keys.js";

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const data = read("page-data");
const words = read("wording");
const drawer = document.getElementById("concern");
const said = drawer.querySelector("[data-said]");
const when = new Intl.DateTimeFormat(document.documentElement.lang, {
  dateStyle: "medium",
  timeStyle: "short",
  hourCycle: "h23",
});

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function noteItem(note) {
  const item = element("li", note.mine ? "note" : "note answer", "");
  const who = note.mine ? words.you : words.an_admin;
  const text = element("p", "note-text", note.text);
  text.dir = "auto";
  item.append(element("p", "tiny", `${who} · ${when.format(new Date(note.at))}`), text);
  return item;
}

function show({ notes, flags }) {
  const list = element("ol", "clean thread", "");
  list.append(...notes.map(noteItem));
  drawer.querySelector("[data-notes]").replaceChildren(...(notes.length ? [list] : []));
  drawer.querySelector("[data-flags]").replaceChildren(
    ...flags.map((flag) => {
      const what = [flag.category, flag.words].filter(Boolean).join(": ");
      const text = flag.answer ? words.flagged_answer : words.flagged;
      return element("li", "tiny", fill(text, { what, letter: flag.answer }));
    }),
  );
}

function tell(level, text) {
  said.className = `notice ${level}`;
  said.textContent = text;
  said.hidden = false;
}

const ask = (method, name, body) => send(method, data.urls[name], body, { csrfCookie: data.csrf_cookie });

/** Send a form's fields; the same client id until it went through, so that a retry counts once. */
function sends(form, name, thanks) {
  let clientId = newId();
  let busy = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (busy) return;
    busy = true;
    try {
      show(await ask("POST", name, { client_id: clientId, ...Object.fromEntries(new FormData(form)) }));
      clientId = newId();
      form.reset();
      tell("good", thanks);
    } catch (error) {
      tell("bad", error.message || words.offline);
    }
    busy = false;
  });
}

sends(drawer.querySelector("[data-ask]"), "note", words.sent);
sends(drawer.querySelector("[data-flag]"), "flag", words.flag_sent);

document.addEventListener("click", async (event) => {
  if (!event.target.closest("[data-dialog=concern]")) return;
  said.hidden = true;
  try {
    show(await ask("POST", "concerns", {}));
    document.getElementById("answer-here")?.remove();
  } catch {
    /* offline: what the page came with stays */
  }
});

keysListen({
  bare: (key) => {
    if (key.toLowerCase() !== "m") return false;
    document.querySelector("[data-dialog=concern]").click();
    return true;
  },
});
