// Numbers, times and states as people read them.

/**
 * @param {*} value
 * @param {number} [digits] Significant ones.
 * @returns {string}
 */
export function number(value, digits = 4) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en-US");
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e7 || size < 1e-4)) return value.toExponential(digits - 1).replace(/\.?0+e/, "e");
  return String(Number(value.toPrecision(digits)));
}

/**
 * @param {number|null} seconds
 * @returns {string}
 */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const whole = Math.round(seconds);
  if (seconds < 60) return `${number(seconds, 3)} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/**
 * @param {string|null} text ISO 8601.
 * @returns {string} In the reader's own time.
 */
export function moment(text) {
  if (!text) return "";
  const at = new Date(text);
  return Number.isNaN(at.getTime()) ? text : MOMENT.format(at);
}

/**
 * @param {string|null} text ISO 8601.
 * @param {number} now Milliseconds since the epoch.
 * @returns {string}
 */
export function ago(text, now) {
  if (!text) return "";
  const seconds = (now - new Date(text).getTime()) / 1000;
  if (Number.isNaN(seconds)) return text;
  for (const [size, unit] of /** @type {[number, string][]} */ ([
    [86400, "d"],
    [3600, "h"],
    [60, "min"],
  ])) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
  }
  return "just now";
}

/**
 * Texts in the order people expect: "run-10" after "run-9".
 */
export const COLLATOR = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

/**
 * What is longer than a cell is cut; the whole stands in its title.
 *
 * @param {string} text
 * @param {number} [most]
 * @returns {string}
 */
export function cut(text, most = 120) {
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}

/**
 * Any value as one line of text.
 *
 * @param {*} value
 * @returns {string}
 */
export function plainly(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return number(value, 6);
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
