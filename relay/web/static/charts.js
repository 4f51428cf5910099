// Charts: uPlot in a figure whose caption says the newest numbers, or those under the pointer; and small lines in SVG.

import { make, write } from "./dom.js";
import { duration } from "./format.js";
import { SPAN } from "./history.js";

const HEIGHT = 150;
const charts = new Set();

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** The next round number with a round half, for a stable axis. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 6, 8, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

/** Lines or bars over one x axis, the y axis at least up to `least`, in round numbers of `unit`. Columns come in the
 * order of `series`. */
class Chart {
  constructor(parent, { title, about = "", series, format, axis = format, least, unit = 1, sync }) {
    Object.assign(this, { series, format, axis, least, unit, sync });
    this.values = series.map(() => make("b", {}, "\u2013"));
    const legend = series.map(({ label, colour: name }, number) =>
      make("span", { class: "key" }, make("i", { class: `swatch ${name}` }), `${label} `, this.values[number]),
    );
    this.when = make("span", { class: "when" });
    this.box = make("div", { class: "plot", "aria-hidden": "true" });
    this.figure = make(
      "figure",
      { class: "card" },
      make("figcaption", {}, make("h3", about ? { title: about } : {}, title), make("p", {}, ...legend, this.when)),
      this.box,
    );
    parent.append(this.figure);
    this.columns = [[], ...series.map(() => [])];
    new ResizeObserver(() => this.#fit()).observe(this.box);
    charts.add(this);
  }

  draw(columns) {
    this.columns = columns;
    if (this.plot) this.plot.setData(columns);
    this.#caption(this.plot?.cursor.idx ?? null);
  }

  /** Draw again in the current colours. */
  rebuild() {
    this.plot?.destroy();
    this.plot = null;
    this.#fit();
  }

  #fit() {
    const width = this.box.clientWidth;
    if (width === 0) return; // hidden
    if (this.plot) this.plot.setSize({ width, height: HEIGHT });
    else this.plot = new uPlot(this.#options(width), this.columns, this.box);
  }

  #caption(index) {
    const [times, ...columns] = this.columns;
    const at = index ?? times.length - 1;
    columns.forEach((column, number) => {
      const value = index === null ? column.findLast((known) => known !== null) : column[at];
      write(this.values[number], this.format(value ?? null));
    });
    write(this.when, index === null ? "" : this.describe(times[at]));
  }

  #options(width) {
    const axis = {
      stroke: colour("quiet"),
      grid: { stroke: colour("grid"), width: 1 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
    };
    return {
      width,
      height: HEIGHT,
      padding: [8, 22, 0, 0],
      legend: { show: false },
      cursor: {
        y: false,
        drag: { x: false, y: false },
        points: { size: 6 },
        sync: { key: this.sync },
      },
      hooks: { setCursor: [(plot) => this.#caption(plot.cursor.idx ?? null)] },
      scales: {
        x: { time: false, range: () => this.span() },
        y: { range: (_, low, high) => [0, roundUp(Math.max(high ?? 0, this.least) / this.unit) * this.unit] },
      },
      axes: [
        { ...axis, size: 24, gap: 4, ...this.labels() },
        {
          ...axis,
          size: 66,
          gap: 6,
          splits: (plot) => [0, plot.scales.y.max / 2, plot.scales.y.max],
          values: (_, splits) => splits.map((value) => this.axis(value)),
        },
      ],
      series: [{}, ...this.series.map((series) => this.line(series))],
    };
  }

  line({ colour: name }) {
    return { stroke: colour(name), fill: colour(`${name}-fill`), width: 1.5, points: { show: false } };
  }
}

/** Seconds between two labels of the axis, for each length of time. */
const LABELS = { 300: 60, 3600: 600, 86400: 14400 };

/** The last minutes or hours; the first column is in seconds before now. */
export class TimeChart extends Chart {
  length = SPAN;

  /** Show another length of time, in seconds. */
  extend(seconds) {
    if (this.length === seconds) return;
    this.length = seconds;
    this.rebuild();
  }

  span() {
    return [-this.length, 0];
  }

  labels() {
    const step = LABELS[this.length];
    const [unit, name] = this.length > 3600 ? [3600, "h"] : [60, "min"];
    const places = [];
    for (let at = -this.length; at <= 0; at += step) places.push(at);
    return {
      splits: () => places,
      values: (_, splits) => splits.map((at) => (at === 0 ? "now" : at === -this.length ? "" : `\u2212${-at / unit} ${name}`)),
    };
  }

  describe(seconds) {
    const ago = Math.round(-seconds);
    return ago < 120 ? `${ago} s ago` : `${duration(ago)} ago`;
  }
}

/** The last frames; the first column is their number. */
export class FrameChart extends Chart {
  constructor(parent, options) {
    super(parent, options);
    this.window = options.window;
  }

  span() {
    const last = this.columns[0].at(-1) ?? 0;
    return [last - (this.window ?? 1) + 0.5, last + 0.5];
  }

  labels() {
    const step = this.window / 4;
    return {
      splits: () => [3, 2, 1, 0].map((steps) => (this.columns[0].at(-1) ?? 0) - steps * step),
      values: () => [3, 2, 1, 0].map((steps) => (steps ? `\u2212${steps * step}` : "latest")),
    };
  }

  describe(number) {
    return `${this.columns[0].at(-1) - number} frames ago`;
  }

  line(series) {
    if (!series.bars) return super.line(series);
    return {
      stroke: colour(series.colour),
      fill: colour(series.colour),
      width: 0,
      points: { show: false },
      paths: uPlot.paths.bars({ size: [0.8, 8] }),
    };
  }
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of charts) chart.rebuild();
});

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 120;
const TALL = 28;

/** A line without axes, for a table row. */
export class Sparkline {
  constructor() {
    this.element = document.createElementNS(SVG, "svg");
    this.element.setAttribute("class", "spark");
    this.element.setAttribute("viewBox", `0 0 ${WIDTH} ${TALL}`);
    this.element.setAttribute("preserveAspectRatio", "none");
    this.element.setAttribute("aria-hidden", "true");
    this.path = document.createElementNS(SVG, "path");
    this.element.append(this.path);
  }

  draw([times, values]) {
    let high = 0;
    for (const value of values) if (value > high) high = value;
    let path = "";
    let pen = "M";
    for (let index = 0; index < times.length; index += 1) {
      if (values[index] === null) {
        pen = "M";
        continue;
      }
      const x = ((times[index] + SPAN) / SPAN) * WIDTH;
      const y = TALL - 2 - (high > 0 ? (values[index] / high) * (TALL - 4) : 0);
      path += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
      pen = "L";
    }
    if (path !== this.drawn) this.path.setAttribute("d", (this.drawn = path));
  }
}
