// When to present what: media timestamps on the clock of this page, for pictures and sound alike.
//
// The earliest arrivals of a track show the shortest time that a frame takes to get here. Everything is presented so
// long after its timestamp, and later by a delay for frames that take longer.

const WINDOW = 4000; // milliseconds; arrivals are remembered for one to two windows
const SPARE = 15; // milliseconds added to what late frames need
const LEAST = 20; // milliseconds of delay
const MOST = 2000;
const APART = 5000; // milliseconds; tracks further apart are on clocks of their own

/** The smallest and largest offset (arrival less timestamp) of one track. */
class Arrivals {
  constructor() {
    this.clear();
  }

  clear() {
    this.windows = [];
    this.last = null; // of the previous frame: {arrival, timestamp}
    this.live = false; // false while cached frames arrive in a burst
  }

  note(timestamp, arrival) {
    const offset = arrival - timestamp;
    if (this.windows.length && Math.abs(offset - this.least) > APART + MOST) this.clear(); // another timeline
    if (this.last && arrival - this.last.arrival > (timestamp - this.last.timestamp) / 2) this.live = true;
    this.last = { arrival, timestamp };
    let window = this.windows.at(-1);
    if (!window || arrival - window.start > WINDOW) {
      window = { start: arrival, least: offset, most: -Infinity };
      this.windows = [...this.windows.slice(-1), window];
    }
    window.least = Math.min(window.least, offset);
    if (this.live) window.most = Math.max(window.most, offset);
  }

  get least() {
    return Math.min(...this.windows.map((window) => window.least));
  }

  get most() {
    return Math.max(...this.windows.map((window) => window.most));
  }
}

export class Clock {
  constructor() {
    this.tracks = new Map();
    this.lead = 0; // milliseconds that the output needs: a loudspeaker is later than a screen
  }

  /** A frame of a track has arrived. Both in milliseconds. */
  note(track, timestamp, arrival = performance.now()) {
    if (!this.tracks.has(track)) this.tracks.set(track, new Arrivals());
    this.tracks.get(track).note(timestamp, arrival);
  }

  forget(track) {
    this.tracks.delete(track);
  }

  /** Time of the page at which to present a timestamp of a track that `note` knows. */
  at(track, timestamp) {
    const own = this.tracks.get(track).least;
    let base = own;
    let most = -Infinity;
    for (const arrivals of this.tracks.values()) {
      if (!arrivals.windows.length || Math.abs(arrivals.least - own) > APART) continue;
      base = Math.max(base, arrivals.least);
      most = Math.max(most, arrivals.most);
    }
    return timestamp + base + Math.min(Math.max(most - base + SPARE, LEAST) + this.lead, MOST);
  }
}
