// Many charts: one a metric, grouped by the beginning of their names, drawn when they come into sight.

import { get } from "./api.js";
import { calmly, fill, h, table } from "./dom.js";
import { cut, number } from "./format.js";
import { CurveChart, placed, summary } from "./charts.js";

const METRICS_A_REQUEST = 12;
const CURVES_A_REQUEST = 60;
const TABLE_ROWS = 200;
const REFRESH_MS_MIN = 1500;

/**
 * @typedef {import("./charts.js").Curve} Curve
 * @typedef {{run_id: string, name: string, color: number}} Drawn
 */

/** One chart and what belongs to it; `runs` are those of its lines. */
class Panel {
  /**
   * @param {MetricGrid} grid
   * @param {string} metric
   * @param {Drawn[]} runs
   */
  constructor(grid, metric, runs) {
    this.grid = grid;
    this.metric = metric;
    this.runs = runs;
    /** @type {Map<string, Curve>} */
    this.curves = new Map();
    this.chart = null;
    this.isSeen = false;
    const title = runs.length === 1 && grid.side ? `${metric} · ${runs[0].name}` : metric;
    this.plot = h("div", { class: "plot", tabindex: "0", role: "img", "aria-label": `${title}: not drawn yet`, onkeydown: (event) => this.press(event) });
    this.read = h("div", { class: "read" });
    this.values = h("details", { ontoggle: () => this.list() }, h("summary", {}, "Values"), h("div"));
    this.larger = h("button", { type: "button", class: "plain", "aria-pressed": "false", onclick: () => this.enlarge() }, "Larger");
    this.element = h("figure", { class: "panel", "data-metric": metric },
      h("figcaption", {}, h("h3", { title, dir: "auto" }, cut(title, 120)), this.larger), this.plot, this.read, this.values);
  }

  enlarge() {
    const isLarge = this.element.classList.toggle("large");
    this.larger.setAttribute("aria-pressed", String(isLarge));
    this.larger.textContent = isLarge ? "Smaller" : "Larger";
    this.element.style.gridColumn = isLarge ? "1 / -1" : "";
    this.grid.load([this]);
  }

  draw() {
    if (!this.isSeen || !this.curves.size) return;
    this.chart = this.chart ?? new CurveChart(this.plot, {
      onZoom: (from, to) => this.grid.zoom([from, to]), onReset: () => this.grid.zoom(null), onRead: (text) => { this.read.textContent = text; },
    });
    const lines = this.runs.flatMap((run) => (this.curves.get(run.run_id)?.x.length ? [{ label: run.name, color: run.color, curve: this.curves.get(run.run_id) }] : []));
    this.chart.draw(lines, this.grid.look);
    this.plot.setAttribute("aria-label", `${this.metric}. ${lines.map(summary).join(". ") || "No values."}`);
    this.plot.dataset.points = String(lines.reduce((sum, { curve }) => sum + curve.points, 0));
    this.plot.dataset.buckets = String(lines.reduce((sum, { curve }) => sum + curve.x.length, 0));
    if (this.values.open) this.list();
  }

  /** What is drawn as a table, for those who read rather than look. */
  list() {
    if (!this.values.open) return;
    const rows = [];
    for (const run of this.runs) {
      const curve = this.curves.get(run.run_id);
      const every = Math.max(1, Math.ceil((curve?.x.length ?? 0) / TABLE_ROWS));
      for (let at = 0; curve && at < curve.x.length; at += every) {
        rows.push([placed(this.grid.look.axis, curve.x[at]), ...(this.runs.length > 1 ? [run.name] : []), number(curve.value[at], 6), number(curve.min[at], 6), number(curve.max[at], 6)]);
      }
    }
    fill(this.values.lastElementChild, table(`Values of ${this.metric}`, ["At", ...(this.runs.length > 1 ? ["Run"] : []), "Mean", "Least", "Greatest"], rows));
  }

