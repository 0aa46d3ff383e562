// The shell: which view an address shows, keys, theme, session.

import { logout, onSessionMissing } from "./api.js";
import { dialog, fill, h, say } from "./dom.js";
import { askForToken, takeCode } from "./login.js";
import * as runs from "./runs.js";

/**
 * A view fills `main` and returns how it is left.
 *
 * @typedef {{show: (main: HTMLElement, url: URL) => Promise<() => void>, keys?: Array<[string, string]>}} View
 */

/** @type {Array<[RegExp, string, () => Promise<View>]>} */
const VIEWS = [
  [/^\/$/, "runs", async () => runs],
  [/^\/runs\/.+$/, "run", () => import("./run.js")],
  [/^\/compare$/, "compare", () => import("./compare.js")],
  [/^\/sql$/, "sql", () => import("./sql.js")],
];
const KEYS = /** @type {Array<[string, string]>} */ ([
  ["g r", "Runs"],
  ["g c", "Compare"],
  ["g s", "SQL"],
  ["t", "Dark or light"],
  ["?", "These keys"],
]);

const main = document.getElementById("main");
let leave = () => {};
let turn = 0;
/** @type {View|null} */
let shown = null;

/**
 * Show what the address says.
 *
 * @param {boolean} [focus] Move the focus to the new view, as a browser does with a new page.
 */
async function show(focus = false) {
  const mine = ++turn;
  const url = new URL(location.href);
  const found = VIEWS.find(([pattern]) => pattern.test(url.pathname));
  leave();
  leave = () => {};
  for (const link of document.querySelectorAll("nav a[data-view]")) {
    if (link.getAttribute("data-view") === found?.[1]) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  main.dataset.view = found?.[1] ?? "none";
  try {
    shown = await (found ? found[2]() : Promise.reject(new Error("There is no such view.")));
    if (mine !== turn) return;
    const left = await shown.show(main, url);
    if (mine === turn) leave = left;
    else left();
  } catch (error) {
    if (mine === turn) showError(error);
  }
  if (focus && mine === turn) main.focus();
}

/**
 * @param {Error} error
 */
function showError(error) {
  document.title = "Runwire";
  fill(
    main,
    h(
      "div",
      { class: "trouble", role: "alert" },
      h("p", {}, error.message),
      h("p", {}, h("a", { href: "/" }, "All runs")),
    ),
  );
}

/**
 * @param {string} where
 */
export function navigate(where) {
  history.pushState(null, "", where);
  scrollTo(0, 0);
  void show(true);
}

document.addEventListener("click", (event) => {
  const link = event.target instanceof Element ? event.target.closest("a[href]") : null;
  const href = link?.getAttribute("href") ?? "";
  const plain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;
  if (!link || !plain || !href.startsWith("/") || href.startsWith("/static/") || link.hasAttribute("download")) return;
  event.preventDefault();
  navigate(href);
});
document.addEventListener("runwire:navigate", (event) => navigate(/** @type {CustomEvent} */ (event).detail));
addEventListener("popstate", () => void show(true));

function switchTheme() {
  const dark = document.documentElement.dataset.theme !== "dark";
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  try {
    localStorage.setItem("runwire.theme", dark ? "dark" : "light");
  } catch {
    // It holds for this page only.
  }
  say(dark ? "Dark" : "Light");
  document.dispatchEvent(new Event("runwire:theme"));
}

function showKeys() {
  const rows = [...(shown?.keys ?? []), ...KEYS];
  dialog(
    "Keys",
    h(
      "dl",
      { class: "keys" },
      rows.map(([key, text]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)]),
    ),
    h("form", { method: "dialog" }, h("button", { autofocus: true }, "Close")),
  );
}

let before = "";
document.addEventListener("keydown", (event) => {
  const target = /** @type {HTMLElement} */ (event.target);
  const typing =
    target.matches("input:not([type=checkbox]):not([type=range]), textarea, select") || target.closest("dialog");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const pressed = before + event.key;
  before = event.key === "g" ? "g " : "";
  const actions = {
    "g r": () => navigate("/"),
    "g c": () => navigate("/compare"),
    "g s": () => navigate("/sql"),
    t: switchTheme,
    "?": showKeys,
  };
  const action = actions[pressed];
  if (action) {
    event.preventDefault();
    action();
  }
});
document.getElementById("theme").addEventListener("click", switchTheme);
document.getElementById("keys").addEventListener("click", showKeys);
document.getElementById("logout").addEventListener("click", async () => {
  await logout();
  location.assign("/");
});

onSessionMissing(askForToken);
await takeCode();
await show();
