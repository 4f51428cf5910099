// The last minutes of counters, as rates. Time is the relay's, in seconds; independent of the page.

export const SPAN = 300; // seconds kept and drawn
const LONG = 60; // seconds over which rare events are averaged
const GAP = 12; // seconds without a sample that break a line

/** History of one object: counters, which only grow, and gauges. */
export class History {
  constructor() {
    this.clear();
  }

  clear() {
    this.samples = []; // of the last LONG seconds: {time, counters}
    this.points = []; // of the last SPAN seconds: {time, rates, gauges}, or {time} for a gap
  }

  /** Add a sample. A counter that decreases belongs to a new object. */
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
      Object.keys(counters).map((name) => [name, this.rate(name, ["groups", "skipped"].includes(name) ? 10 : 2)]),
    );
  }

  /** Mean rate of a counter over the last so many seconds, or null if unknown. */
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

/** Histories by key. */
export class Histories {
  constructor() {
    this.known = new Map();
  }

  of(key) {
    let history = this.known.get(key);
    if (!history) this.known.set(key, (history = new History()));
    return history;
  }

  /** Sum of the newest rates. */
  sum(name) {
    let sum = 0;
    for (const history of this.known.values()) sum += history.points.at(-1)?.rates[name] ?? 0;
    return sum;
  }

  /** Forget all but these. */
  keep(keys) {
    for (const key of this.known.keys()) if (!keys.has(key)) this.known.delete(key);
  }
}
