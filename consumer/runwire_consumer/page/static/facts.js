// Everything of a run that is no curve, as tables.

import { h, table } from "./dom.js";
import { cut, moment, number, plainly } from "./format.js";

/**
 * Its parameters.
 *
 * @param {Object} run
 * @returns {HTMLElement}
 */
export function params(run) {
  const names = Object.keys(run.params).sort();
  return names.length
    ? table(
        "Parameters",
        ["Name", "Value", "Type"],
        names.map((name) => [h("bdi", {}, name), h("bdi", {}, plainly(run.params[name])), run.param_types[name] ?? ""]),
      )
    : h("p", { class: "quiet" }, "The run has no parameters.");
}

/**
 * What it said, the newest first.
 *
 * @param {Object} run
 * @returns {HTMLElement}
 */
export function events(run) {
  const rows = [...run.events]
    .reverse()
    .map((event) => [
      moment(event.time),
      event.type,
      plainly(event.rank),
      h("details", {}, h("summary", {}, cut(eventText(event), 160)), h("pre", {}, JSON.stringify(event.body, null, 2))),
    ]);
  return h(
    "div",
    { class: "wide" },
    rows.length
      ? table("Events, the newest first", ["Time", "What", "Rank", "Content"], rows)
      : h("p", { class: "quiet" }, "No event has come yet."),
  );
}

/**
 * Which code ran, and where.
 *
 * @param {Object} run
 * @returns {HTMLElement}
 */
export function code(run) {
  const packages = Object.entries(run.packages ?? {});
  const rows = [
    ["Commit", h("code", {}, `${run.commit ?? ""}${run.dirty ? " with changes that no commit holds" : ""}`)],
    ["Branch", run.branch],
    ["Remote", link(run.remote)],
    ["Command", h("code", {}, (run.command ?? []).join(" "))],
    ["Host", run.host],
    ["User", run.user],
    ["World size", run.world_size],
    ["Ranks", run.ranks],
    ["Forked from", run.forked_from],
    ["Cost of tracking", run.tracking_share === null ? "" : `${number(100 * run.tracking_share, 3)} % of its time`],
  ];
  return h(
    "div",
    {},
    table(
      "Code and host",
      null,
      rows.map(([name, value]) => [name, value instanceof Node ? value : plainly(value)]),
    ),
    packages.length
      ? h(
          "details",
          {},
          h("summary", {}, `${packages.length} packages`),
          table("Packages", ["Name", "Version"], packages.sort()),
        )
      : null,
  );
}

/**
 * What became of every row.
 *
 * @param {Object} run
 * @returns {HTMLElement}
 */
export function receipt(run) {
  const { emitters, gaps } = run;
  const missing = emitters.reduce((sum, emitter) => sum + emitter.missing, 0);
  const dead = emitters.reduce((sum, emitter) => sum + emitter.dead, 0);
  const open = emitters.some((emitter) => emitter.next_seq === null);
  const verdict =
    dead || emitters.some((emitter) => emitter.next_seq !== null && emitter.missing)
      ? "Rows are missing or unreadable."
      : open
        ? "Open: some process has not ended, so nobody knows yet how many rows there are."
        : "Complete: every row that was sent is accounted for.";
  return h(
    "div",
    { class: "wide" },
    h("p", {}, verdict, missing && open ? ` ${number(missing)} rows may be on their way.` : ""),
    table(
      "Receipt: a line a process",
      ["Process", "Rank", "Attempt", "Role", "Ended", "Sent", "Stored", "Unreadable", "Declared lost", "Missing"],
      emitters.map((emitter) => [
        h("code", { title: emitter.emitter_id }, emitter.emitter_id.slice(0, 8)),
        plainly(emitter.rank),
        plainly(emitter.attempt),
        emitter.role,
        plainly(emitter.ended ?? "not yet"),
        plainly(emitter.next_seq),
        number(emitter.stored),
        number(emitter.dead),
        number(emitter.lost),
        number(emitter.missing),
      ]),
    ),
    gaps.length
      ? [
          h("h2", {}, "What is not stored"),
          table(
            "Gaps",
            ["Rank", "Kind", "First row", "Rows", "Reason"],
            gaps.map((gap) => [
              plainly(gap.rank),
              gap.kind,
              plainly(gap.first_seq),
              number(gap.rows),
              plainly(gap.reason),
            ]),
          ),
        ]
      : null,
  );
}

/**
 * Its starts and restarts.
 *
 * @param {Object} run
 * @returns {HTMLElement}
 */
export function attempts(run) {
  const rows = run.attempt_list.map((attempt) => [
    plainly(attempt.attempt),
    moment(attempt.started_at),
    plainly(attempt.resumed_from_step),
    plainly(attempt.world_size),
    plainly(attempt.ranks),
    plainly(attempt.emitters),
  ]);
  return rows.length
    ? table("Attempts", ["Attempt", "Started", "Resumed from step", "World size", "Ranks", "Processes"], rows)
    : h("p", { class: "quiet" }, "No training process belongs to the run.");
}

/**
 * @param {{type: string, body: Object}} event
 */
function eventText({ body }) {
  return (
    ["title", "name", "status", "text", "reason"]
      .map((key) => body?.[key])
      .filter(Boolean)
      .map(String)
      .join(" · ") || "…"
  );
}

/**
 * A link where the text is an address of the web.
 *
 * @param {string|null} text
 */
function link(text) {
  return text && /^https?:\/\//.test(text)
    ? h("a", { href: text, rel: "noreferrer noopener", target: "_blank" }, text)
    : (text ?? "");
}
