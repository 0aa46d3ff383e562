// One chart of curves: a line a run, between the least and the greatest value of each bucket, drawn by uPlot.

import { inOrder, nearest, placed, smoothed } from "./curves.js";
import { duration, number } from "./format.js";
import uPlot from "./vendor/uplot.js";

export const COLORS = 10;

/**
 * @typedef {{label: string, color: number, curve: import("./curves.js").Curve}} Line
 * @typedef {{axis: string, log: boolean, smoothing: number, range: [number, number]|null}} Look
 */

/**
 * A colour of the theme.
 *
 * @param {string} name
 * @returns {string}
 */
export function themed(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/**
 * @param {number} at
 * @returns {string}
 */
export function lineColor(at) {
  return themed(`series-${(at % COLORS) + 1}`);
}

export class CurveChart {
  /**
   * @param {HTMLElement} box Of a size of its own.
   * @param {{onZoom: (from: number, to: number) => void, onReset: () => void, onRead: (text: string) => void}} told
   */
  constructor(box, told) {
    this.box = box;
    this.told = told;
    /** @type {uPlot|null} */
    this.plot = null;
    this.shape = "";
    /** @type {Line[]} */
    this.lines = [];
    this.size = new ResizeObserver(() => this.plot?.setSize(this.room()));
    this.size.observe(box);
  }

  room() {
    return { width: Math.max(120, this.box.clientWidth), height: Math.max(100, this.box.clientHeight) };
  }

  /**
   * @param {Line[]} lines
   * @param {Look} look
   */
  draw(lines, look) {
    this.lines = lines.map((line) => ({ ...line, curve: inOrder(line.curve) }));
    this.look = look;
    const shape = JSON.stringify([
      lines.map(({ color }) => color),
      look.axis,
      look.log,
      look.smoothing > 0,
      document.documentElement.dataset.theme,
    ]);
    const data = this.data();
    if (this.plot && shape === this.shape) {
      this.plot.setData(data);
    } else {
      this.plot?.destroy();
      this.plot = new uPlot(this.options(), data, this.box);
      this.shape = shape;
    }
  }

  /** Columns as uPlot takes them: x, then of each line greatest, least, value and, where it is asked for, smoothed. */
  data() {
    const { log, smoothing } = this.look;
    const drawn = (values) => (log ? values.map((value) => (value > 0 ? value : null)) : values);
    const tables = this.lines.map(({ curve }) => [
      curve.x,
      drawn(curve.max),
      drawn(curve.min),
      drawn(curve.value),
      ...(smoothing > 0 ? [drawn(smoothed(curve.value, smoothing))] : []),
    ]);
    if (!tables.length) return [[]];
    return /** @type {uPlot.AlignedData} */ (tables.length === 1 ? tables[0] : uPlot.join(tables));
  }

  /** @returns {uPlot.Options} */
  options() {
    const { axis, log, smoothing } = this.look;
    const each = smoothing > 0 ? 4 : 3;
    const series = [{}];
    const bands = [];
    this.lines.forEach(({ label, color }, at) => {
      const hex = lineColor(color);
      const line = (stroke, width) => ({ label, stroke, width, points: { show: false }, spanGaps: false });
      series.push(line(`${hex}55`, 1), line(`${hex}55`, 1), {
        ...line(smoothing > 0 ? `${hex}60` : hex, smoothing > 0 ? 1 : 1.6),
        points: { show: (plot, index) => lonely(plot.data[index]), size: 5 },
      });
      if (smoothing > 0) series.push(line(hex, 2));
      bands.push({ series: [at * each + 1, at * each + 2], fill: `${hex}22` });
    });
    const drawnAxis = {
      stroke: themed("quiet"),
      grid: { stroke: themed("grid"), width: 1 },
      ticks: { stroke: themed("grid"), width: 1 },
      font: "11px system-ui",
    };
    const values =
      axis === "time"
        ? {}
        : { values: (_, splits) => splits.map((split) => (axis === "step" ? compact(split) : duration(split))) };
    return {
      ...this.room(),
      series,
      bands,
      scales: {
        x: {
          time: axis === "time",
          range: (_, low, high) => this.look.range ?? (low === high ? [low - 1, high + 1] : [low, high]),
        },
        y: log ? { distr: 3 } : {},
      },
      axes: [
        { ...drawnAxis, ...values, space: 70 },
        {
          ...drawnAxis,
          size: 56,
          values: (_, splits) => splits.map((split) => (split === null ? "" : number(split, 3))),
        },
      ],
      legend: { show: false },
      cursor: {
        drag: { x: true, y: false, setScale: false },
        sync: { key: `runwire-${axis}` },
        points: { show: false },
        bind: {
          dblclick: () => () => {
            this.told.onReset();
            return null;
          },
        },
      },
      hooks: {
        setSelect: [(plot) => this.select(plot)],
        setCursor: [(plot) => this.read(plot)],
        draw: [(plot) => this.mark(plot)],
      },
    };
  }

  /**
   * @param {uPlot} plot
   */
  select(plot) {
    const { left, width } = plot.select;
    if (width < 4) return;
    const from = plot.posToVal(left, "x");
    const to = plot.posToVal(left + width, "x");
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.told.onZoom(from, to);
  }

  /**
   * What stands below the pointer.
   *
   * @param {uPlot} plot
   */
  read(plot) {
    const { left } = plot.cursor;
    if (left === undefined || left === null || left < 0 || !this.lines.length) return this.told.onRead("");
    const x = plot.posToVal(left, "x");
    const found = this.lines
      .map(({ label, curve }) => ({ label, curve, at: nearest(curve.x, x) }))
      .filter(({ at }) => at >= 0);
    const values = found.map(({ label, curve, at }) => {
      const spread = curve.min[at] !== curve.max[at] ? ` (${number(curve.min[at])} … ${number(curve.max[at])})` : "";
      return `${this.lines.length > 1 ? `${label}: ` : ""}${curve.value[at] === null ? "not finite" : number(curve.value[at])}${spread}`;
    });
    return this.told.onRead(
      found.length ? `${placed(this.look.axis, found[0].curve.x[found[0].at])} — ${values.join(" · ")}` : "",
    );
  }

  /**
   * A cross on top where values are NaN or infinite.
   *
   * @param {uPlot} plot
   */
  mark(plot) {
    const { ctx } = plot;
    const size = 4 * devicePixelRatio;
    const top = plot.bbox.top + 2 * size;
    ctx.save();
    ctx.lineWidth = 2 * devicePixelRatio;
    this.lines.forEach(({ color, curve }) => {
      ctx.strokeStyle = lineColor(color);
      ctx.beginPath();
      curve.nonfinite.forEach((count, at) => {
        const x = count ? plot.valToPos(curve.x[at], "x", true) : -1;
        if (x < plot.bbox.left || x > plot.bbox.left + plot.bbox.width) return;
        ctx.moveTo(x - size, top - size);
        ctx.lineTo(x + size, top + size);
        ctx.moveTo(x + size, top - size);
        ctx.lineTo(x - size, top + size);
      });
      ctx.stroke();
    });
    ctx.restore();
  }

  close() {
    this.size.disconnect();
    this.plot?.destroy();
    this.plot = null;
  }
}

/**
 * A line of one point is none: it gets a dot.
 *
 * @param {(number|null|undefined)[]} values
 */
function lonely(values) {
  return values.filter((value) => value !== null && value !== undefined).length === 1;
}

/**
 * @param {number} value
 * @returns {string}
 */
function compact(value) {
  const size = Math.abs(value);
  if (size >= 1e9) return `${number(value / 1e9, 4)} G`;
  if (size >= 1e6) return `${number(value / 1e6, 4)} M`;
  return size >= 1e4 ? `${number(value / 1e3, 4)} k` : number(value, 5);
}