  /**
   * What has just been logged, ahead of its bucket.
   *
   * @param {{run_id: string, step: number, time: number, value: number|null, min: number|null, max: number|null}} last
   */
  append(last) {
    const curve = this.curves.get(last.run_id);
    const at = curve ? curve.x.length - 1 : -1;
    if (!curve || this.grid.look.range || (at >= 0 && last.step <= curve.last_step[at])) return;
    const offset = this.grid.look.axis === "time" ? 0 : this.grid.offset(last.run_id);
    const x = this.grid.look.axis === "step" ? last.step : last.time - offset;
    if (at >= 0 && x < curve.x[at]) return;
    curve.x.push(x);
    curve.first_step.push(last.step);
    curve.last_step.push(last.step);
    curve.value.push(last.value);
    curve.min.push(last.min);
    curve.max.push(last.max);
    curve.nonfinite.push(last.value === null ? 1 : 0);
    curve.points += 1;
  }

  /**
   * @param {KeyboardEvent} event
   */
  press(event) {
    const range = this.range();
    if (!range || event.ctrlKey || event.metaKey) return;
    const [from, to] = range;
    const width = to - from;
    const zooms = { "+": [from + width / 4, to - width / 4], "=": [from + width / 4, to - width / 4], "-": [from - width / 2, to + width / 2], ArrowLeft: [from - width / 4, to - width / 4], ArrowRight: [from + width / 4, to + width / 4], 0: null };
    if (!(event.key in zooms)) return;
    event.preventDefault();
    this.grid.zoom(zooms[event.key]);
  }

  /** What is in sight on the axis. */
  range() {
    const curves = [...this.curves.values()].filter((curve) => curve.x.length);
    if (!curves.length) return null;
    return this.grid.look.range ?? [Math.min(...curves.map((curve) => curve.x[0])), Math.max(...curves.map((curve) => curve.x[curve.x.length - 1]))];
  }

  hide() {
    this.isSeen = false;
    this.chart?.close();
    this.chart = null;
  }
}

export class MetricGrid {
  /**
   * @param {Drawn[]} runs
   * @param {URLSearchParams} query Where axis, smoothing and the like are kept.
   * @param {{side?: boolean, started?: Map<string, number>, keep: (query: URLSearchParams) => void, open?: string}} options
   */
  constructor(runs, query, options) {
    this.runs = runs;
    this.side = options.side ?? false;
    this.started = options.started ?? new Map();
    this.keep = options.keep;
    this.query = query;
    const range = /^(-?[\d.e+-]+),(-?[\d.e+-]+)$/.exec(query.get("x") ?? "");
    this.look = { axis: ["time", "relative", "active"].includes(query.get("axis")) ? query.get("axis") : "step", log: query.get("log") === "1", smoothing: Math.min(0.99, Math.max(0, Number(query.get("smooth")) || 0)), range: range ? /** @type {[number, number]} */ ([Number(range[1]), Number(range[2])]) : null };
    /** @type {Panel[]} */
    this.panels = [];
    this.known = new Set();
    this.waiting = new Set();
    this.asked = new AbortController();
    this.sight = new IntersectionObserver((entries) => this.seen(entries), { root: document.getElementById("main"), rootMargin: "200px" });
    this.byElement = new Map();
    this.groups = h("div");
    this.element = h("div", {}, this.tools(), this.groups);
    this.redraw = () => this.panels.forEach((panel) => panel.draw());
    document.addEventListener("runwire:theme", this.redraw);
  }

  tools() {
    const { axis, log, smoothing } = this.look;
    const choose = h("select", { id: "axis", onchange: () => { this.look.axis = choose.value; this.zoom(null); this.note("axis", choose.value === "step" ? "" : choose.value); } },
      [["step", "Step"], ["time", "Time"], ["relative", "Time since the start"], ["active", "Time in which it was alive"]].map(([value, text]) => h("option", { value, selected: value === axis }, text)));
    const slider = h("input", { id: "smooth", type: "range", min: "0", max: "0.99", step: "0.01", value: String(smoothing), oninput: () => { this.look.smoothing = Number(slider.value); this.redraw(); this.note("smooth", slider.value === "0" ? "" : slider.value); } });
    const logs = h("input", { id: "log", type: "checkbox", checked: log, onchange: () => { this.look.log = logs.checked; this.redraw(); this.note("log", logs.checked ? "1" : ""); } });
    const filter = h("input", { id: "metrics", type: "search", placeholder: "Metrics …", "aria-label": "Metrics whose name contains", value: this.query.get("m") ?? "", oninput: calmly(() => { this.note("m", filter.value); this.filter(filter.value); }, 80) });
    this.reset = h("button", { type: "button", hidden: !this.look.range, onclick: () => this.zoom(null) }, "Whole range");
    this.wanted = this.query.get("m") ?? "";
    return h("div", { class: "tools" }, filter, h("label", { for: "axis" }, "Axis", choose), h("label", { for: "smooth" }, "Smoothing", slider), h("label", {}, logs, "Logarithmic"), this.reset);
  }

