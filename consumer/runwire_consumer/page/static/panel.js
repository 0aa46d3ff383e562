// One chart of a grid: its curves, what stands below the pointer, its values as a table.

import { CurveChart } from "./charts.js";
import { placed, summary } from "./curves.js";
import { fill, h, table } from "./dom.js";
import { cut, number } from "./format.js";

const TABLE_ROWS = 200;

/**
 * @typedef {import("./curves.js").Curve} Curve
 * @typedef {{run_id: string, name: string, color: number}} Drawn
 */

/** One chart and what belongs to it; `runs` are those of its lines. */
export class Panel {
  /**
   * @param {import("./panels.js").MetricGrid} grid
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
    this.plot = h("div", {
      class: "plot",
      tabindex: "0",
      role: "img",
      "aria-label": `${title}: not drawn yet`,
      onkeydown: (event) => this.press(event),
    });
    this.read = h("div", { class: "read" });
    this.values = h("details", { ontoggle: () => this.list() }, h("summary", {}, "Values"), h("div"));
    this.larger = h(
      "button",
      { type: "button", class: "plain", "aria-pressed": "false", onclick: () => this.enlarge() },
      "Larger",
    );
    this.element = h(
      "figure",
      { class: "panel", "data-metric": metric },
      h("figcaption", {}, h("h3", { title, dir: "auto" }, cut(title, 120)), this.larger),
      this.plot,
      this.read,
      this.values,
    );
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
    this.chart =
      this.chart ??
      new CurveChart(this.plot, {
        onZoom: (from, to) => this.grid.zoom([from, to]),
        onReset: () => this.grid.zoom(null),
        onRead: (text) => {
          this.read.textContent = text;
        },
      });
    const lines = this.runs.flatMap((run) =>
      this.curves.get(run.run_id)?.x.length
        ? [{ label: run.name, color: run.color, curve: this.curves.get(run.run_id) }]
        : [],
    );
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
        rows.push([
          placed(this.grid.look.axis, curve.x[at]),
          ...(this.runs.length > 1 ? [run.name] : []),
          number(curve.value[at], 6),
          number(curve.min[at], 6),
          number(curve.max[at], 6),
        ]);
      }
    }
    fill(
      this.values.lastElementChild,
      table(
        `Values of ${this.metric}`,
        ["At", ...(this.runs.length > 1 ? ["Run"] : []), "Mean", "Least", "Greatest"],
        rows,
      ),
    );
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
    const zooms = {
      "+": [from + width / 4, to - width / 4],
      "=": [from + width / 4, to - width / 4],
      "-": [from - width / 2, to + width / 2],
      ArrowLeft: [from - width / 4, to - width / 4],
      ArrowRight: [from + width / 4, to + width / 4],
      0: null,
    };
    if (!(event.key in zooms)) return;
    event.preventDefault();
    this.grid.zoom(zooms[event.key]);
  }

  /** What is in sight on the axis. */
  range() {
    const curves = [...this.curves.values()].filter((curve) => curve.x.length);
    if (!curves.length) return null;
    return (
      this.grid.look.range ?? [
        Math.min(...curves.map((curve) => curve.x[0])),
        Math.max(...curves.map((curve) => curve.x[curve.x.length - 1])),
      ]
    );
  }

  hide() {
    this.isSeen = false;
    this.chart?.close();
    this.chart = null;
  }
}
