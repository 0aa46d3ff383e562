// All runs: sorted, filtered, searched, with their states as they change; chosen to be compared.

import { address, follow, get } from "./api.js";
import { calmly, fill, h, say } from "./dom.js";
import { cut, number } from "./format.js";
import { chooseColumns, runColumns } from "./runtable.js";
import { RowTable } from "./table.js";

const COMPARED_MAX = 20;

export const keys = /** @type {Array<[string, string]>} */ ([
  ["/", "Search"],
  ["j k", "Next and last run"],
  ["Enter", "Open it"],
  ["x", "Choose it"],
  ["c", "Compare what is chosen"],
]);

/**
 * @param {HTMLElement} main
 * @param {URL} url
 */
export async function show(main, url) {
  document.title = "Runs · Runwire";
  const view = new RunsView(main, url);
  await view.load();
  return () => view.close();
}

class RunsView {
  /**
   * @param {HTMLElement} main
   * @param {URL} url
   */
  constructor(main, url) {
    this.main = main;
    this.query = url.searchParams;
    /** @type {Set<string>} */
    this.chosen = new Set(this.query.getAll("run"));
    this.live = null;
    this.press = (event) => this.pressed(event);
  }

  async load() {
    // What is absent is the server's choice; an empty one is nobody's.
    const names = ["project", "metric", "param"].flatMap((name) =>
      this.query.getAll(name).map((value) => /** @type {[string, string]} */ ([name, value])),
    );
    this.data = await get(
      "/api/table",
      names.filter(([name, value]) => name !== "project" || value),
    );
    this.place = new Map(this.data.columns.run_id.map((id, row) => [id, row]));
    this.build();
    const metrics = Object.keys(this.data.metrics).map((name) => /** @type {[string, string]} */ (["metric", name]));
    this.live = follow(metrics, (told) => this.hear(told));
    document.addEventListener("keydown", this.press);
  }

  build() {
    const { columns } = this.data;
    this.search = h("input", {
      type: "search",
      id: "search",
      placeholder: "Search: name, tag, param …",
      "aria-label": "Search the runs",
      value: (this.query.get("q") ?? "").replace(/\s+/g, " "),
      oninput: calmly(() => this.filter(), 60),
    });
    this.project = this.selection(
      "project",
      "All projects",
      [...new Set([...columns.project, ...this.query.getAll("project")])],
      () => this.reload(),
    );
    this.state = this.selection("state", "All states", [...new Set(columns.state)], () => this.filter());
    this.compare = h("a", { href: "/compare", class: "button" });
    this.count = h("span", { class: "quiet", role: "status" });
    this.table = new RowTable("Runs", {
      onSort: (key, down) => this.remember("sort", `${down ? "-" : ""}${key}`),
      onOpen: (row) => this.go(`/runs/${encodeURIComponent(columns.run_id[row])}`),
      onMark: (row) => this.choose(row),
      isMarked: (row) => this.chosen.has(columns.run_id[row]),
    });
    fill(
      this.main,
      h("h1", { class: "unseen" }, "Runs"),
      h(
        "div",
        { class: "tools", role: "search" },
        this.search,
        this.project,
        this.state,
        h(
          "button",
          {
            type: "button",
            onclick: () => void chooseColumns(this.data, this.query, () => this.go(`/?${this.query}`)),
          },
          "Columns",
        ),
        this.compare,
        this.count,
      ),
      this.data.note && h("p", { class: "note", role: "note" }, this.data.note),
      columns.run_id.length
        ? this.table.element
        : h(
            "div",
            { class: "empty" },
            h("p", {}, "Nothing is tracked yet. In a training script:"),
            h(
              "pre",
              {},
              'import runwire\n\nrun = runwire.init("my-project", params={"lr": 0.1})\nfor step in range(100):\n    run.log({"train/loss": 1 / (step + 1)}, step=step)',
            ),
            h("p", {}, "This page shows it as it comes."),
          ),
    );
    const sort = this.query.get("sort") ?? "";
    this.table.sort(sort.replace(/^-/, ""), sort.startsWith("-"));
    this.table.setColumns(runColumns(this.data, (row) => this.box(row)));
    this.filter();
    this.tellChosen();
  }

  /**
   * @param {number} row
   */
  box(row) {
    const id = this.data.columns.run_id[row];
    return h("input", {
      type: "checkbox",
      checked: this.chosen.has(id),
      "aria-label": `Choose ${cut(this.data.columns.name[row], 60)}`,
      onclick: (event) => {
        event.stopPropagation();
        this.choose(row);
      },
    });
  }

  /**
   * @param {string} name
   * @param {string} all
   * @param {string[]} values
   * @param {() => void} changed
   */
  selection(name, all, values, changed) {
    const chosen = this.query.get(name) ?? "";
    return h(
      "select",
      { "aria-label": name === "state" ? "State" : "Project", onchange: changed },
      h("option", { value: "" }, all),
      [...values].sort().map((value) => h("option", { value, selected: value === chosen }, cut(value, 60))),
    );
  }

