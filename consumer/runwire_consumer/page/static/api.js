// Everything that is asked of the server, and the session that it wants.

const ANSWER_BYTES_MAX = 32 * 2 ** 20;

/** A refusal: `message` is the server's sentence. */
export class Refused extends Error {
  /**
   * @param {number} status
   * @param {string} sentence
   */
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

/** @type {(sentence: string) => Promise<void>} */
let askForToken = async () => {};
/** @type {Promise<void>|null} */
let asking = null;

/**
 * Say who asks for a token when the session is missing; it resolves when there is one again.
 *
 * @param {(sentence: string) => Promise<void>} ask
 */
export function onSessionMissing(ask) {
  askForToken = ask;
}

/**
 * @param {string} path
 * @param {Array<[string, *]>} [query]
 * @returns {string}
 */
export function address(path, query = []) {
  const given = query.filter(([, value]) => value !== null && value !== undefined);
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return text ? `${path}?${text}` : path;
}

/**
 * One request; where the session is missing, it is made anew and the request sent again.
 *
 * @param {string} where
 * @param {RequestInit} [options]
 * @returns {Promise<Response>}
 */
async function send(where, options = {}) {
  for (;;) {
    let answer;
    try {
      answer = await fetch(where, { credentials: "same-origin", ...options });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new Refused(0, "The consumer can't be reached: start it with `runwire up`, then load this page again.");
    }
    if (answer.ok) return answer;
    const sentence = await refusal(answer);
    if (answer.status !== 401) throw new Refused(answer.status, sentence);
    asking =
      asking ??
      askForToken(sentence).finally(() => {
        asking = null;
      });
    await asking;
  }
}

/**
 * @param {Response} answer
 * @returns {Promise<string>}
 */
async function refusal(answer) {
  try {
    return String((await answer.json()).error);
  } catch {
    return `The consumer answers with status ${answer.status}.`;
  }
}

/**
 * @param {string} path
 * @param {Array<[string, *]>} [query]
 * @param {AbortSignal} [signal]
 * @returns {Promise<*>}
 */
export async function get(path, query = [], signal) {
  return (await send(address(path, query), { signal })).json();
}

/**
 * One SELECT.
 *
 * @param {string} text
 * @param {Object<string, *>|null} [params]
 * @param {AbortSignal} [signal]
 * @returns {Promise<{columns: string[], rows: Object<string, *>[]}>}
 */
export async function select(text, params = null, signal) {
  const answer = await send("/api/sql?format=json", {
    method: "POST",
    signal,
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ sql: text, params }),
  });
  const named = answer.headers.get("runwire-columns");
  const rows = JSON.parse(await readText(answer));
  return { columns: named ? JSON.parse(named) : Object.keys(rows[0] ?? {}), rows };
}

/**
 * All of an answer, which may have any length: a page holds so much of it and no more.
 *
 * @param {Response} answer
 * @returns {Promise<string>}
 */
async function readText(answer) {
  const decoder = new TextDecoder();
  const reader = answer.body.getReader();
  const parts = [];
  for (let length = 0; ;) {
    const { done, value } = await reader.read();
    if (done) return parts.join("");
    length += value.length;
    if (length > ANSWER_BYTES_MAX) {
      await reader.cancel();
      throw new Refused(413, "The answer is longer than 32 MiB: add a LIMIT or aggregate, or take it as a file.");
    }
    parts.push(decoder.decode(value, { stream: true }));
  }
}

/**
 * The answer of one SELECT as a file.
 *
 * @param {string} text
 * @param {string} format json, csv, arrow or parquet.
 * @returns {Promise<Blob>}
 */
export async function download(text, format) {
  return (await send(`/api/sql?format=${format}`, { method: "POST", body: text })).blob();
}

/**
 * @param {string} token
 */
export async function login(token) {
  return handOver({ token });
}

/**
 * @param {Object} given
 */
export async function handOver(given) {
  const answer = await fetch("/api/login", {
    method: "POST",
    credentials: "same-origin",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(given),
  });
  if (!answer.ok) throw new Refused(answer.status, await refusal(answer));
}

export async function logout() {
  await fetch("/api/logout", { method: "POST", credentials: "same-origin" });
}

/**
 * Hear what changes, until `close`. While the page is hidden nothing is followed: browsers have few connections.
 *
 * @param {Array<[string, string]>} query
 * @param {(told: {runs?: Object[], metrics?: Object[]}) => void} hear
 * @returns {{close: () => void}}
 */
export function follow(query, hear) {
  const sign = document.getElementById("live");
  /** @type {EventSource|null} */
  let source = null;
  let closed = false;
  const tell = (state, text) => {
    sign.dataset.state = state;
    sign.textContent = text;
  };
  const open = () => {
    if (closed || source || document.hidden) return;
    source = new EventSource(address("/api/live", query));
    source.onopen = () => tell("on", "Live");
    source.onmessage = (event) => hear(JSON.parse(event.data));
    source.addEventListener("ended", renew);
    source.onerror = () => {
      tell("off", "Not live: trying again");
      if (source?.readyState === EventSource.CLOSED) renew();
    };
  };
  const shut = () => {
    source?.close();
    source = null;
  };
  // The browser doesn't say why it was refused: asking who we are finds a missing session, and mends it.
  const renew = () => {
    shut();
    if (!closed) setTimeout(() => get("/api/session").then(open, () => setTimeout(renew, 3000)), 500);
  };
  const look = () => (document.hidden ? shut() : open());
  document.addEventListener("visibilitychange", look);
  addEventListener("pagehide", shut);
  open();
  return {
    close() {
      closed = true;
      document.removeEventListener("visibilitychange", look);
      removeEventListener("pagehide", shut);
      shut();
      tell("", "");
    },
  };
}
