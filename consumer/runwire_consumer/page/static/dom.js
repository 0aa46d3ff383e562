// Elements made by code alone. Names of runs and metrics are whatever somebody logged: they only ever become text.

/** Attributes that could load or run something other than this page's own files. */
const FORBIDDEN = /^(on|style$|src$|srcdoc$|srcset$|formaction$|action$|innerhtml$)/i;

/**
 * An element. Attributes whose value is a function listen, true and false switch, null leaves out; the rest is set as
 * text. Children are nodes or become text; null and false are left out.
 *
 * @param {string} tag
 * @param {Object<string, *>} [attributes]
 * @param {...(Node|string|number|null|false|Array)} children
 * @returns {HTMLElement}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.replace(/^on/, ""), value);
    else if (value === null || value === undefined || value === false) continue;
    else if (FORBIDDEN.test(name)) throw new Error(`h() sets no attribute ${name}`);
    else if (name === "href") element.setAttribute("href", safeAddress(String(value)));
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

/**
 * @param {Node} parent
 * @param {Array} children
 */
function append(parent, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(parent, child);
    else if (child instanceof Node) parent.appendChild(child);
    else if (child !== null && child !== undefined && child !== false)
      parent.appendChild(document.createTextNode(String(child)));
  }
}

/**
 * Put other children in place of those that are there.
 *
 * @param {Element} parent
 * @param {...*} children
 */
export function fill(parent, ...children) {
  parent.replaceChildren();
  append(parent, children);
}

/**
 * An address that a link may have: of this page, or plainly of the web.
 *
 * @param {string} text
 * @returns {string}
 */
export function safeAddress(text) {
  if (text.startsWith("#") || text.startsWith("blob:")) return text;
  try {
    const url = new URL(text, location.href);
    return url.protocol === "http:" || url.protocol === "https:" ? text : "#";
  } catch {
    return "#";
  }
}

/**
 * A table, with a head where it is given; cells are nodes or text.
 *
 * @param {string} caption
 * @param {string[]|null} head
 * @param {Array<Array>} rows The first cell of each is its heading.
 * @returns {HTMLElement}
 */
export function table(caption, head, rows) {
  return h(
    "table",
    { class: "facts" },
    h("caption", { class: "unseen" }, caption),
    head &&
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          head.map((text) => h("th", { scope: "col" }, text)),
        ),
      ),
    h(
      "tbody",
      {},
      rows.map(([first, ...rest]) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, first),
          rest.map((cell) => h("td", {}, cell)),
        ),
      ),
    ),
  );
}

/**
 * Tell people who don't see the page what has changed.
 *
 * @param {string} sentence
 */
export function say(sentence) {
  document.getElementById("said").textContent = sentence;
}

/**
 * A dialog that closes by Escape or its button, and gives the focus back.
 *
 * @param {string} title
 * @param {...*} children
 * @returns {HTMLDialogElement}
 */
export function dialog(title, ...children) {
  const before = document.activeElement;
  const made = /** @type {HTMLDialogElement} */ (
    h(
      "dialog",
      {
        "aria-label": title,
        onclose: () => {
          made.remove();
          if (before instanceof HTMLElement) before.focus();
        },
      },
      h("h2", {}, title),
      children,
    )
  );
  document.body.appendChild(made);
  made.showModal();
  return made;
}

/**
 * Call no more often than every so many milliseconds, the last time included.
 *
 * @template {Function} F
 * @param {F} call
 * @param {number} everyMs
 * @returns {F}
 */
export function calmly(call, everyMs) {
  let timer = 0;
  return /** @type {*} */ (
    (...given) => {
      clearTimeout(timer);
      timer = setTimeout(() => call(...given), everyMs);
    }
  );
}
