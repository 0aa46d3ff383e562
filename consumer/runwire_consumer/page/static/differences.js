// What differs between runs: their parameters and their values, as tables with a column a run.

import { COLORS } from "./charts.js";
import { fill, h, table } from "./dom.js";
import { COLLATOR, cut, duration, moment, number, plainly } from "./format.js";

/**
 * Names of the parameters in which runs differ.
 *
 * @param {Object[]} runs
 * @returns {string[]}
 */
export function differingParams(runs) {
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.params)))].sort(COLLATOR.compare);
  return names.filter((name) => new Set(runs.map((run) => run.params[name] ?? null)).size > 1);
}

/**
 * @param {Object[]} runs
 * @returns {HTMLElement[]} A head a run.
 */
function heads(runs) {
  return runs.map((run) => h("span", { title: run.name, dir: "auto" }, swatch(run.color), cut(run.name, 40)));
}

/**
 * The parameters that differ, and all of them where that is wanted.
 *
 * @param {Object[]} runs
 * @param {string[]} differing
 */
export function paramsSection(runs, differing) {
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.params)))].sort(COLLATOR.compare);
  const box = h("div", { class: "wide" });
  const facts = [
    ["Started", (run) => moment(run.started_at)],
    ["Duration", (run) => duration(run.duration_seconds)],
    ["Commit", (run) => (run.commit ? `${run.commit.slice(0, 8)}${run.dirty ? "+" : ""}` : "")],
  ];
  const draw = (all) => {
    const shown = all ? names : differing;
    const rows = [
      ...shown.map((name) => [
        h("bdi", {}, cut(name, 80)),
        ...runs.map((run) => h("bdi", {}, cut(plainly(run.params[name]), 200))),
      ]),
      ...facts.map(([name, of]) => [name, ...runs.map(of)]),
    ];
    fill(box, table(all ? "All parameters" : "Parameters that differ", ["", ...heads(runs)], rows));
  };
  const all = h("input", { type: "checkbox", id: "all-params", onchange: () => draw(all.checked) });
  draw(false);
  return h(
    "section",
    { "aria-label": "Parameters" },
    h("h2", {}, "Parameters that differ"),
    names.length > differing.length ? h("label", {}, all, ` Show all ${names.length}`) : null,
    box,
  );
}

/**
 * The value that stands for a run's metric: its best where that is defined, else its last.
 *
 * @param {Object} run
 * @param {string} metric
 */
export function valueOf(run, metric) {
  const value = run.best[metric] ?? run.last[metric];
  return value === undefined ? null : value;
}

/**
 * @param {Object[]} runs
 * @param {string[]} metrics
 * @param {Map<string, string|null>} best What is best of a metric: min or max.
 */
export function valuesSection(runs, metrics, best) {
  const own = metrics.filter(isOwn);
  const others = metrics.filter((name) => !isOwn(name));
  return h(
    "section",
    { "aria-label": "Values" },
    h("h2", {}, "Values"),
    h(
      "p",
      { class: "quiet" },
      "The best value where a metric says what is best, and then marked; of others the last one.",
    ),
    h("div", { class: "wide" }, table("Values of each run", ["", ...heads(runs)], rowsOf(runs, own, best))),
    others.length
      ? h(
          "details",
          {},
          h("summary", {}, "System and time"),
          h(
            "div",
            { class: "wide" },
            table("System and time of each run", ["", ...heads(runs)], rowsOf(runs, others, best)),
          ),
        )
      : null,
  );
}

/**
 * @param {Object[]} runs
 * @param {string[]} metrics
 * @param {Map<string, string|null>} directions
 */
function rowsOf(runs, metrics, directions) {
  return metrics.map((metric) => {
    const direction = directions.get(metric);
    const values = runs.map((run) => valueOf(run, metric));
    const finite = values.filter((value) => typeof value === "number");
    const best = direction === "min" ? Math.min(...finite) : direction === "max" ? Math.max(...finite) : null;
    const isBest = (value) => best !== null && value === best && finite.length > 1;
    return [
      h("bdi", { title: metric }, cut(metric, 80), direction ? ` (${direction})` : ""),
      ...values.map((value) =>
        isBest(value)
          ? h("strong", { class: "best" }, `${number(value)} ★`, h("span", { class: "unseen" }, " best"))
          : number(value),
      ),
    ];
  });
}

/**
 * What comes by itself tells nothing about a model.
 *
 * @param {string} metric
 */
export function isOwn(metric) {
  return !/^(system|time)\//.test(metric);
}

/**
 * @param {number} color
 */
export function swatch(color) {
  const made = h("span", { class: "swatch", "aria-hidden": "true" });
  made.style.setProperty("--swatch", `var(--series-${(color % COLORS) + 1})`);
  return made;
}
