// The debug API of the relay. Adds the token of the page's own address to every request; must never show it.

const TIMEOUT = 5000; // milliseconds
const LONGEST_LINE = 64 * 1024 * 1024; // characters of one frame; a longer one aborts the stream

const own = new URLSearchParams(location.search);
const token = own.get("jwt");
const prefix = (own.get("path") ?? rootOf(token)).split("/").filter(Boolean).join("/");

/** The token's claim `root`. The relay verifies the token, not the page. */
function rootOf(text) {
  try {
    const claims = JSON.parse(atob(text.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
    return typeof claims.root === "string" ? claims.root : "";
  } catch {
    return "";
  }
}

/** An answer with an error status. */
export class Refused extends Error {
  constructor(status, text) {
    super(text.trim() || `status ${status}`);
    this.status = status;
  }

  /** A repeated request would be refused, too. */
  get final() {
    return [400, 401, 403].includes(this.status);
  }

  /** Advice for the reader. */
  get advice() {
    const word = this.message.replace(/^unauthorized: /, "");
    if (this.status !== 401) return `The relay refuses: ${word}.`;
    if (token === null) return "This needs a token: add ?jwt= and a token to this page's address.";
    return `The relay refuses the token in this page's address: ${word}.`;
  }
}

/** Address of a route, relative to the page, which may be served below a prefix. */
export function route(path, query = {}) {
  const url = new URL(path, document.baseURI);
  url.hash = "";
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  if (token !== null) url.searchParams.set("jwt", token);
  return url;
}

export const hasToken = token !== null;

const encoded = (path) => path.split("/").map(encodeURIComponent).join("/");

/** A route for everything below the page's path. */
export const below = (name) => route(prefix ? `${name}/${encoded(prefix)}` : name === "state" ? name : `${name}/`);

async function get(url, options) {
  const response = await fetch(url, { cache: "no-store", credentials: "same-origin", ...options });
  if (!response.ok) throw new Refused(response.status, await response.text());
  return response;
}

const once = (accept) => ({ signal: AbortSignal.timeout(TIMEOUT), headers: { accept } });

/** The state of the relay. Refused with 401 without permission. */
export async function state() {
  return (await get(below("state"), once("application/json"))).json();
}

/** The public part: broadcasts, in the form of /state. */
export async function announced() {
  const found = await (await get(below("announced"), once("application/json"))).json();
  return found.map(({ path, hops, session, tracks, viewers }) => ({
    path: [prefix, path].filter(Boolean).join("/"),
    hops,
    session,
    viewers,
    serving: true,
    tracks: tracks.map((name) => ({ name })),
  }));
}

export async function certificate() {
  return (await (await get(route("certificate.sha256"), once("text/plain"))).text()).trim();
}

/** The frames of a track as objects, until it ends or the signal aborts. */
export async function* frames(broadcast, track, signal) {
  const url = route(`fetch/${encoded(broadcast)}`, { track, frames: "1", follow: "1" }); // both contain slashes
  const response = await get(url, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = [];
  let length = 0;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = value.split("\n");
    rest.push(lines[0]);
    length += lines[0].length;
    if (length > LONGEST_LINE) {
      await reader.cancel();
      throw new Error("a frame is too large for this page");
    }
    for (let next = 1; next < lines.length; next += 1) {
      const line = rest.join("");
      rest = [lines[next]];
      length = lines[next].length;
      if (line.trim()) yield JSON.parse(line);
    }
  }
}

/** An optional part: null where the relay or the rights of this page lack it. */
async function optional(path, query) {
  try {
    return await (await get(route(path, query), once("application/json"))).json();
  } catch (error) {
    if (error instanceof Refused && [401, 403, 404].includes(error.status)) return null;
    throw error;
  }
}

/** Figures of the last hour and day, or null. */
export const history = () => optional("history");

/** Events with a number above `after`, at most the latest 200; or null. */
export const events = (after) => optional("events", after ? { after: String(after) } : {});

/** Close a session. Returns the answer's text. */
export async function closeSession(number) {
  const response = await get(route(`sessions/${number}/close`), { method: "POST", signal: AbortSignal.timeout(TIMEOUT) });
  return (await response.text()).trim();
}
