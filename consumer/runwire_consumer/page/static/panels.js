// Many charts: one a metric, grouped by the beginning of their names, drawn when they come into sight.

import { get } from "./api.js";
import { calmly, h } from "./dom.js";
import { cut } from "./format.js";
import { Panel } from "./panel.js";
import { curveRequests } from "./requests.js";

const REFRESH_MS_MIN = 1500;

/**
 * @typedef {import("./panel.js").Drawn} Drawn
 */

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
    this.look = {
      axis: ["time", "relative", "active"].includes(query.get("axis")) ? query.get("axis") : "step",
      log: query.get("log") === "1",
      smoothing: Math.min(0.99, Math.max(0, Number(query.get("smooth")) || 0)),
      range: range ? /** @type {[number, number]} */ ([Number(range[1]), Number(range[2])]) : null,
    };
    /** @type {Panel[]} */
    this.panels = [];
    this.known = new Set();
    this.waiting = new Set();
    this.asked = new AbortController();
    this.sight = new IntersectionObserver((entries) => this.seen(entries), {
      root: document.getElementById("main"),
      rootMargin: "200px",
    });
    this.byElement = new Map();
    this.groups = h("div");
    this.element = h("div", {}, this.tools(), this.groups);
    this.redraw = () => this.panels.forEach((panel) => panel.draw());
    document.addEventListener("runwire:theme", this.redraw);
  }

  tools() {
    const { axis, log, smoothing } = this.look;
    const choose = h(
      "select",
      {
        id: "axis",
        onchange: () => {
          this.look.axis = choose.value;
          this.zoom(null);
          this.note("axis", choose.value === "step" ? "" : choose.value);
        },
      },
      [
        ["step", "Step"],
        ["time", "Time"],
        ["relative", "Time since the start"],
        ["active", "Time in which it was alive"],
      ].map(([value, text]) => h("option", { value, selected: value === axis }, text)),
    );
    const slider = h("input", {
      id: "smooth",
      type: "range",
      min: "0",
      max: "0.99",
      step: "0.01",
      value: String(smoothing),
      oninput: () => {
        this.look.smoothing = Number(slider.value);
        this.redraw();
        this.note("smooth", slider.value === "0" ? "" : slider.value);
      },
    });
    const logs = h("input", {
      id: "log",
      type: "checkbox",
      checked: log,
      onchange: () => {
        this.look.log = logs.checked;
        this.redraw();
        this.note("log", logs.checked ? "1" : "");
      },
    });
    const filter = h("input", {
      id: "metrics",
      type: "search",
      placeholder: "Metrics …",
      "aria-label": "Metrics whose name contains",
      value: this.query.get("m") ?? "",
      oninput: calmly(() => {
        this.note("m", filter.value);
        this.filter(filter.value);
      }, 80),
    });
    this.reset = h(
      "button",
      { type: "button", hidden: !this.look.range, onclick: () => this.zoom(null) },
      "Whole range",
    );
    this.wanted = this.query.get("m") ?? "";
    return h(
      "div",
      { class: "tools" },
      filter,
      h("label", { for: "axis" }, "Axis", choose),
      h("label", { for: "smooth" }, "Smoothing", slider),
      h("label", {}, logs, "Logarithmic"),
      this.reset,
    );
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
    const found = [...this.groups.children].find(
      (child) => /** @type {HTMLElement} */ (child).dataset.prefix === prefix,
    );
    if (found) return found.querySelector(".grid");
    const grid = h("div", { class: "grid" });
    this.groups.appendChild(
      h(
        "section",
        { class: "group", "data-prefix": prefix, "aria-label": prefix || "Metrics" },
        prefix && h("h2", {}, cut(prefix, 120)),
        grid,
      ),
    );
    return grid;
  }

  /**
   * @param {string} text
   */
  filter(text) {
    this.wanted = text;
    for (const panel of this.panels) panel.element.hidden = !panel.metric.toLowerCase().includes(text.toLowerCase());
    for (const group of this.groups.children)
      /** @type {HTMLElement} */ (group).hidden = ![...group.querySelectorAll(".panel")].some(
        (element) => !(/** @type {HTMLElement} */ (element).hidden),
      );
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
        await Promise.all(curveRequests(now, this.look, this.side).map((request) => this.fetch(request)));
      } catch (error) {
        if (error.name !== "AbortError") this.trouble(error);
      }
    }
    const tookMs = performance.now() - began;
    this.costMs = Math.min(tookMs, this.tookMs ?? 0); // one alone that took long was a machine that stood still
    this.tookMs = tookMs;
    this.loading = false;
  }

  /**
   * @param {{panels: Panel[], runs: Drawn[], steps: [number, number]|null, buckets: number}} request
   */
  async fetch({ panels, runs, steps, buckets }) {
    const metrics = [...new Set(panels.map((panel) => panel.metric))];
    const query = [
      ...runs.map(({ run_id: id }) => ["run", id]),
      ...metrics.map((metric) => ["metric", metric]),
      ["buckets", buckets],
      ["axis", this.look.axis],
      ["from", steps?.[0]],
      ["to", steps?.[1]],
    ];
    const { curves } = await get("/api/curves", /** @type {*} */ (query), this.asked.signal);
    for (const curve of curves)
      for (const panel of panels) if (panel.metric === curve.metric) panel.curves.set(curve.run_id, curve);
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
    this.refreshing =
      this.refreshing ??
      setTimeout(
        () => {
          this.refreshing = undefined;
          const due = [...this.stale].filter((panel) => panel.isSeen);
          for (const panel of this.stale) if (!panel.isSeen) panel.curves.clear();
          this.stale = new Set();
          void this.load(due);
        },
        Math.max(REFRESH_MS_MIN, 5 * (this.costMs ?? 0)),
      );
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
    if (!this.told) this.element.prepend((this.told = h("p", { class: "trouble", role: "alert" })));
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
