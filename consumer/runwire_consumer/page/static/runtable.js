// What the table of runs shows, and the choice of its columns.

import { get } from "./api.js";
import { dialog, h } from "./dom.js";
import { ago, cut, duration, moment, number, plainly } from "./format.js";

/**
 * @param {{columns: Object<string, Array>, metrics: Object<string, Array>, params: Object<string, Array>}} data
 * @param {(row: number) => Node} box What chooses a run.
 * @returns {import("./table.js").Column[]}
 */
export function runColumns({ columns, metrics, params }, box) {
  const now = Date.now();
  const text = (key, label, most = 40) => ({
    key,
    label,
    value: (row) => columns[key][row],
    cell: (row) => whole(plainly(columns[key][row]), most),
  });
  return [
    { key: "chosen", label: "", value: () => null, cell: (row) => box(row) },
    { key: "state", label: "State", value: (row) => columns.state[row], cell: (row) => badge(columns.state[row]) },
    {
      key: "name",
      label: "Name",
      value: (row) => columns.name[row],
      cell: (row) =>
        h(
          "a",
          { href: `/runs/${encodeURIComponent(columns.run_id[row])}`, title: columns.name[row], dir: "auto" },
          cut(columns.name[row], 60),
        ),
    },
    text("project", "Project"),
    {
      key: "started_at",
      label: "Started",
      numeric: true,
      value: (row) => Date.parse(columns.started_at[row] ?? ""),
      cell: (row) => h("span", { title: moment(columns.started_at[row]) }, ago(columns.started_at[row], now)),
    },
    {
      key: "duration_seconds",
      label: "Duration",
      numeric: true,
      value: (row) => columns.duration_seconds[row],
      cell: (row) => duration(columns.duration_seconds[row]),
    },
    ...Object.keys(params).map((name) => ({
      key: `param:${name}`,
      label: name,
      title: `Parameter ${name}`,
      numeric: params[name].some(isNumber),
      value: (row) => numeric(params[name][row]),
      cell: (row) => whole(plainly(params[name][row]), 24),
    })),
    ...Object.keys(metrics).map((name) => ({
      key: `metric:${name}`,
      label: name,
      title: `Metric ${name}: best value, else the last`,
      numeric: true,
      value: (row) => numeric(metrics[name][row]),
      cell: (row) => number(metrics[name][row]),
    })),
    {
      key: "points",
      label: "Points",
      numeric: true,
      value: (row) => columns.points[row],
      cell: (row) => number(columns.points[row]),
    },
    text("user", "User", 16),
    {
      key: "commit",
      label: "Commit",
      value: (row) => columns.commit[row],
      cell: (row) =>
        columns.commit[row]
          ? h(
              "code",
              { title: columns.commit[row] },
              `${columns.commit[row].slice(0, 8)}${columns.dirty[row] ? "+" : ""}`,
            )
          : "",
    },
    {
      key: "tags",
      label: "Tags",
      value: (row) => columns.tags[row].join(", "),
      cell: (row) => whole(columns.tags[row].join(", "), 30),
    },
  ];
}

/**
 * @param {string} text
 * @param {number} most
 */
function whole(text, most) {
  return text.length > most ? h("span", { title: text, dir: "auto" }, cut(text, most)) : text;
}

/**
 * A dialog with the metrics and params there are; what is chosen is put into the query.
 *
 * @param {{metrics: Object<string, Array>, params: Object<string, Array>}} data What is shown now.
 * @param {URLSearchParams} query
 * @param {() => void} show
 */
export async function chooseColumns(data, query, show) {
  const names = await get("/api/names");
  const list = (kind, title, all, chosen) =>
    h(
      "fieldset",
      {},
      h("legend", {}, title),
      h(
        "div",
        { class: "choices" },
        [...new Set([...chosen, ...all])].map((name) =>
          h(
            "label",
            {},
            h("input", { type: "checkbox", name: kind, value: name, checked: chosen.includes(name) }),
            " ",
            h("bdi", {}, cut(name, 80)),
          ),
        ),
      ),
    );
  const form = h(
    "form",
    {
      method: "dialog",
      onsubmit: () => {
        for (const kind of ["metric", "param"]) {
          query.delete(kind);
          const checked = [...form.querySelectorAll(`input[name=${kind}]:checked`)].slice(0, 20);
          for (const input of checked) query.append(kind, /** @type {HTMLInputElement} */ (input).value);
          if (!checked.length) query.append(kind, "");
        }
        show();
      },
    },
    list("metric", "Metrics", names.metrics, Object.keys(data.metrics)),
    list("param", "Parameters", names.params, Object.keys(data.params)),
    h("button", { class: "main" }, "Show"),
  );
  dialog("Columns", form);
}

/**
 * A state as word and colour.
 *
 * @param {string} state
 * @returns {HTMLElement}
 */
export function badge(state) {
  return h("span", { class: "badge", "data-state": state }, state);
}

/**
 * @param {*} value
 */
function isNumber(value) {
  return value !== null && value !== "" && !Number.isNaN(Number(value));
}

/**
 * @param {*} value
 */
function numeric(value) {
  return isNumber(value) ? Number(value) : value;
}
