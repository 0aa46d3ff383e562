// One run: its curves as they grow, and everything else that is known of it.

import { follow, get } from "./api.js";
import { fill, h, table } from "./dom.js";
import { cut, duration, moment, number, plainly } from "./format.js";
import { MetricGrid } from "./panels.js";
import { badge } from "./runs.js";

export const keys = /** @type {Array<[string, string]>} */ ([
  ["drag", "Look closer at a stretch"], ["double click, 0", "The whole range again"], ["+ −", "Closer, further (on a chart)"], ["← →", "Along the axis (on a chart)"],
]);

const TABS = /** @type {Array<[string, string]>} */ ([
  ["charts", "Charts"], ["system", "System"], ["params", "Parameters"], ["events", "Events"], ["code", "Code and host"], ["receipt", "Receipt"], ["attempts", "Attempts"],
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
    this.tabs = h("div", { class: "tabs", role: "tablist", "aria-label": "Parts of the run", onkeydown: (event) => this.press(event) });
  }

  open() {
    const { run } = this;
    document.title = `${cut(run.name, 60)} · Runwire`;
    fill(this.main,
      h("div", { class: "heading" }, h("h1", { dir: "auto" }, cut(run.name, 300)), this.state, this.step,
        h("span", { class: "grow" }), h("a", { class: "button", href: `/compare?run=${encodeURIComponent(run.run_id)}` }, "Compare with others")),
      h("div", { class: "quiet" }, h("bdi", {}, cut(run.project, 120)), " · ", h("code", {}, run.run_id), ` · started ${moment(run.started_at)}`,
        ` · ${duration(run.duration_seconds)}`, run.group && [" · group ", h("bdi", {}, cut(run.group, 120))], run.tags.length ? [" · ", h("bdi", {}, cut(run.tags.join(", "), 300))] : null),
      run.notes && h("p", { dir: "auto" }, cut(run.notes, 2000)), run.state_reason && run.state !== "running" && run.state !== "finished" && h("p", { class: "note" }, run.state_reason),
      this.alerts(), this.tabs, this.panel);
    this.choose(TABS.some(([key]) => key === this.query.get("tab")) ? this.query.get("tab") : "charts");
    this.live = follow([["run", run.run_id]], (told) => this.hear(told));
  }

  alerts() {
    const { alerts } = this.run;
    return alerts.length ? h("div", { class: "note", role: "note" }, alerts.slice(-3).map((alert) => h("p", {}, h("strong", {}, `${alert.level}: `), h("bdi", {}, cut(alert.title, 200)), " ", cut(alert.text ?? "", 300)))) : null;
  }

  /**
   * @param {string} key
   * @param {boolean} [focus]
   */
  choose(key, focus = false) {
    this.grid?.close();
    this.grid = null;
    fill(this.tabs, TABS.map(([name, text]) => h("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-selected": String(name === key), "aria-controls": "panel", tabindex: name === key ? "0" : "-1", onclick: () => this.choose(name, true) }, text)));
    this.panel.setAttribute("aria-labelledby", `tab-${key}`);
    if (focus) /** @type {HTMLElement} */ (this.tabs.querySelector('[aria-selected="true"]')).focus();
    if (key === "charts") this.query.delete("tab");
    else this.query.set("tab", key);
    this.keep();
    if (key === "charts" || key === "system") this.charts(key);
    else fill(this.panel, this[key]());
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
    this.grid = new MetricGrid([{ run_id: run.run_id, name: run.name, color: 0 }], this.query, { started, keep: () => this.keep() });
    this.grid.add(run.metrics.map(({ metric }) => metric).filter((name) => OWN(name) === (tab === "charts")));
    fill(this.panel, run.metrics.length ? this.grid.element : [h("p", { class: "quiet" }, "No metric has come yet."), this.grid.element]);
  }

  params() {
    const names = Object.keys(this.run.params).sort();
    return names.length ? table("Parameters", ["Name", "Value", "Type"], names.map((name) => [h("bdi", {}, name), h("bdi", {}, plainly(this.run.params[name])), this.run.param_types[name] ?? ""])) : h("p", { class: "quiet" }, "The run has no parameters.");
  }

  events() {
    const rows = [...this.run.events].reverse().map((event) => [moment(event.time), event.type, plainly(event.rank), h("details", {}, h("summary", {}, cut(eventText(event), 160)), h("pre", {}, JSON.stringify(event.body, null, 2)))]);
    return h("div", { class: "wide" }, rows.length ? table("Events, the newest first", ["Time", "What", "Rank", "Content"], rows) : h("p", { class: "quiet" }, "No event has come yet."));
  }

  code() {
    const { run } = this;
    const packages = Object.entries(run.packages ?? {});
    const rows = [["Commit", h("code", {}, `${run.commit ?? ""}${run.dirty ? " with changes that no commit holds" : ""}`)], ["Branch", run.branch], ["Remote", link(run.remote)], ["Command", h("code", {}, (run.command ?? []).join(" "))], ["Host", run.host], ["User", run.user], ["World size", run.world_size], ["Ranks", run.ranks], ["Forked from", run.forked_from], ["Cost of tracking", run.tracking_share === null ? "" : `${number(100 * run.tracking_share, 3)} % of its time`]];
    return h("div", {}, table("Code and host", null, rows.map(([name, value]) => [name, value instanceof Node ? value : plainly(value)])),
      packages.length ? h("details", {}, h("summary", {}, `${packages.length} packages`), table("Packages", ["Name", "Version"], packages.sort())) : null);
  }

  receipt() {
    const { emitters, gaps } = this.run;
    const missing = emitters.reduce((sum, emitter) => sum + emitter.missing, 0);
    const dead = emitters.reduce((sum, emitter) => sum + emitter.dead, 0);
    const open = emitters.some((emitter) => emitter.next_seq === null);
    const verdict = dead || emitters.some((emitter) => emitter.next_seq !== null && emitter.missing) ? "Rows are missing or unreadable." : open ? "Open: some process has not ended, so nobody knows yet how many rows there are." : "Complete: every row that was sent is accounted for.";
    return h("div", { class: "wide" }, h("p", {}, verdict, missing && open ? ` ${number(missing)} rows may be on their way.` : ""),
      table("Receipt: a line a process", ["Process", "Rank", "Attempt", "Role", "Ended", "Sent", "Stored", "Unreadable", "Declared lost", "Missing"], emitters.map((emitter) => [h("code", { title: emitter.emitter_id }, emitter.emitter_id.slice(0, 8)), plainly(emitter.rank), plainly(emitter.attempt), emitter.role, plainly(emitter.ended ?? "not yet"), plainly(emitter.next_seq), number(emitter.stored), number(emitter.dead), number(emitter.lost), number(emitter.missing)])),
      gaps.length ? [h("h2", {}, "What is not stored"), table("Gaps", ["Rank", "Kind", "First row", "Rows", "Reason"], gaps.map((gap) => [plainly(gap.rank), gap.kind, plainly(gap.first_seq), number(gap.rows), plainly(gap.reason)]))] : null);
  }

  attempts() {
    const rows = this.run.attempt_list.map((attempt) => [plainly(attempt.attempt), moment(attempt.started_at), plainly(attempt.resumed_from_step), plainly(attempt.world_size), plainly(attempt.ranks), plainly(attempt.emitters)]);
    return rows.length ? table("Attempts", ["Attempt", "Started", "Resumed from step", "World size", "Ranks", "Processes"], rows) : h("p", { class: "quiet" }, "No training process belongs to the run.");
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
    const fresh = metrics.map(({ metric }) => metric).filter((name) => OWN(name) === (this.tab === "charts") && !this.grid.known.has(name));
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

/**
 * @param {{type: string, body: Object}} event
 */
function eventText({ body }) {
  return ["title", "name", "status", "text", "reason"].map((key) => body?.[key]).filter(Boolean).map(String).join(" · ") || "…";
}

/**
 * A link where the text is an address of the web.
 *
 * @param {string|null} text
 */
function link(text) {
  return text && /^https?:\/\//.test(text) ? h("a", { href: text, rel: "noreferrer noopener", target: "_blank" }, text) : text ?? "";
}
