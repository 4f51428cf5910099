// One broadcast in one session after the other, until it is stopped or the relay refuses it for good.

import * as api from "./api.js";
import { Session } from "./publish-session.js";

const FIRST_PAUSE = 500; // milliseconds before another attempt, doubled each time
const LONGEST_PAUSE = 10_000;

const hasToken = () => api.route("").searchParams.has("jwt");

/** Address of the relay's WebSocket, with the page's token. The page may be served below a prefix. */
function address() {
  const url = api.route("");
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url;
}

export class Publication {
  /** `onstate(state, text)`: "connecting", "live", "waiting" for another attempt, "refused" for good, "stopped". */
  constructor(onstate) {
    this.onstate = onstate;
    this.session = null;
    this.stopped = false;
    this.wake = () => {};
    this.sent = 0; // bytes of former sessions
  }

  get backlog() {
    return this.session?.backlog ?? 0;
  }

  /** Bytes sent, with everything that carries the media. */
  get bytes() {
    return this.sent + (this.session?.bytes ?? 0);
  }

  async run(broadcast) {
    let pause = FIRST_PAUSE;
    while (!this.stopped) {
      this.#say("connecting", "Connecting to the relay.");
      this.session = new Session(address(), broadcast, () => {
        pause = FIRST_PAUSE;
        this.#say("live", "Live.");
      });
      const end = await this.session.ended;
      this.sent += this.session.bytes;
      this.session = null;
      if (this.stopped) break;
      const refusal = end.final || !end.opened ? await refusalOf(end, broadcast.path) : null;
      if (this.stopped) break;
      if (refusal !== null) {
        this.#say("refused", refusal);
        return;
      }
      const wait = pause * (0.75 + Math.random() / 2); // publishers of a restarted relay come one by one
      pause = Math.min(pause * 2, LONGEST_PAUSE);
      const reason = end.opened ? end.message : "the relay is not reachable";
      this.#say("waiting", `Not connected: ${reason}. Next attempt in ${Math.ceil(wait / 1000)} s.`);
      await new Promise((resolve) => {
        this.wake = resolve;
        setTimeout(resolve, wait);
      });
    }
    this.#say("stopped", "Stopped. The broadcast is withdrawn.");
  }

  stop() {
    this.stopped = true;
    this.session?.leave();
    this.wake();
  }

  #say(state, text) {
    this.onstate(state, text);
  }
}

/** Why the relay refuses, in words; null if another attempt may succeed. A failed WebSocket gives no reason. */
async function refusalOf(end, path) {
  if (end.prefixes !== null) {
    const elsewhere = end.prefixes.map((prefix) => `${prefix}/\u2026`).join(", ");
    const allowed = elsewhere ? `It permits: ${elsewhere}` : "It permits no publishing at all.";
    const token = hasToken() ? "The token in this page's address lacks" : "Without a token there is no";
    return `The relay does not let this page publish ${path}. ${token} the right to publish there. ${allowed}`;
  }
  if (end.opened) return `The relay ended the session: ${end.message}.`;
  try {
    await api.announced();
  } catch (error) {
    return error.final ? error.advice : null;
  }
  return hasToken()
    ? "The relay answers, but accepts no session: the token in this page's address grants nothing here, or WebSocket sessions are off ([web] ws)."
    : "The relay answers, but accepts no session: publishing may need a token (?jwt= in this page's address), or WebSocket sessions are off ([web] ws).";
}
