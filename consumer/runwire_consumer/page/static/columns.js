// A chart of an answer's columns: one along, one or more up.

import { fill, h } from "./dom.js";
import { cut, number } from "./format.js";
import { COLORS, lineColor, themed } from "./charts.js";
import uPlot from "./vendor/uplot.js";

const LINES_MAX = 10;

export class ColumnChart {
  /**
   * @param {string[]} columns
   * @param {Object<string, *>[]} rows
   */
  constructor(columns, rows) {
    this.rows = rows;
    const some = (test) => columns.filter((name) => rows.some((row) => test(row[name])));
    this.numeric = some((value) => typeof value === "number");
    this.times = some(isTime).filter((name) => !this.numeric.includes(name));
    const along = [
      ...new Set([...["step", "time"].filter((name) => columns.includes(name)), ...this.times, ...this.numeric]),
    ].filter((name) => this.times.includes(name) || this.numeric.includes(name));
    this.isPossible = this.numeric.length > 0;
    this.x = h(
      "select",
      { id: "chart-x", onchange: () => this.draw() },
      h("option", { value: "" }, "Row"),
      along.map((name, at) =>
        h(
          "option",
          {
            value: name,
            selected:
              at === 0 && (name === "step" || name === "time" || this.times.includes(name) || this.numeric.length > 1),
          },
          cut(name, 60),
        ),
      ),
    );
    this.kind = h(
      "select",
      { id: "chart-kind", onchange: () => this.draw() },
      h("option", { value: "line" }, "Line"),
      h("option", { value: "points" }, "Points"),
    );
    this.chosen = h("span", { role: "group", "aria-label": "Columns that are drawn" });
    const first = this.numeric.find((name) => name !== this.x.value);
    fill(
      this.chosen,
      this.numeric
        .slice(0, 40)
        .map((name) =>
          h(
            "label",
            {},
            h("input", { type: "checkbox", value: name, checked: name === first, onchange: () => this.draw() }),
            " ",
            h("bdi", {}, cut(name, 40)),
            " ",
          ),
        ),
    );
    this.box = h("div", { class: "plot", role: "img" });
    this.element = h(
      "figure",
      { class: "panel large" },
      h(
        "figcaption",
        { class: "tools" },
        h("label", {}, "Along", this.x),
        h("label", {}, "Up", this.chosen),
        h("label", {}, "As", this.kind),
      ),
      this.box,
    );
    this.size = new ResizeObserver(() => this.draw());
    this.size.observe(this.box);
    this.redraw = () => this.draw();
    document.addEventListener("runwire:theme", this.redraw);
  }

  draw() {
    const names = [...this.chosen.querySelectorAll("input:checked")]
      .map((input) => /** @type {HTMLInputElement} */ (input).value)
      .slice(0, LINES_MAX);
    const along = this.x.value;
    const isTimed = this.times.includes(along);
    const place = (row, at) => (along === "" ? at : isTimed ? Date.parse(row[along]) / 1000 : row[along]);
    const placed = this.rows
      .map((row, at) => ({ row, x: place(row, at) }))
      .filter(({ x }) => typeof x === "number" && Number.isFinite(x))
      .sort((one, other) => one.x - other.x);
    this.plot?.destroy();
    this.plot = null;
    this.box.setAttribute(
      "aria-label",
      `${names.join(", ") || "Nothing"} along ${along || "the rows"}, ${number(placed.length)} points; the table above holds the values.`,
    );
    if (!names.length || !this.box.clientWidth) return;
    const data = [
      placed.map(({ x }) => x),
      ...names.map((name) => placed.map(({ row }) => (typeof row[name] === "number" ? row[name] : null))),
    ];
    const drawn = {
      stroke: themed("quiet"),
      grid: { stroke: themed("grid"), width: 1 },
      ticks: { stroke: themed("grid"), width: 1 },
      font: "11px system-ui",
    };
    const points = this.kind.value === "points";
    this.plot = new uPlot(
      {
        width: this.box.clientWidth,
        height: Math.max(200, this.box.clientHeight),
        legend: { show: false },
        scales: { x: { time: isTimed } },
        axes: [{ ...drawn }, { ...drawn, size: 64, values: (_, splits) => splits.map((split) => number(split, 4)) }],
        series: [
          {},
          ...names.map((name, at) => ({
            label: name,
            stroke: lineColor(at % COLORS),
            width: points ? 0 : 1.6,
            paths: points ? () => null : undefined,
            points: { show: points, size: 5, fill: lineColor(at % COLORS) },
          })),
        ],
      },
      /** @type {uPlot.AlignedData} */ (data),
      this.box,
    );
  }

  close() {
    this.size.disconnect();
    document.removeEventListener("runwire:theme", this.redraw);
    this.plot?.destroy();
  }
}

/**
 * @param {*} value
 */
function isTime(value) {
  return typeof value === "string" && /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}/.test(value);
}
