// Parallel coordinates: an axis a parameter or metric, a line a run; what is drawn stands in the tables beside it.

import { h } from "./dom.js";
import { COLLATOR, cut, number } from "./format.js";
import { lineColor, themed } from "./charts.js";

const TOP = 34;
const BOTTOM = 26;
const SIDE = 60;

/**
 * @typedef {{label: string, values: Array, numeric: boolean}} Axis
 */

export class ParallelChart {
  /**
   * @param {Axis[]} axes
   * @param {Array<{key: string, color: number}>} lines
   */
  constructor(axes, lines) {
    this.lines = lines;
    this.axes = axes.map(scaled);
    this.strong = null;
    this.canvas = /** @type {HTMLCanvasElement} */ (
      h("canvas", {
        class: "parallel",
        role: "img",
        "aria-label": `Parallel coordinates of ${lines.length} runs over ${axes.map(({ label }) => cut(label, 60)).join(", ")}; the tables above hold the values.`,
      })
    );
    this.element = this.canvas;
    this.size = new ResizeObserver(() => this.draw());
    this.size.observe(this.canvas);
    this.redraw = () => this.draw();
    document.addEventListener("runwire:theme", this.redraw);
  }

  /**
   * @param {string|null} key
   */
  highlight(key) {
    this.strong = key;
    this.draw();
  }

  draw() {
    const ratio = devicePixelRatio;
    const width = this.canvas.clientWidth;
    const height = this.canvas.clientHeight;
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    const ctx = this.canvas.getContext("2d");
    ctx.scale(ratio, ratio);
    ctx.clearRect(0, 0, width, height);
    ctx.font = "11px system-ui";
    ctx.textAlign = "center";
    const gap = (width - 2 * SIDE) / Math.max(1, this.axes.length - 1);
    const x = (at) => SIDE + at * gap;
    const y = (part) => height - BOTTOM - part * (height - TOP - BOTTOM);
    this.axes.forEach((axis, at) => {
      ctx.strokeStyle = themed("line");
      ctx.lineWidth = 1;
      ctx.beginPath();
      ctx.moveTo(x(at), y(0));
      ctx.lineTo(x(at), y(1));
      ctx.stroke();
      ctx.fillStyle = themed("text");
      ctx.fillText(cut(axis.label, Math.max(6, Math.floor(gap / 7))), x(at), 14);
      ctx.fillStyle = themed("quiet");
      for (const [part, text] of axis.ticks)
        ctx.fillText(cut(text, 14), x(at), part === 0 && axis.numeric ? height - 8 : y(part) - 6);
    });
    this.lines.forEach(({ key, color }, row) => {
      ctx.strokeStyle = lineColor(color);
      ctx.globalAlpha = this.strong === null || this.strong === key ? 1 : 0.15;
      ctx.lineWidth = this.strong === key ? 3 : 1.8;
      ctx.beginPath();
      let isDrawing = false;
      this.axes.forEach((axis, at) => {
        const part = axis.parts[row];
        if (part === null) isDrawing = false;
        else if (isDrawing) ctx.lineTo(x(at), y(part));
        else {
          ctx.moveTo(x(at), y(part));
          isDrawing = true;
        }
      });
      ctx.stroke();
    });
    ctx.globalAlpha = 1;
  }

  close() {
    this.size.disconnect();
    document.removeEventListener("runwire:theme", this.redraw);
  }
}

/**
 * Where each value stands between 0 and 1: numbers by size (by magnitude, where they span more than two), texts in order.
 *
 * @param {Axis} axis
 */
function scaled({ label, values, numeric }) {
  const is = (value) => value !== null && value !== undefined && value !== "";
  if (!numeric) {
    const words = [...new Set(values.filter(is).map(String))].sort(COLLATOR.compare);
    const part = (word) => (words.length === 1 ? 0.5 : words.indexOf(word) / (words.length - 1));
    return {
      label,
      numeric,
      parts: values.map((value) => (is(value) ? part(String(value)) : null)),
      ticks: words.length <= 12 ? words.map((word) => /** @type {[number, string]} */ ([part(word), word])) : [],
    };
  }
  const numbers = values.filter(is).map(Number);
  const low = Math.min(...numbers);
  const high = Math.max(...numbers);
  const place = low > 0 && high / low > 100 ? Math.log : (value) => value;
  const part = (value) => (high === low ? 0.5 : (place(value) - place(low)) / (place(high) - place(low)));
  return {
    label,
    numeric,
    parts: values.map((value) => (is(value) ? part(Number(value)) : null)),
    ticks: /** @type {[number, string][]} */ (
      low === high
        ? [[0.5, number(low)]]
        : [
            [0, number(low)],
            [1, number(high)],
          ]
    ),
  };
}