  /**
   * @param {string} name
   * @param {string} value
   */
  note(name, value) {
    if (value) this.query.set(name, value);
    else this.query.delete(name);
    this.keep(this.query);
  }

  /**
   * Show these metrics too; those that are there stay.
   *
   * @param {string[]} metrics
   */
  add(metrics) {
    for (const metric of [...metrics].filter((name) => !this.known.has(name)).sort()) {
      this.known.add(metric);
      const group = this.group(metric.includes("/") ? metric.slice(0, metric.indexOf("/")) : "");
      for (const runs of this.side ? this.runs.map((run) => [run]) : [this.runs]) {
        const panel = new Panel(this, metric, runs);
        this.panels.push(panel);
        this.byElement.set(panel.element, panel);
        group.appendChild(panel.element);
        this.sight.observe(panel.element);
      }
    }
    this.filter(this.wanted);
  }

  /**
   * @param {string} prefix
   */
  group(prefix) {
    const found = [...this.groups.children].find((child) => /** @type {HTMLElement} */ (child).dataset.prefix === prefix);
    if (found) return found.querySelector(".grid");
    const grid = h("div", { class: "grid" });
    this.groups.appendChild(h("section", { class: "group", "data-prefix": prefix, "aria-label": prefix || "Metrics" }, prefix && h("h2", {}, cut(prefix, 120)), grid));
    return grid;
  }

  /**
   * @param {string} text
   */
  filter(text) {
    this.wanted = text;
    for (const panel of this.panels) panel.element.hidden = !panel.metric.toLowerCase().includes(text.toLowerCase());
    for (const group of this.groups.children) /** @type {HTMLElement} */ (group).hidden = ![...group.querySelectorAll(".panel")].some((element) => !(/** @type {HTMLElement} */ (element).hidden));
  }

  /**
   * @param {IntersectionObserverEntry[]} entries
   */
  seen(entries) {
    const come = [];
    for (const entry of entries) {
      const panel = this.byElement.get(entry.target);
      if (!entry.isIntersecting) panel.hide();
      else if (!panel.isSeen) {
        panel.isSeen = true;
        panel.draw();
        come.push(panel);
      }
    }
    this.load(come);
  }

  /**
   * Another stretch of the axis, at the resolution that it has room for; null: all of it.
   *
   * @param {[number, number]|null} range
   */
  zoom(range) {
    this.look.range = range && range[1] > range[0] ? range : null;
    this.reset.hidden = !this.look.range;
    this.note("x", this.look.range ? this.look.range.map((x) => Number(x.toPrecision(12))).join(",") : "");
    this.redraw();
    this.asked.abort();
    this.asked = new AbortController();
    for (const panel of this.panels) if (!panel.isSeen) panel.curves.clear();
    this.load(this.panels.filter((panel) => panel.isSeen));
  }

  /**
   * Ask for the curves of panels, as few requests as may be.
   *
   * @param {Panel[]} panels
   */
  async load(panels) {
    for (const panel of panels) this.waiting.add(panel);
    if (this.loading || !this.waiting.size) return;
    this.loading = true;
    await new Promise((resolve) => requestAnimationFrame(resolve));
    const began = performance.now();
    while (this.waiting.size) {
      const now = [...this.waiting];
      this.waiting.clear();
      try {
        await Promise.all(this.requests(now).map((request) => this.fetch(request)));
      } catch (error) {
        if (error.name !== "AbortError") this.trouble(error);
      }
    }
    this.tookMs = performance.now() - began;
    this.loading = false;
  }

