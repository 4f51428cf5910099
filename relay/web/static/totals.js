// Charts of the whole relay: what the relay remembers, continued by what this page has seen since.

import * as api from "./api.js";
import { TimeChart } from "./charts.js";
import { find, make, mark, show } from "./dom.js";
import * as format from "./format.js";

const SPANS = [[300, "5 min"], [3600, "1 h"], [86_400, "1 day"]]; // seconds
const STEP = 5; // seconds between two queries for what is new

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

const fresh = () => ({ step: 0, times: [], values: new Map() });

/** Add a part of an answer to what is known, and forget what is older than `since`. */
function extend(known, { step, end, values }, since) {
  const length = Object.values(values)[0].length;
  const begin = end - (length - 0.5) * step;
  const kept = known.times.filter((time) => time < begin).length;
  const old = known.times.findIndex((time) => time >= since);
  const range = [old < 0 ? kept : old, kept];
  known.step = step;
  known.times = [...known.times.slice(...range), ...Array.from({ length }, (_, index) => end - (length - 1 - index) * step)];
  for (const [name, column] of Object.entries(values)) {
    known.values.set(name, [...(known.values.get(name) ?? []).slice(...range), ...column]);
  }
}

export class TotalCharts {
  /** `live` is the history that the page collects. */
  constructor(live) {
    this.live = live;
    this.length = SPANS[0][0];
    this.remembered = null; // {recent, day}, each {step, times, values}
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

  /** Ask for the relay's figures: all of them at first, and later those that are new. */
  async load(now) {
    if (this.refused || now - this.asked < STEP) return;
    this.asked = now;
    const answer = await api.history(this.remembered?.recent.times.at(-1) ?? 0);
    this.refused = answer === null;
    show(find("[data-choice=span]"), !this.refused);
    if (this.refused) return;
    this.remembered ??= { recent: fresh(), day: fresh() };
    extend(this.remembered.recent, answer.recent, now - 3600);
    extend(this.remembered.day, answer.day, now - 86_400);
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
    const from = known.times.findIndex((time) => time >= now - this.length - known.step);
    if (from < 0) return recent;
    const end = known.times.at(-1);
    const columns = [
      known.times.slice(from).map((time) => time - now),
      ...names.map((name) => known.values.get(name)?.slice(from) ?? known.times.slice(from).fill(null)),
    ];
    recent[0].forEach((time, index) => {
      if (time <= end - now) return;
      recent.forEach((column, number) => columns[number].push(column[index]));
    });
    return columns;
  }
}
