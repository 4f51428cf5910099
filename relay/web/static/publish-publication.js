// One broadcast in one session after the other, until it is stopped or the relay refuses it for good.

import * as api from "./api.js";
import { Session } from "./publish-session.js";
import { every } from "./publish-source.js";

const FIRST_PAUSE = 500; // milliseconds before another attempt, doubled each time
const MOST_REFUSALS = 2;
const LONGEST_PAUSE = 10_000;

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
    let refusals = 0; // in a row; a single one may be of a relay that was just starting
    while (!this.stopped) {
      this.#say("connecting", "Connecting to the relay.");
      this.session = this.#open(broadcast, () => {
        pause = FIRST_PAUSE;
        refusals = 0;
        this.#say("live", "Live.");
      });
      const end = await this.#last();
      if (this.stopped) break;
      const refusal = end.final || !end.opened ? await refusalOf(end, broadcast.path) : null;
      if (this.stopped) break;
      refusals += refusal === null ? 0 : 1;
      if (refusal !== null && (end.final || refusals >= MOST_REFUSALS)) {
        this.#say("refused", refusal);
        return;
      }
      const wait = pause * (0.75 + Math.random() / 2); // publishers of a restarted relay come one by one
      pause = Math.min(pause * 2, LONGEST_PAUSE);
      const reason = end.opened ? end.message : "the relay does not answer";
      this.#say("waiting", `Not connected: ${reason}. Next attempt in ${Math.ceil(wait / 1000)} s.`);
      await new Promise((resolve) => {
        this.wake = resolve;
        this.end = every(wait, resolve);
      });
      this.end();
    }
    this.#say("stopped", "Stopped. The broadcast is withdrawn.");
  }

  #open(broadcast, onannounced) {
    const session = new Session(address(), broadcast, onannounced);
    session.onleaving = () => this.#handOver(broadcast, session);
    return session;
  }

  /** The end of the last session, where one is handed over to another. */
  async #last() {
    for (;;) {
      const { session } = this;
      const end = await session.ended;
      this.sent += session.bytes;
      if (this.session !== session) continue;
      this.session = null;
      return end;
    }
  }

  /** The relay is about to end. Another one behind the same address takes over, if there is one; else this one serves on. */
  #handOver(broadcast, old) {
    const next = this.#open(broadcast, () => {
      if (this.session !== old) {
        next.leave();
        return;
      }
      this.session = next;
      old.leave();
    });
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
    const permitted = end.prefixes.map((prefix) => `${prefix}/\u2026`).join(", ");
    const lack = api.hasToken() ? "the token lacks the right to publish there" : "publishing there needs a token";
    return `The relay refuses ${path}: ${lack}. ${permitted ? `It permits ${permitted}` : "It permits no publishing at all."}`;
  }
  if (end.final) return `The relay ended the session: ${end.message}.`;
  try {
    await api.health();
    await api.announced();
  } catch (error) {
    return error.final ? error.advice : null;
  }
  const cause = api.hasToken() ? "the token grants nothing here" : "a token may be needed";
  return `The relay answers, but accepts no session: ${cause}, or WebSocket sessions are off ([web] ws).`;
}
