// The prompt for a token, where the session is missing.

import { handOver, login } from "./api.js";
import { dialog, h } from "./dom.js";

/**
 * Ask until a token is right.
 *
 * @param {string} sentence Why it is asked for.
 * @returns {Promise<void>}
 */
export function askForToken(sentence) {
  return new Promise((resolve) => {
    const field = /** @type {HTMLInputElement} */ (
      h("input", {
        id: "token",
        type: "password",
        autocomplete: "current-password",
        required: true,
        spellcheck: "false",
        maxlength: "4096",
      })
    );
    const wrong = h("p", { class: "wrong", role: "alert" });
    const form = h(
      "form",
      {
        onsubmit: async (event) => {
          event.preventDefault();
          try {
            await login(field.value);
          } catch (error) {
            wrong.textContent = error.message;
            field.select();
            return;
          }
          field.value = "";
          made.removeEventListener("cancel", keep);
          made.close();
          resolve();
        },
      },
      h(
        "p",
        {},
        "Reading takes a token. On the consumer's machine the file ",
        h("code", {}, "token"),
        " in its home holds one; ",
        "its owner makes others with ",
        h("code", {}, "runwire token create"),
        ".",
      ),
      h("label", { for: "token" }, "Token"),
      field,
      wrong,
      h("button", { type: "submit", class: "main" }, "Log in"),
    );
    const made = dialog("Log in", form);
    made.dataset.why = sentence;
    // There is nothing to see without a session.
    const keep = (event) => event.preventDefault();
    made.addEventListener("cancel", keep);
    field.focus();
  });
}

/**
 * `runwire up --open` hands a code over that works once, behind the #, which browsers keep to themselves.
 *
 * @returns {Promise<void>}
 */
export async function takeCode() {
  const code = new URLSearchParams(location.hash.slice(1)).get("code");
  if (!code) return;
  history.replaceState(history.state, "", location.pathname + location.search);
  try {
    await handOver({ code });
  } catch {
    // It has been used or is too old: the prompt for a token follows.
  }
}
