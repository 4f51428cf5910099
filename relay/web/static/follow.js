// Follows a track over the debug API, again and again until it is told to stop.

import * as api from "./api.js";

const FIRST_PAUSE = 1000; // milliseconds before following again, doubled each time
const LONGEST_PAUSE = 8000;

/** Resolves after a time, or as soon as the signal aborts. */
export function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, milliseconds);
    signal.addEventListener("abort", end);
    if (signal.aborted) end();
  });
}

/**
 * Call `take(frame)` for each frame from the newest group on, until the signal aborts or the relay refuses for good.
 * `say(state, text)` tells: waiting, following, lost (and tried again), refused.
 */
export async function follow({ broadcast, track }, signal, { take, say }) {
  let rest = FIRST_PAUSE;
  while (!signal.aborted) {
    let reason = "The track has ended.";
    if (rest === FIRST_PAUSE) say("waiting", "Waiting for the first frame.");
    try {
      let first = true;
      for await (const frame of api.frames(broadcast, track, signal)) {
        if (signal.aborted) return;
        if (first) say("following", "Following, as one more viewer.");
        first = false;
        take(frame);
        rest = FIRST_PAUSE;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof api.Refused && error.final) {
        say("refused", error.advice);
        return;
      }
      reason = error instanceof api.Refused ? `The relay refused: ${error.message}.` : "The connection failed.";
    }
    if (signal.aborted) return;
    say("lost", `${reason} Trying again.`);
    await pause(rest, signal);
    rest = Math.min(rest * 2, LONGEST_PAUSE);
  }
}
