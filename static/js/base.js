/** What every page shares: the theme switch, menus, dialogs, local times, copying, and forms that are sent once. */

const YEAR = 365 * 24 * 3600;

function themeApply(choice) {
  if (choice) {
    document.documentElement.dataset.theme = choice;
  } else {
    delete document.documentElement.dataset.theme;
  }
  const secure = location.protocol === "https:" ? "; Secure" : "";
  document.cookie = `theme=${choice}; Path=/; Max-Age=${choice ? YEAR : 0}; SameSite=Lax${secure}`;
  for (const button of document.querySelectorAll("[data-theme-choice]")) {
    button.setAttribute("aria-pressed", String(button.dataset.themeChoice === choice));
  }
}

function menusClose(except) {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (menu !== except) menu.open = false;
  }
}

/** Write each <time data-local="time|date|both"> in the reader's own clock. */
function timesLocalise(root = document) {
  for (const element of root.querySelectorAll("time[data-local]")) {
    const when = new Date(element.dateTime);
    if (Number.isNaN(when.getTime())) continue;
    const how = element.dataset.local;
    element.textContent = new Intl.DateTimeFormat(document.documentElement.lang, {
      dateStyle: how === "time" ? undefined : "medium",
      timeStyle: how === "date" ? undefined : "short",
      hourCycle: how === "date" ? undefined : "h23",
    }).format(when);
    element.title = when.toString();
  }
}

const SCROLLS = ".read pre, .read table, .ranking-prompt, .writing-prompt";

/** What scrolls by itself (long code, wide tables, a long prompt) is reached by keyboard while it does. */
const scrollers = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const over = target.scrollWidth > target.clientWidth + 1 || target.scrollHeight > target.clientHeight + 1;
    if (over && target.tabIndex < 0) {
      target.dataset.reached = target.getAttribute("tabindex") ?? "";
      target.tabIndex = 0;
    } else if (!over && target.dataset.reached !== undefined) {
      if (target.dataset.reached) target.setAttribute("tabindex", target.dataset.reached);
      else target.removeAttribute("tabindex");
      delete target.dataset.reached;
    }
  }
});

function scrollersReach(root = document) {
  for (const element of root.querySelectorAll(SCROLLS)) scrollers.observe(element);
}

/** How much the bar at the foot covers, of which there may be several, one shown at a time. */
function footMeasure() {
  const bars = [...document.querySelectorAll(".actions-bar")];
  const measure = () => {
    const height = Math.max(...bars.map((bar) => bar.offsetHeight));
    document.documentElement.style.setProperty("--foot", `${height}px`);
  };
  const sized = new ResizeObserver(measure);
  for (const bar of bars) sized.observe(bar);
}

async function copy(button) {
  const source = document.getElementById(button.dataset.copy);
  const text = "value" in source ? source.value : source.textContent.trim();
  await navigator.clipboard.writeText(text);
  const label = button.querySelector("[data-copy-label]") ?? button;
  const before = label.textContent;
  label.textContent = button.dataset.copied ?? "Copied";
  setTimeout(() => (label.textContent = before), 2000);
}

document.addEventListener("click", (event) => {
  const target = event.target instanceof Element ? event.target : null;
  if (!target) return;
  menusClose(target.closest("details.menu"));
  const choice = target.closest("[data-theme-choice]");
  if (choice) themeApply(choice.dataset.themeChoice);
  const opener = target.closest("[data-dialog]");
  if (opener) document.getElementById(opener.dataset.dialog)?.showModal();
  const closer = target.closest("[data-close]");
  if (closer) closer.closest("dialog")?.close();
  if (target instanceof HTMLDialogElement && target.matches(".drawer")) target.close();
  const copier = target.closest("[data-copy]");
  if (copier) copy(copier);
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const menu = document.querySelector("details.menu[open]");
  if (!menu) return;
  menu.open = false;
  menu.querySelector("summary").focus();
});

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches("form[data-once]")) return;
  if (form.dataset.sent) {
    event.preventDefault();
    return;
  }
  form.dataset.sent = "yes";
});
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

for (const group of document.querySelectorAll("[data-theme-switch]")) group.hidden = false;
timesLocalise();
scrollersReach();
footMeasure();
for (const shown of ["htmx:afterSwap", "shown"]) {
  document.addEventListener(shown, (event) => {
    timesLocalise(event.target);
    scrollersReach(event.target);
  });
}