  filter() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const state = this.state.value;
    this.remember("q", this.search.value);
    this.remember("state", state);
    const rows = this.data.columns.run_id
      .map((_, row) => row)
      .filter(
        (row) =>
          (!state || this.data.columns.state[row] === state) && words.every((word) => this.text(row).includes(word)),
      );
    this.table.setRows(rows);
    this.count.textContent = `${number(rows.length)} of ${number(this.data.columns.run_id.length)} runs`;
  }

  /**
   * What is searched of a run.
   *
   * @param {number} row
   */
  text(row) {
    this.texts = this.texts ?? new Map();
    if (!this.texts.has(row)) {
      const { columns, params } = this.data;
      const parts = [columns.name, columns.run_id, columns.project, columns.group, columns.user, columns.commit].map(
        (column) => column[row] ?? "",
      );
      this.texts.set(
        row,
        [
          ...parts,
          ...columns.tags[row],
          ...Object.entries(params).flatMap(([name, values]) =>
            values[row] === null ? [] : [`${name}=${values[row]}`],
          ),
        ]
          .join("\n")
          .toLowerCase(),
      );
    }
    return `${this.texts.get(row)}\n${this.data.columns.state[row]}`;
  }

  /**
   * @param {number} row
   */
  choose(row) {
    const id = this.data.columns.run_id[row];
    if (!this.chosen.delete(id)) {
      if (this.chosen.size >= COMPARED_MAX) return say(`At most ${COMPARED_MAX} runs are compared.`);
      this.chosen.add(id);
    }
    say(`${this.chosen.size} chosen`);
    this.query.delete("run");
    for (const other of this.chosen) this.query.append("run", other);
    this.keep();
    this.table.draw();
    this.tellChosen();
  }

  tellChosen() {
    this.compare.textContent = this.chosen.size ? `Compare ${this.chosen.size}` : "Compare";
    this.compare.setAttribute(
      "href",
      address(
        "/compare",
        [...this.chosen].map((id) => ["run", id]),
      ),
    );
    this.compare.classList.toggle("main", this.chosen.size > 1);
  }

  reload() {
    this.query.set("project", this.project.value);
    if (!this.project.value) this.query.delete("project");
    this.go(`/?${this.query}`);
  }

  /**
   * @param {string} name
   * @param {string} value
   */
  remember(name, value) {
    if (value) this.query.set(name, value);
    else this.query.delete(name);
    this.keep();
  }

  keep() {
    const text = this.query.toString();
    history.replaceState(history.state, "", text ? `/?${text}` : "/");
  }

  /**
   * @param {{runs?: Object[], metrics?: Object[]}} told
   */
  hear(told) {
    let fresh = false;
    let changed = false;
    const set = (column, row, value) => {
      changed = changed || column[row] !== value;
      column[row] = value;
    };
    for (const run of told.runs ?? []) {
      const row = this.place.get(run.run_id);
      if (row !== undefined) set(this.data.columns.state, row, run.state);
      else fresh = fresh || !this.query.get("project") || this.query.get("project") === run.project;
    }
    for (const { run_id: id, metric, value } of told.metrics ?? []) {
      const row = this.place.get(id);
      if (row !== undefined && metric in this.data.metrics && !this.data.best.includes(metric))
        set(this.data.metrics[metric], row, value);
    }
    if (changed) this.table.draw();
    if (fresh) this.refresh();
  }

  /** There are runs that the table doesn't have. */
  refresh() {
    this.refreshing =
      this.refreshing ??
      setTimeout(async () => {
        const found = await get("/api/table", [
          ...Object.keys(this.data.metrics).map((name) => ["metric", name]),
          ...Object.keys(this.data.params).map((name) => ["param", name]),
          ["project", this.query.get("project")],
        ]).catch(() => null);
        this.refreshing = undefined;
        if (!found || this.closed) return;
        const wasEmpty = !this.data.columns.run_id.length;
        this.data = found;
        this.texts = undefined;
        this.place = new Map(found.columns.run_id.map((id, row) => [id, row]));
        if (wasEmpty) return this.go(`/?${this.query}`);
        this.table.setColumns(runColumns(this.data, (row) => this.box(row)));
        this.filter();
      }, 1000);
  }

  /**
   * @param {string} where
   */
  go(where) {
    document.dispatchEvent(new CustomEvent("runwire:navigate", { detail: where }));
  }

  /**
   * @param {KeyboardEvent} event
   */
  pressed(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || target.closest("dialog")) return;
    if (target === this.search && event.key === "Escape") return this.table.element.focus();
    if (target.matches("input:not([type=checkbox]), select, textarea")) return undefined;
    if (event.key === "/") this.search.focus();
    else if (event.key === "c" && this.chosen.size) this.go(this.compare.getAttribute("href"));
    else if (!event.defaultPrevented && ["j", "k", "x"].includes(event.key)) this.table.press(event);
    else if (!event.defaultPrevented && event.key === "Enter" && (target === document.body || target === this.main))
      this.table.press(event);
    else return undefined;
    event.preventDefault();
    return undefined;
  }

  close() {
    this.closed = true;
    clearTimeout(this.refreshing);
    document.removeEventListener("keydown", this.press);
    this.live?.close();
    this.table?.close();
  }
}
