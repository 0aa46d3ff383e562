// One run: its curves as they grow, and everything else that is known of it.

import { follow, get } from "./api.js";
import { fill, h } from "./dom.js";
import { cut, duration, moment, number } from "./format.js";
import * as facts from "./facts.js";
import { MetricGrid } from "./panels.js";
import { badge } from "./runtable.js";

export const keys = /** @type {Array<[string, string]>} */ ([
  ["drag", "Look closer at a stretch"],
  ["double click, 0", "The whole range again"],
  ["+ −", "Closer, further (on a chart)"],
  ["← →", "Along the axis (on a chart)"],
]);

const TABS = /** @type {Array<[string, string]>} */ ([
  ["charts", "Charts"],
  ["system", "System"],
  ["params", "Parameters"],
  ["events", "Events"],
  ["code", "Code and host"],
  ["receipt", "Receipt"],
  ["attempts", "Attempts"],
]);
const OWN = (name) => !/^(system|time)\//.test(name);

/**
 * @param {HTMLElement} main
 * @param {URL} url
 */
export async function show(main, url) {
  const wanted = decodeURIComponent(url.pathname.slice("/runs/".length));
  const run = await get(`/api/runs/${encodeURIComponent(wanted)}`);
  const view = new RunView(main, url, run);
  view.open();
  return () => view.close();
}

class RunView {
  /**
   * @param {HTMLElement} main
   * @param {URL} url
   * @param {Object} run
   */
  constructor(main, url, run) {
    this.main = main;
    this.url = url;
    this.query = url.searchParams;
    this.run = run;
    /** @type {MetricGrid|null} */
    this.grid = null;
    this.state = h("span", {}, badge(run.state));
    this.step = h("span", { class: "quiet" });
    this.panel = h("div", { id: "panel", role: "tabpanel", tabindex: "-1" });
    this.tabs = h("div", {
      class: "tabs",
      role: "tablist",
      "aria-label": "Parts of the run",
      onkeydown: (event) => this.press(event),
    });
  }

  open() {
    const { run } = this;
    document.title = `${cut(run.name, 60)} · Runwire`;
    fill(
      this.main,
      h(
        "div",
        { class: "heading" },
        h("h1", { dir: "auto" }, cut(run.name, 300)),
        this.state,
        this.step,
        h("span", { class: "grow" }),
        h("a", { class: "button", href: `/compare?run=${encodeURIComponent(run.run_id)}` }, "Compare with others"),
      ),
      h(
        "div",
        { class: "quiet" },
        h("bdi", {}, cut(run.project, 120)),
        " · ",
        h("code", {}, run.run_id),
        ` · started ${moment(run.started_at)}`,
        ` · ${duration(run.duration_seconds)}`,
        run.group && [" · group ", h("bdi", {}, cut(run.group, 120))],
        run.tags.length ? [" · ", h("bdi", {}, cut(run.tags.join(", "), 300))] : null,
      ),
      run.notes && h("p", { dir: "auto" }, cut(run.notes, 2000)),
      run.state_reason &&
        run.state !== "running" &&
        run.state !== "finished" &&
        h("p", { class: "note" }, run.state_reason),
      this.alerts(),
      this.tabs,
      this.panel,
    );
    this.choose(TABS.some(([key]) => key === this.query.get("tab")) ? this.query.get("tab") : "charts");
    this.live = follow([["run", run.run_id]], (told) => this.hear(told));
  }

  alerts() {
    const { alerts } = this.run;
    return alerts.length
      ? h(
          "div",
          { class: "note", role: "note" },
          alerts
            .slice(-3)
            .map((alert) =>
              h(
                "p",
                {},
                h("strong", {}, `${alert.level}: `),
                h("bdi", {}, cut(alert.title, 200)),
                " ",
                cut(alert.text ?? "", 300),
              ),
            ),
        )
      : null;
  }

  /**
   * @param {string} key
   * @param {boolean} [focus]
   */
  choose(key, focus = false) {
    this.grid?.close();
    this.grid = null;
    fill(
      this.tabs,
      TABS.map(([name, text]) =>
        h(
          "button",
          {
            type: "button",
            role: "tab",
            id: `tab-${name}`,
            "aria-selected": String(name === key),
            "aria-controls": "panel",
            tabindex: name === key ? "0" : "-1",
            onclick: () => this.choose(name, true),
          },
          text,
        ),
      ),
    );
    this.panel.setAttribute("aria-labelledby", `tab-${key}`);
    if (focus) /** @type {HTMLElement} */ (this.tabs.querySelector('[aria-selected="true"]')).focus();
    if (key === "charts") this.query.delete("tab");
    else this.query.set("tab", key);
    this.keep();
    if (key === "charts" || key === "system") this.charts(key);
    else fill(this.panel, facts[key](this.run));
    this.tab = key;
  }

  keep() {
    const text = this.query.toString();
    history.replaceState(history.state, "", text ? `${this.url.pathname}?${text}` : this.url.pathname);
  }

  /**
   * @param {KeyboardEvent} event
   */
  press(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const at = TABS.findIndex(([key]) => key === this.tab);
    this.choose(TABS[(at + by + TABS.length) % TABS.length][0], true);
  }

  /**
   * @param {string} tab
   */
  charts(tab) {
    const { run } = this;
    const started = new Map([[run.run_id, Date.parse(run.started_at ?? "") / 1000]]);
    this.grid = new MetricGrid([{ run_id: run.run_id, name: run.name, color: 0 }], this.query, {
      started,
      keep: () => this.keep(),
    });
    this.grid.add(run.metrics.map(({ metric }) => metric).filter((name) => OWN(name) === (tab === "charts")));
    fill(
      this.panel,
      run.metrics.length
        ? this.grid.element
        : [h("p", { class: "quiet" }, "No metric has come yet."), this.grid.element],
    );
  }

  /**
   * @param {{runs?: Object[], metrics?: Object[]}} told
   */
  hear(told) {
    for (const run of told.runs ?? []) {
      if (run.state !== this.run.state) fill(this.state, badge(run.state));
      this.run.state = run.state;
      this.step.textContent = run.step === null ? "" : `step ${number(run.step)}`;
    }
    const metrics = told.metrics ?? [];
    if (!this.grid || !metrics.length) return;
    const fresh = metrics
      .map(({ metric }) => metric)
      .filter((name) => OWN(name) === (this.tab === "charts") && !this.grid.known.has(name));
    if (fresh.length) {
      this.run.metrics.push(...fresh.map((metric) => ({ metric })));
      this.panel.querySelector(":scope > p")?.remove();
      this.grid.add(fresh);
    }
    this.grid.hear(metrics);
  }

  close() {
    this.live?.close();
    this.grid?.close();
  }
}
