// Questions in SQL: the answer as a table, as a chart of its columns, and as a file.

import { download, select } from "./api.js";
import { fill, h, say } from "./dom.js";
import { cut, number, plainly } from "./format.js";
import { ColumnChart } from "./columns.js";
import { RowTable } from "./table.js";

const ADDRESS_CHARACTERS_MAX = 6000;
const FORMATS = ["csv", "json", "parquet", "arrow"];

const EXAMPLES = /** @type {Array<[string, string]>} */ ([
  ["The newest runs", "SELECT name, state, started_at, params, best\nFROM runs\nORDER BY started_at DESC\nLIMIT 20"],
  [
    "Which parameters were best",
    "SELECT name, params['lr'] AS lr, best['val/acc'] AS acc, \"commit\"\nFROM runs\nWHERE best['val/acc'] IS NOT NULL\nORDER BY acc DESC",
  ],
  [
    "A curve",
    'SELECT step, value, "min", "max"\nFROM curves\nWHERE metric = \'train/loss\' AND run_id = (SELECT run_id FROM runs ORDER BY started_at DESC LIMIT 1)\nORDER BY step',
  ],
  ["What is not stored", 'SELECT run_id, "rank", kind, sum(rows) AS rows\nFROM gaps\nGROUP BY ALL\nORDER BY rows DESC'],
]);

export const keys = /** @type {Array<[string, string]>} */ ([
  ["Ctrl Enter", "Run the query"],
  ["Esc", "Leave the editor"],
]);

/**
 * @param {HTMLElement} main
 * @param {URL} url
 */
export async function show(main, url) {
  document.title = "SQL · Runwire";
  const view = new SqlView(main, url.searchParams);
  return () => view.close();
}

class SqlView {
  /**
   * A link shows its query; people run it.
   *
   * @param {HTMLElement} main
   * @param {URLSearchParams} query
   */
  constructor(main, query) {
    this.query = query;
    this.editor = /** @type {HTMLTextAreaElement} */ (
      h("textarea", {
        id: "query",
        spellcheck: "false",
        "aria-label": "One SELECT",
        onkeydown: (event) => this.press(event),
      })
    );
    this.editor.value = query.get("q") ?? EXAMPLES[0][1];
    this.start = h("button", { type: "button", class: "main", onclick: () => void this.run() }, "Run");
    this.told = h("span", { class: "quiet", role: "status" });
    this.wrong = h("p", { class: "wrong", role: "alert" });
    this.answer = h("div");
    this.relations = h("div");
    this.asked = new AbortController();
    fill(
      main,
      h(
        "div",
        { class: "sql" },
        h("h1", { class: "unseen" }, "SQL"),
        h(
          "div",
          { class: "side" },
          h(
            "div",
            {},
            this.editor,
            h(
              "div",
              { class: "tools" },
              this.start,
              this.told,
              h("span", { class: "grow" }),
              FORMATS.map((format) =>
                h(
                  "button",
                  { type: "button", onclick: () => void this.save(format) },
                  format === "csv" || format === "json"
                    ? format.toUpperCase()
                    : format[0].toUpperCase() + format.slice(1),
                ),
              ),
            ),
            this.wrong,
            this.answer,
          ),
          h(
            "aside",
            { "aria-label": "What can be asked" },
            h("h2", {}, "Examples"),
            h(
              "ul",
              {},
              EXAMPLES.map(([title, text]) =>
                h("li", {}, h("button", { type: "button", class: "plain", onclick: () => this.take(text) }, title)),
              ),
            ),
            h("h2", {}, "What there is"),
            this.relations,
          ),
        ),
      ),
    );
    void this.list().catch((error) => fill(this.relations, error.message));
  }

  /** What there is to ask, as the store itself tells it. */
  async list() {
    const [relations, columns] = await Promise.all([
      select("SELECT name, call, meaning FROM relations"),
      select("SELECT relation, name, meaning FROM columns"),
    ]);
    fill(
      this.relations,
      relations.rows.map(({ name, call, meaning }) =>
        h(
          "details",
          {},
          h("summary", {}, h("code", {}, call), " ", h("span", { class: "quiet" }, meaning)),
          h(
            "ul",
            {},
            columns.rows
              .filter(({ relation }) => relation === name)
              .map((column) =>
                h("li", {}, h("code", {}, column.name), " ", h("span", { class: "quiet" }, column.meaning)),
              ),
          ),
        ),
      ),
    );
  }

  /**
   * @param {string} text
   */
  take(text) {
    this.editor.value = text;
    this.editor.focus();
  }

  /**
   * @param {KeyboardEvent} event
   */
  press(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      void this.run();
    } else if (event.key === "Escape") {
      this.start.focus();
    }
  }

  async run() {
    this.asked.abort();
    this.asked = new AbortController();
    const { signal } = this.asked;
    const text = this.editor.value;
    const began = performance.now();
    this.wrong.textContent = "";
    this.told.textContent = "Running …";
    this.keep(text);
    try {
      const { columns, rows } = await select(text, null, signal);
      if (signal.aborted) return;
      this.told.textContent = `${number(rows.length)} rows, ${number((performance.now() - began) / 1000, 3)} s`;
      say(this.told.textContent);
      this.draw(columns, rows);
    } catch (error) {
      if (signal.aborted) return;
      this.told.textContent = "";
      this.wrong.textContent = error.message;
    }
  }

  /**
   * @param {string} text
   */
  keep(text) {
    const address = `/sql?${new URLSearchParams({ q: text })}`;
    history.replaceState(history.state, "", address.length <= ADDRESS_CHARACTERS_MAX ? address : "/sql");
  }

  /**
   * @param {string[]} columns
   * @param {Object<string, *>[]} rows
   */
  draw(columns, rows) {
    this.clear();
    this.table = new RowTable("Answer");
    fill(this.answer, this.table.element);
    this.table.setColumns(
      columns.map((name) => ({
        key: name,
        label: name,
        numeric: rows.some((row) => typeof row[name] === "number"),
        value: (row) => rows[row][name],
        cell: (row) => this.cell(rows[row][name]),
      })),
    );
    this.table.setRows(rows.map((_, row) => row));
    if (rows.length > 1) {
      this.chart = new ColumnChart(columns, rows);
      if (this.chart.isPossible) this.answer.appendChild(this.chart.element);
    }
  }

  /**
   * @param {*} value
   */
  cell(value) {
    const text = plainly(value);
    return text.length > 100 ? h("span", { title: cut(text, 5000) }, cut(text, 100)) : text;
  }

  /**
   * @param {string} format
   */
  async save(format) {
    this.wrong.textContent = "";
    try {
      const file = URL.createObjectURL(await download(this.editor.value, format));
      h("a", { href: file, download: `runwire.${format}` }).click();
      setTimeout(() => URL.revokeObjectURL(file), 60_000);
    } catch (error) {
      this.wrong.textContent = error.message;
    }
  }

  clear() {
    this.table?.close();
    this.chart?.close();
    this.table = this.chart = undefined;
  }

  close() {
    this.asked.abort();
    this.clear();
  }
}
