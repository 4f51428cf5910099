// The last minutes of counters, as rates. Time is that of the relay, in seconds; nothing here knows the page.

export const SPAN = 300; // seconds kept and drawn
const LONG = 60; // seconds over which rare things are counted
const GAP = 12; // seconds without a sample: a line is broken there

/** The past of one thing: counters, which only grow, and gauges. */
export class History {
  constructor() {
    this.clear();
  }

  clear() {
    this.samples = []; // of the last LONG seconds: {time, counters}
    this.points = []; // of the last SPAN seconds: {time, rates, gauges}, or {time} for a gap
  }

  /** Adds what was read at a time. A counter that fell began anew: the thing was replaced. */
  push(time, counters, gauges = {}) {
    const last = this.samples.at(-1);
    if (last && Object.entries(counters).some(([name, value]) => value < last.counters[name])) this.samples = [];
    if (last && time <= last.time) return;
    if (last && time - last.time > GAP) this.points.push({ time: last.time + 1 });
    this.samples.push({ time, counters });
    this.points.push({ time, rates: this.#rates(counters), gauges });
    while (this.samples[0].time < time - LONG) this.samples.shift();
    while (this.points[0].time < time - SPAN) this.points.shift();
  }

  #rates(counters) {
    return Object.fromEntries(
      Object.keys(counters).map((name) => [name, this.rate(name, name === "groups" ? 10 : 2)]),
    );
  }

  /** Mean rate of a counter over the last so many seconds, or null when that is not known yet. */
  rate(name, seconds = LONG) {
    const last = this.samples.at(-1);
    if (!last) return null;
    const first =
      this.samples.findLast((sample) => sample.time <= last.time - seconds) ?? this.samples[0];
    if (first === last) return null;
    return (last.counters[name] - first.counters[name]) / (last.time - first.time);
  }

  /** Columns for a chart: seconds before `now`, then one column for each name of a rate or a gauge. */
  columns(now, names) {
    return [
      this.points.map((point) => point.time - now),
      ...names.map((name) => this.points.map((point) => point.rates?.[name] ?? point.gauges?.[name] ?? null)),
    ];
  }
}

/** Histories of things that come and go, by key. */
export class Histories {
  constructor() {
    this.known = new Map();
  }

  of(key) {
    let history = this.known.get(key);
    if (!history) this.known.set(key, (history = new History()));
    return history;
  }

  /** The newest rates of all of them, added up. */
  sum(name) {
    let sum = 0;
    for (const history of this.known.values()) sum += history.points.at(-1)?.rates[name] ?? 0;
    return sum;
  }

  /** Forgets all but these. */
  keep(keys) {
    for (const key of this.known.keys()) if (!keys.has(key)) this.known.delete(key);
  }
}
