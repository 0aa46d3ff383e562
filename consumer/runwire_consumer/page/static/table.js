// A table of any length: only the rows in sight are elements; sorted by its heads, walked through by keys.

import { fill, h } from "./dom.js";
import { COLLATOR } from "./format.js";

const ROW_PIXELS = 34;
const ROWS_BEYOND = 12;

/**
 * @typedef {Object} Column
 * @property {string} key
 * @property {string} label
 * @property {boolean} [numeric] Aligned to the right.
 * @property {(row: number) => *} value What it is sorted by: number, text or null, which comes last.
 * @property {(row: number) => Node|string} cell
 * @property {string} [title] Said of the whole column.
 */

export class RowTable {
  /**
   * @param {string} caption
   * @param {{onSort?: (key: string, down: boolean) => void, onOpen?: (row: number) => void, onMark?: (row: number) => void,
   *   isMarked?: (row: number) => boolean}} [options]
   */
  constructor(caption, options = {}) {
    this.options = options;
    /** @type {Column[]} */
    this.columns = [];
    /** @type {number[]} */
    this.rows = [];
    /** @type {number[]} */
    this.order = [];
    this.sortedBy = "";
    this.down = false;
    this.current = -1;
    this.caption = h("caption", { class: "unseen" }, caption);
    this.head = h("thead");
    this.body = h("tbody");
    this.table = h("table", { class: "rows" }, this.caption, this.head, this.body);
    this.element = h(
      "div",
      {
        class: "scroll",
        tabindex: "0",
        role: "region",
        "aria-label": caption,
        onscroll: () => this.draw(),
        onkeydown: (event) => this.press(event),
      },
      this.table,
    );
    this.size = new ResizeObserver(() => this.draw());
    this.size.observe(this.element);
  }

  /**
   * @param {Column[]} columns
   */
  setColumns(columns) {
    this.columns = columns;
    fill(
      this.head,
      h(
        "tr",
        {},
        columns.map((column) => this.heading(column)),
      ),
    );
    this.arrange();
  }

  /**
   * Which rows are shown, by number; the order follows.
   *
   * @param {number[]} rows
   */
  setRows(rows) {
    this.rows = rows;
    this.arrange();
  }

  /**
   * @param {string} key
   * @param {boolean} down
   */
  sort(key, down) {
    this.sortedBy = key;
    this.down = down;
    this.setColumns(this.columns);
  }

  arrange() {
    const chosen = this.order[this.current];
    const column = this.columns.find(({ key }) => key === this.sortedBy);
    this.order = column ? sorted(this.rows, column.value, this.down) : [...this.rows];
    this.current = chosen === undefined ? -1 : this.order.indexOf(chosen);
    this.table.setAttribute("aria-rowcount", String(this.order.length + 1));
    this.draw();
  }

  /** Make the rows in sight, and two that stand for all others. */
  draw() {
    const first = Math.max(0, Math.floor(this.element.scrollTop / ROW_PIXELS) - ROWS_BEYOND);
    const count = Math.ceil((this.element.clientHeight || 600) / ROW_PIXELS) + 2 * ROWS_BEYOND;
    const last = Math.min(this.order.length, first + count);
    const focused = this.focused();
    fill(
      this.body,
      this.spacer(first),
      this.order.slice(first, last).map((row, at) => this.row(row, first + at)),
      this.spacer(this.order.length - last),
    );
    if (focused)
      /** @type {HTMLElement|undefined} */ (
        this.body.querySelectorAll(`tr[data-at="${focused.at}"] :is(a, input)`)[focused.place]
      )?.focus();
  }

  /** Which control of which row has the focus: rows are made anew, and it shall not be lost. */
  focused() {
    const row = this.body.contains(document.activeElement) ? document.activeElement.closest("tr") : null;
    return row
      ? { at: row.dataset.at, place: [...row.querySelectorAll("a, input")].indexOf(document.activeElement) }
      : null;
  }

  /**
   * @param {Column} column
   */
  heading(column) {
    const isSorted = column.key === this.sortedBy;
    const press = () => {
      const down = isSorted ? !this.down : Boolean(column.numeric);
      this.sort(column.key, down);
      this.options.onSort?.(column.key, down);
      /** @type {HTMLElement|null} */ (
        this.head.querySelector(`th:nth-child(${this.columns.indexOf(column) + 1}) button`)
      )?.focus();
    };
    return h(
      "th",
      {
        scope: "col",
        title: column.title ?? column.label,
        class: column.numeric ? "number" : "",
        "aria-sort": isSorted ? (this.down ? "descending" : "ascending") : "none",
      },
      column.label
        ? h(
            "button",
            { type: "button", onclick: press },
            column.label.length > 40 ? `${column.label.slice(0, 39)}…` : column.label,
            isSorted ? h("span", { "aria-hidden": "true" }, this.down ? " ↓" : " ↑") : null,
          )
        : null,
    );
  }

  /**
   * @param {number} row
   * @param {number} at Its place.
   */
  row(row, at) {
    const isMarked = this.options.isMarked?.(row) ?? false;
    return h(
      "tr",
      {
        "data-at": String(at),
        "aria-rowindex": String(at + 2),
        class: `${at === this.current ? "current" : ""}${isMarked ? " marked" : ""}`,
        onclick: () => {
          this.current = at;
          this.draw();
        },
      },
      this.columns.map((column) => h("td", { class: column.numeric ? "number" : "" }, column.cell(row))),
    );
  }

  /**
   * @param {number} rows
   */
  spacer(rows) {
    const made = h(
      "tr",
      { "aria-hidden": "true", class: "spacer" },
      h("td", { colspan: String(this.columns.length || 1) }),
    );
    made.style.height = `${rows * ROW_PIXELS}px`;
    return made;
  }

  /**
   * Walk by so many rows.
   *
   * @param {number} by
   */
  move(by) {
    if (!this.order.length) return;
    this.current = Math.max(0, Math.min(this.order.length - 1, this.current + by));
    const top = this.current * ROW_PIXELS;
    const seen = this.element.clientHeight - 2 * ROW_PIXELS;
    if (top < this.element.scrollTop) this.element.scrollTop = top;
    else if (top > this.element.scrollTop + seen) this.element.scrollTop = top - seen;
    this.draw();
  }

  /**
   * @param {KeyboardEvent} event
   */
  press(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.element.clientHeight / ROW_PIXELS) - 2);
    const moves = { j: 1, k: -1, ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -1e9, End: 1e9 };
    const row = this.order[this.current];
    if (event.key in moves) this.move(moves[event.key]);
    else if (event.key === "Enter" && row !== undefined && !target.closest("a, button")) this.options.onOpen?.(row);
    else if (event.key === "x" && row !== undefined) this.options.onMark?.(row);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  close() {
    this.size.disconnect();
  }
}

/**
 * Stable; what is missing stands at the end, whichever way.
 *
 * @param {number[]} rows
 * @param {(row: number) => *} value
 * @param {boolean} down
 * @returns {number[]}
 */
export function sorted(rows, value, down) {
  const sign = down ? -1 : 1;
  const missing = (held) => held === null || held === undefined || held === "" || Number.isNaN(held);
  const keyed = rows.map((row) => ({ row, held: value(row) }));
  keyed.sort((one, other) => {
    const gone = Number(missing(one.held)) - Number(missing(other.held));
    if (gone || missing(one.held)) return gone;
    const bothNumbers = typeof one.held === "number" && typeof other.held === "number";
    return sign * (bothNumbers ? one.held - other.held : COLLATOR.compare(String(one.held), String(other.held)));
  });
  return keyed.map(({ row }) => row);
}
