// Runs beside each other: curves, the best values, the parameters that differ.

import { address, follow, select } from "./api.js";
import { differingParams, isOwn, paramsSection, swatch, valueOf, valuesSection } from "./differences.js";
import { fill, h } from "./dom.js";
import { COLLATOR, cut } from "./format.js";
import { MetricGrid } from "./panels.js";
import { COLORS } from "./charts.js";
import { ParallelChart } from "./parallel.js";
import { badge } from "./runtable.js";

const RUNS_MAX = 20;
const AXES_MAX = 12;
const RUNS_SQL = `
  SELECT run_id, project, name, state, started_at, duration_seconds, "commit", dirty, params, last, best FROM runs
  WHERE list_contains($runs::VARCHAR[], run_id)`;
// What is best of a metric, as its newest definition says.
const BEST_SQL = `
  SELECT body->>'metric' AS metric, arg_max(body->>'best', time) AS best FROM events
  WHERE type = 'MetricDefined' AND list_contains($runs::VARCHAR[], run_id) GROUP BY ALL`;

export const keys = /** @type {Array<[string, string]>} */ ([
  ["drag", "Look closer at a stretch"],
  ["double click, 0", "The whole range again"],
]);

/**
 * @param {HTMLElement} main
 * @param {URL} url
 */
export async function show(main, url) {
  document.title = "Compare · Runwire";
  const asked = [...new Set(url.searchParams.getAll("run"))].slice(0, RUNS_MAX);
  if (!asked.length) {
    fill(
      main,
      h("h1", {}, "Compare"),
      h(
        "p",
        {},
        "Choose runs in ",
        h("a", { href: "/" }, "the table"),
        ": the boxes, or x on the keyboard; then Compare, or c.",
      ),
    );
    return () => {};
  }
  const [{ rows: found }, { rows: defined }] = await Promise.all([
    select(RUNS_SQL, { runs: asked }),
    select(BEST_SQL, { runs: asked }),
  ]);
  const runs = asked.flatMap((id) => found.filter((run) => run.run_id === id)).map((run, color) => ({ ...run, color }));
  if (!runs.length)
    throw new Error("None of these runs is there: they may have been deleted, or the token may not see them.");
  const view = new CompareView(main, url, runs, new Map(defined.map(({ metric, best }) => [metric, best])));
  view.open(asked.length - runs.length);
  return () => view.close();
}

class CompareView {
  /**
   * @param {HTMLElement} main
   * @param {URL} url
   * @param {Object[]} runs
   * @param {Map<string, string|null>} best
   */
  constructor(main, url, runs, best) {
    this.main = main;
    this.query = url.searchParams;
    this.runs = runs;
    this.best = best;
    this.metrics = [...new Set(runs.flatMap((run) => Object.keys(run.last)))].sort(COLLATOR.compare);
    this.differing = differingParams(runs);
    this.states = new Map(runs.map((run) => [run.run_id, h("span", {}, badge(run.state))]));
    this.curves = h("div");
    /** @type {MetricGrid|null} */
    this.grid = null;
  }

  /**
   * @param {number} gone
   */
  open(gone) {
    const layout = h(
      "select",
      {
        id: "layout",
        onchange: () => {
          this.note("layout", layout.value);
          this.draw();
        },
      },
      h("option", { value: "" }, "Overlaid"),
      h("option", { value: "side", selected: this.query.get("layout") === "side" }, "Side by side"),
    );
    fill(
      this.main,
      h(
        "div",
        { class: "heading" },
        h("h1", {}, this.runs.length === 1 ? "One run" : `${this.runs.length} runs compared`),
        h("span", { class: "grow" }),
        h("label", {}, "Curves ", layout),
        h(
          "a",
          {
            class: "button",
            href: address(
              "/",
              this.runs.map((run) => ["run", run.run_id]),
            ),
          },
          "Choose others",
        ),
      ),
      gone ? h("p", { class: "note" }, `${gone} of the runs asked for are not there.`) : null,
      this.legend(),
      paramsSection(this.runs, this.differing),
      valuesSection(this.runs, this.metrics, this.best),
      this.parallel(),
      h("h2", {}, "Curves"),
      this.curves,
    );
    this.draw();
    this.live = follow(
      this.runs.map((run) => ["run", run.run_id]),
      (told) => {
        for (const run of told.runs ?? [])
          if (this.states.has(run.run_id)) fill(this.states.get(run.run_id), badge(run.state));
        if (told.metrics) this.grid?.hear(told.metrics);
      },
    );
  }

  legend() {
    return h(
      "ul",
      { class: "legend" },
      this.runs.map((run) => {
        const others = this.runs
          .filter((other) => other !== run)
          .map((other) => /** @type {[string, *]} */ (["run", other.run_id]));
        const item = h(
          "li",
          {},
          swatch(run.color),
          h("a", { href: `/runs/${encodeURIComponent(run.run_id)}`, dir: "auto", title: run.name }, cut(run.name, 60)),
          " ",
          this.states.get(run.run_id),
          " ",
          this.runs.length > 1
            ? h(
                "a",
                {
                  href: address("/compare", [...others, ...[...this.query].filter(([name]) => name !== "run")]),
                  "aria-label": `Leave ${cut(run.name, 60)} out`,
                },
                "×",
              )
            : null,
        );
        for (const [event, on] of /** @type {[string, boolean][]} */ ([
          ["mouseenter", true],
          ["mouseleave", false],
          ["focusin", true],
          ["focusout", false],
        ]))
          item.addEventListener(event, () => this.chart?.highlight(on ? run.run_id : null));
        return item;
      }),
    );
  }

  parallel() {
    const numbers = (values) =>
      values.every((value) => value === null || value === undefined || !Number.isNaN(Number(value)));
    const own = this.metrics.filter(
      (name) => isOwn(name) && this.runs.some((run) => typeof valueOf(run, name) === "number"),
    );
    const chosen = [...own.filter((name) => this.best.get(name)), ...own.filter((name) => !this.best.get(name))].slice(
      0,
      3,
    );
    const axes = [
      ...this.differing.map((name) => ({ label: name, values: this.runs.map((run) => run.params[name] ?? null) })),
      ...chosen.map((name) => ({
        label: name,
        values: this.runs.map((run) => (typeof valueOf(run, name) === "number" ? valueOf(run, name) : null)),
      })),
    ]
      .slice(0, AXES_MAX)
      .map((axis) => ({ ...axis, numeric: numbers(axis.values) }));
    if (this.runs.length < 2 || axes.length < 2) return null;
    this.chart = new ParallelChart(
      axes,
      this.runs.map((run) => ({ key: run.run_id, color: run.color % COLORS })),
    );
    return h(
      "section",
      { "aria-label": "Parallel coordinates" },
      h("h2", {}, "Parameters and values, a line a run"),
      this.chart.element,
    );
  }

  draw() {
    this.grid?.close();
    const started = new Map(this.runs.map((run) => [run.run_id, Date.parse(run.started_at ?? "") / 1000]));
    this.grid = new MetricGrid(this.runs, this.query, {
      side: this.query.get("layout") === "side",
      started,
      keep: () => this.keep(),
    });
    this.grid.add(this.metrics);
    fill(this.curves, this.grid.element);
  }

  /**
   * @param {string} name
   * @param {string} value
   */
  note(name, value) {
    if (value) this.query.set(name, value);
    else this.query.delete(name);
    this.keep();
  }

  keep() {
    history.replaceState(history.state, "", `/compare?${this.query}`);
  }

  close() {
    this.live?.close();
    this.grid?.close();
    this.chart?.close();
  }
}
