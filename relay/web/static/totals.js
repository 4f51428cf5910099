// Charts of the whole relay: what the relay remembers, continued by what this page has seen since.

import * as api from "./api.js";
import { TimeChart } from "./charts.js";
import { find, make, mark, show } from "./dom.js";
import * as format from "./format.js";

const SPANS = [[300, "5 min"], [3600, "1 h"], [86_400, "1 day"]]; // seconds
const STALE = 60; // seconds after which a longer chart takes the relay's figures again
const OVERLAP = 200; // seconds that the page's own points reach back at least

const RATE = { format: format.rate, axis: format.round(format.rate), unit: format.MEGABIT, least: 0.01 * format.MEGABIT };

/** Series by the names of `/history`. */
const CHARTS = [
  {
    title: "Traffic",
    about: "Bytes of all sessions, with the headers of packets",
    series: [{ name: "sent", colour: "sent" }, { name: "received", colour: "received" }],
    ...RATE,
  },
  {
    title: "Groups",
    about: "Parts of tracks, each playable by itself: begun by publishers, and skipped for viewers that are too slow",
    series: [{ name: "groups", label: "begun", colour: "groups" }, { name: "skipped", colour: "skipped" }],
    format: format.often,
    axis: format.perSecond,
    least: 1,
  },
  {
    title: "Audience",
    about: "Connections, and tracks that they receive",
    series: [{ name: "sessions", colour: "sessions" }, { name: "viewers", colour: "viewers" }],
    format: format.count,
    least: 4,
  },
  {
    title: "Loop lag",
    about: "How late the relay comes to its work, at worst",
    series: [{ name: "lag", label: "worst", colour: "lag" }],
    format: format.short,
    axis: format.round(format.short),
    unit: 0.001,
    least: 0.01,
  },
  {
    title: "CPU",
    about: "Share of one core that the process uses",
    series: [{ name: "cpu", label: "of one core", colour: "cpu" }],
    format: format.percent,
    unit: 0.01,
    least: 0.1,
  },
  {
    title: "Memory",
    about: "Resident memory of the process",
    series: [{ name: "memory", label: "resident", colour: "memory" }],
    format: format.bytes,
    axis: format.round(format.bytes),
    least: 100e6,
  },
];

export class TotalCharts {
  /** `live` is the history that the page collects. */
  constructor(live) {
    this.live = live;
    this.length = SPANS[0][0];
    this.remembered = null; // answer of /history
    this.asked = -Infinity; // when, in the relay's time
    this.refused = false;
    const parent = find("#charts");
    this.charts = CHARTS.map(({ series, ...options }) => [
      series.map(({ name }) => name),
      new TimeChart(parent, {
        series: series.map(({ name, label = name, colour }) => ({ label, colour })),
        sync: "overview",
        ...options,
      }),
    ]);
    const choice = find("[data-choice=span]");
    this.buttons = SPANS.map(([length, label]) => {
      const button = make("button", { type: "button" }, label);
      button.addEventListener("click", () => this.#choose(length));
      choice.append(button);
      return [length, button];
    });
    this.#choose(this.length);
  }

  #choose(length) {
    this.length = length;
    for (const [each, button] of this.buttons) mark(button, "aria-pressed", each === length);
    for (const [, chart] of this.charts) chart.extend(length);
    if (this.now !== undefined) this.draw(this.now);
    this.onchoose?.();
  }

  /** After a restart of the relay. */
  forget() {
    this.remembered = null;
    this.asked = -Infinity;
    this.refused = false;
  }

  /** Ask for the relay's figures if the own ones do not reach back to them, or a longer chart needs newer ones. */
  async load(now) {
    const age = now - this.asked;
    const needed = this.length > SPANS[0][0] ? STALE : OVERLAP;
    if (this.refused || age < needed) return;
    this.asked = now;
    this.remembered = await api.history();
    this.refused = this.remembered === null;
    show(find("[data-choice=span]"), !this.refused);
  }

  draw(now) {
    this.now = now;
    for (const [names, chart] of this.charts) {
      const columns = this.#columns(now, names);
      show(chart.figure, columns.slice(1).some((column) => column.some((value) => value !== null)));
      chart.draw(columns);
    }
  }

  #columns(now, names) {
    const recent = this.live.columns(now, names);
    const known = this.remembered?.[this.length > 3600 ? "day" : "recent"];
    if (!known) return recent;
    const columns = [[], ...names.map(() => [])];
    const { step, end, values } = known;
    const length = values[names[0]]?.length ?? 0;
    for (let index = 0; index < length; index += 1) {
      const time = end - (length - 1 - index) * step - now;
      if (time < -this.length - step) continue;
      columns[0].push(time);
      names.forEach((name, column) => columns[column + 1].push(values[name]?.[index] ?? null));
    }
    recent[0].forEach((time, index) => {
      if (time <= end - now) return;
      recent.forEach((column, number) => columns[number].push(column[index]));
    });
    return columns;
  }
}