  /**
   * @param {Panel[]} panels
   * @returns {Array<{panels: Panel[], runs: Drawn[], steps: [number, number]|null, buckets: number}>}
   */
  requests(panels) {
    const found = [];
    const bySteps = this.look.axis !== "step" && this.look.range;
    const bundles = new Map();
    for (const panel of panels) {
      for (const runs of this.side || bySteps ? panel.runs.map((run) => [run]) : [panel.runs]) {
        const key = runs.map(({ run_id: id }) => id).join("\n");
        bundles.set(key, { runs, panels: [...(bundles.get(key)?.panels ?? []), panel] });
      }
    }
    for (const { runs, panels: bundled } of bundles.values()) {
      const size = Math.max(1, Math.min(METRICS_A_REQUEST, Math.floor(CURVES_A_REQUEST / runs.length)));
      for (let at = 0; at < bundled.length; at += size) {
        const some = bundled.slice(at, at + size);
        const buckets = Math.max(200, Math.min(2000, ...some.map((panel) => panel.plot.clientWidth || 400)));
        found.push({ panels: some, runs, steps: this.steps(some[0], runs[0]), buckets });
      }
    }
    return found;
  }

  /**
   * The steps in sight: what the server cuts by, whatever the axis is.
   *
   * @param {Panel} panel
   * @param {Drawn} run
   * @returns {[number, number]|null}
   */
  steps(panel, run) {
    const { axis, range } = this.look;
    if (!range) return null;
    if (axis === "step") return [Math.floor(range[0]), Math.ceil(range[1])];
    const curve = panel.curves.get(run.run_id);
    const within = curve ? curve.x.map((x, at) => (x >= range[0] && x <= range[1] ? at : -1)).filter((at) => at >= 0) : [];
    return within.length ? [curve.first_step[Math.max(0, within[0] - 1)], curve.last_step[Math.min(curve.x.length - 1, within[within.length - 1] + 1)]] : null;
  }

  /**
   * @param {{panels: Panel[], runs: Drawn[], steps: [number, number]|null, buckets: number}} request
   */
  async fetch({ panels, runs, steps, buckets }) {
    const metrics = [...new Set(panels.map((panel) => panel.metric))];
    const query = [...runs.map(({ run_id: id }) => ["run", id]), ...metrics.map((metric) => ["metric", metric]), ["buckets", buckets], ["axis", this.look.axis], ["from", steps?.[0]], ["to", steps?.[1]]];
    const { curves } = await get("/api/curves", /** @type {*} */ (query), this.asked.signal);
    for (const curve of curves) for (const panel of panels) if (panel.metric === curve.metric) panel.curves.set(curve.run_id, curve);
    for (const panel of panels) panel.draw();
  }

  /**
   * What is new: drawn at once at the end of its curve, then from the store.
   *
   * @param {Object[]} metrics
   */
  hear(metrics) {
    const touched = new Set();
    for (const last of metrics) {
      for (const panel of this.panels) {
        if (panel.metric !== last.metric || !panel.runs.some(({ run_id: id }) => id === last.run_id)) continue;
        panel.append(last);
        touched.add(panel);
      }
    }
    for (const panel of touched) panel.draw();
    if (!this.look.range) this.refresh(touched);
  }

  /**
   * @param {Set<Panel>} panels
   */
  refresh(panels) {
    this.stale = new Set([...(this.stale ?? []), ...panels]);
    this.refreshing = this.refreshing ?? setTimeout(() => {
      this.refreshing = undefined;
      const due = [...this.stale].filter((panel) => panel.isSeen);
      for (const panel of this.stale) if (!panel.isSeen) panel.curves.clear();
      this.stale = new Set();
      void this.load(due);
    }, Math.max(REFRESH_MS_MIN, 5 * (this.tookMs ?? 0)));
  }

  /**
   * Seconds since the epoch at which a run's own time begins.
   *
   * @param {string} runId
   */
  offset(runId) {
    return this.started.get(runId) ?? 0;
  }

  /**
   * @param {Error} error
   */
  trouble(error) {
    if (!this.told) this.element.prepend(this.told = h("p", { class: "trouble", role: "alert" }));
    this.told.textContent = error.message;
  }

  close() {
    this.asked.abort();
    clearTimeout(this.refreshing);
    this.sight.disconnect();
    document.removeEventListener("runwire:theme", this.redraw);
    this.panels.forEach((panel) => panel.hide());
  }
}
