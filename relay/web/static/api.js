// The debug API of the relay. Adds the token to every request; must never show it, store it or put it into the address.

import { fromBase64 } from "./containers.js";
import { Unpacker } from "./msgpack.js";

const TIMEOUT = 5000; // milliseconds
const LONGEST_FRAME = 48 * 1024 * 1024; // bytes of one frame; a longer one aborts the stream

const own = new URLSearchParams(location.search);
let token = own.get("jwt"); // of the page's address, until one is typed in
let typed = false;

/** Dispatches "token" when the token changes, and "refused" with a Refused as detail when a 401 asks for another one. */
export const changes = new EventTarget();

/** Use another token from now on, until the page is left. Empty: none. */
export function useToken(text) {
  token = text || null;
  typed = token !== null;
  changes.dispatchEvent(new Event("token"));
}

export const hasToken = () => token !== null;

/** The page shows the broadcasts below this path. */
function prefix() {
  const [path, root] = [own.get("path"), rootOf(claims())].map((text) => text?.split("/").filter(Boolean).join("/"));
  // a token that was typed in may be for another part than the address
  return path === undefined || (typed && !`${path}/`.startsWith(root && `${root}/`)) ? root : path;
}

/** What the token claims, null without one or if it is unreadable. The relay verifies the token, not the page. */
export function claims() {
  try {
    const found = JSON.parse(new TextDecoder().decode(fromBase64(token.split(".")[1])));
    return typeof found === "object" ? found : null;
  } catch {
    return null;
  }
}

const rootOf = (found) => (typeof found?.root === "string" ? found.root : "");

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
    if (token === null) return "This needs a token.";
    return `The relay refuses the token${typed ? "" : " in this page's address"}: ${word}.`;
  }
}

/** Address of a route, relative to the page, which may be served below a prefix. */
export function route(path, query = {}, credential = token) {
  const url = new URL(path, document.baseURI);
  url.hash = "";
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  if (credential !== null) url.searchParams.set("jwt", credential);
  return url;
}

/** `encodeURIComponent` throws for a lone surrogate, which a token or a catalog may hold. */
const encoded = (path) => path.toWellFormed().split("/").map(encodeURIComponent).join("/");

/** A route for everything below the page's path. */
function below(name, credential = token) {
  const path = prefix();
  return route(path ? `${name}/${encoded(path)}` : name === "state" ? name : `${name}/`, {}, credential);
}

/** The same for a link: with the token of the page's own address only. */
export const link = (name) => below(name, typed ? null : token);

async function get(url, { quiet = false, ...options }) {
  const response = await fetch(url, { cache: "no-store", credentials: "same-origin", ...options });
  if (response.ok) return response;
  const refused = new Refused(response.status, await response.text());
  if (refused.status === 401 && !quiet) changes.dispatchEvent(new CustomEvent("refused", { detail: refused }));
  throw refused;
}

const once = (accept) => ({ signal: AbortSignal.timeout(TIMEOUT), headers: { accept } });

/** The state of the relay. Refused with 401 without permission. */
export async function state() {
  return (await get(below("state"), { ...once("application/json"), quiet: true })).json();
}

/** The public part: broadcasts, in the form of /state. */
export async function announced() {
  const found = await (await get(below("announced"), once("application/json"))).json();
  return found.map(({ path, hops, session, tracks, viewers }) => ({
    path: [prefix(), path].filter(Boolean).join("/"),
    hops,
    session,
    viewers,
    serving: true,
    tracks: tracks.map((name) => ({ name })),
  }));
}

/** Refused with 503 while the relay drains. */
export async function health() {
  await get(route("health"), once("text/plain"));
}

export async function certificate() {
  return (await (await get(route("certificate.sha256"), once("text/plain"))).text()).trim();
}

/**
 * The frames of a track, {group, frame, timestamp, size, payload}, from the newest group on, until the track ends or
 * the signal aborts; without `follow` those of the newest group. `quiet`: a 401 asks for no token.
 */
export async function* frames(broadcast, track, signal, { follow = true, quiet = false } = {}) {
  const query = { track, frames: "1", follow: follow ? "1" : "0" }; // names of both contain slashes
  const url = route(`fetch/${encoded(broadcast)}`, query);
  const response = await get(url, { signal, quiet, headers: { accept: "application/msgpack" } });
  const reader = response.body.getReader();
  const unpacker = new Unpacker(LONGEST_FRAME);
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield* unpacker.push(value);
    }
  } finally {
    reader.cancel().catch(() => {}); // also when the caller leaves the loop
  }
}

/** An optional part: null where the relay or the rights of this page lack it. */
async function optional(path, query) {
  try {
    return await (await get(route(path, query), { ...once("application/json"), quiet: true })).json();
  } catch (error) {
    if (error instanceof Refused && [401, 403, 404].includes(error.status)) return null;
    throw error;
  }
}

/** Figures of the last hour and day, or those after a time in seconds since the epoch; or null. */
export const history = (after) => optional("history", after ? { after: String(after) } : {});

/** Events with a number above `after`, at most the latest 200; or null. */
export const events = (after) => optional("events", after ? { after: String(after) } : {});

/** Close a session. Returns the answer's text. */
export async function closeSession(number) {
  const response = await get(route(`sessions/${number}/close`), { method: "POST", signal: AbortSignal.timeout(TIMEOUT) });
  return (await response.text()).trim();
}
