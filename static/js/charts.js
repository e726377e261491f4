/**
 * The charts of the admins' pages: curves with axes, hover values, both themes, and the figures as a table.
 *
 * A <figure data-chart> names where its figures are (data-url) and which curves it draws (data-series). While
 * the page's live region is [data-running], the figures are fetched again, each address once for all charts.
 * uPlot comes as a plain script and is window.uPlot. Styles are set through the CSSOM, never as attributes.
 */

const IDLE_MS = 2000;
const TABLE_ROWS = 200;
const COLOURS = ["--accent", "--warn", "--good", "--bad"];
const charts = new Map();
const probe = document.createElement("span");
probe.hidden = true;
document.body.append(probe);

/** A token's colour as the theme has it now: light-dark() is resolved by the browser. */
function colour(token) {
  probe.style.color = `var(${token})`;
  return getComputedStyle(probe).color;
}

function translucent(rgb, alpha) {
  return rgb.replace(/^rgb\(([^)]+)\)$/, `rgba($1, ${alpha})`);
}

const language = document.documentElement.lang || "en";
const few = new Intl.NumberFormat(language, { maximumSignificantDigits: 4 });
const share = new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short", hourCycle: "h23" });
const hour = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(language, { day: "numeric", month: "short" });

/** Hours, with the day under the first one of each day; days alone where ticks are that far apart. */
function times(ticks) {
  const days = ticks.map((t) => day.format(new Date(t * 1000)));
  if (ticks[1] - ticks[0] >= 86_400) return days;
  return ticks.map((t, i) => hour.format(new Date(t * 1000)) + (days[i] === days[i - 1] ? "" : `\n${days[i]}`));
}

class Chart {
  constructor(figure) {
    this.figure = figure;
    this.url = figure.dataset.url;
    this.wanted = JSON.parse(figure.dataset.series);
    this.time = figure.dataset.x === "time";
    this.percent = "percent" in figure.dataset;
    this.plotted = figure.querySelector("[data-plot]");
    this.legend = figure.querySelector("[data-legend]");
    this.shown = [];
    this.data = null;
    this.plot = null;
    new ResizeObserver(() => this.resize()).observe(this.plotted);
  }

  value(number) {
    if (number === null || number === undefined) return "–";
    return this.percent ? share.format(number) : few.format(number);
  }

  at(x) {
    return this.time ? clock.format(new Date(x * 1000)) : `${this.figure.dataset.xLabel} ${few.format(x)}`;
  }

  /** Take new figures; null where there are none. */
  take(answer) {
    const x = answer?.t ?? answer?.steps ?? [];
    const shown = this.wanted.filter((one) => answer?.series?.[one.name]?.some((v) => v !== null));
    const empty = x.length === 0 || shown.length === 0;
    this.figure.querySelector("[data-empty]").hidden = !empty;
    this.figure.querySelector("[data-figures]").hidden = empty;
    this.plotted.hidden = this.legend.hidden = empty;
    if (empty) return;
    const data = [x, ...shown.map((one) => answer.series[one.name])];
    const same = this.plot && shown.map((s) => s.name).join() === this.shown.map((s) => s.name).join();
    this.data = data;
    this.shown = shown;
    if (same) this.plot.setData(data);
    else this.draw();
    this.read(this.plot.cursor.idx);
    this.describe();
    this.tabulate();
  }

  /** Build the plot afresh: at first, when the theme changes, when another curve appears. */
  draw() {
    if (!this.data) return;
    this.plot?.destroy();
    const [ink, line] = [colour("--ink-3"), colour("--line")];
    const font = `11px ${getComputedStyle(document.body).fontFamily}`;
    const axis = { stroke: ink, font, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1, size: 4 } };
    this.plot = new window.uPlot(
      {
        width: Math.max(this.plotted.clientWidth, 120),
        height: 190,
        legend: { show: false },
        cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false } },
        scales: { x: { time: this.time }, y: { range: (u, low, high) => this.range(low, high) } },
        axes: [
          { ...axis, label: this.time ? undefined : this.figure.dataset.xLabel, labelFont: font, labelSize: 16, size: this.time ? 40 : 28,
            values: (u, ticks) => (this.time ? times(ticks) : ticks.map((t) => (Number.isInteger(t) ? few.format(t) : ""))) },
          { ...axis, size: 52, values: (u, ticks) => ticks.map((t) => this.value(t)) },
        ],
        series: [{}, ...this.shown.map((one, i) => this.curve(i))],
        hooks: { setCursor: [(u) => this.read(u.cursor.idx)] },
      },
      this.data,
      this.plotted,
    );
  }

  curve(i) {
    const stroke = colour(COLOURS[i % COLOURS.length]);
    const points = this.data[i + 1].filter((v) => v !== null).length;
    return {
      stroke,
      width: 2,
      dash: i % 2 ? [6, 4] : undefined,
      spanGaps: true,
      fill: i === 0 && !this.time ? translucent(stroke, 0.07) : undefined,
      paths: this.time ? window.uPlot.paths.stepped({ align: 1 }) : undefined,
      points: { show: points < 40 && !this.time, size: 5 },
    };
  }

  range(low, high) {
    if (low === null) return [0, 1];
    if (this.time) return [0, Math.max(high * 1.05, 1)];
    const room = (high - low) * 0.08 || Math.abs(high) * 0.05 || 0.5;
    const top = this.percent ? Math.min(high + room, 1) : high + room;
    return [low >= 0 ? Math.max(low - room, 0) : low - room, top === low ? top + room : top];
  }

  /** The values under the pointer, each the last one known there; without a pointer, the newest. */
  read(index) {
    if (!this.data) return;
    const x = this.data[0];
    const i = index ?? x.length - 1;
    const where = document.createElement("span");
    where.className = "tiny";
    where.textContent = this.at(x[i]);
    this.legend.replaceChildren(
      ...this.shown.map((one, n) => {
        const item = document.createElement("span");
        item.className = `chart-key key-${n % COLOURS.length}`;
        const value = document.createElement("b");
        value.className = "num";
        value.textContent = this.value(last(this.data[n + 1].slice(0, i + 1)));
        item.append(one.label, " ", value);
        return item;
      }),
      where,
    );
  }

  describe() {
    const summary = this.figure.querySelector("[data-summary]");
    summary.textContent = this.shown
      .map((one, n) => {
        const known = this.data[n + 1].filter((v) => v !== null);
        const said = { name: one.label, first: known[0], last: known.at(-1), low: Math.min(...known), high: Math.max(...known) };
        return summary.dataset.template.replace(/\{(\w+)\}/g, (_, key) => (key === "name" ? said.name : this.value(said[key])));
      })
      .join(" ");
  }

  tabulate() {
    const details = this.figure.querySelector("[data-figures]");
    details.ontoggle ??= () => this.tabulate();
    if (!details.open) return;
    const heads = [this.figure.dataset.xLabel, ...this.shown.map((one) => one.label)];
    const skip = Math.ceil(this.data[0].length / TABLE_ROWS);
    const rows = this.data[0]
      .map((x, i) => [this.time ? clock.format(new Date(x * 1000)) : few.format(x), ...this.data.slice(1).map((s) => this.value(s[i]))])
      .filter((_, i) => i % skip === 0 || i === this.data[0].length - 1);
    details.querySelector("thead").replaceChildren(row(heads, "th", "col"));
    details.querySelector("tbody").replaceChildren(...rows.map((cells) => row(cells, "td")));
  }

  resize() {
    const width = this.plotted.clientWidth;
    if (this.plot && width && Math.abs(width - this.plot.width) > 1) this.plot.setSize({ width, height: this.plot.height });
  }
}

function last(values) {
  return values.findLast((v) => v !== null) ?? null;
}

function row(cells, tag, scope) {
  const tr = document.createElement("tr");
  for (const text of cells) {
    const cell = document.createElement(tag);
    if (scope) cell.scope = scope;
    cell.textContent = text;
    tr.append(cell);
  }
  return tr;
}

function gather() {
  for (const figure of document.querySelectorAll("[data-chart]")) {
    if (!charts.has(figure)) charts.set(figure, new Chart(figure));
  }
  for (const figure of charts.keys()) if (!figure.isConnected) charts.delete(figure);
}

async function fetchFigures(url) {
  try {
    const answer = await fetch(url, { headers: { Accept: "application/json" } });
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

async function refresh() {
  gather();
  const byUrl = Map.groupBy
    ? Map.groupBy(charts.values(), (chart) => chart.url)
    : [...charts.values()].reduce((map, c) => map.set(c.url, [...(map.get(c.url) ?? []), c]), new Map());
  await Promise.all(
    [...byUrl].map(async ([url, ofUrl]) => {
      const answer = await fetchFigures(url);
      for (const chart of ofUrl) if (answer || !chart.data) chart.take(answer);
    }),
  );
}

/** Ask again as often as the page's live region does, and once more after it has ended. */
async function follow() {
  for (let due = true; ; ) {
    const live = document.querySelector("[data-running]");
    if (due && !document.hidden) await refresh();
    await new Promise((done) => setTimeout(done, live ? Number(live.dataset.running) * 1000 : IDLE_MS));
    due = live !== null;
  }
}

function redraw() {
  for (const chart of charts.values()) {
    chart.draw();
    chart.read(null);
  }
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
document.addEventListener("htmx:afterSwap", gather);
follow();
