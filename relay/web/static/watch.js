// The view of one track: follows it as one more viewer, shows the latest frame, its size and arrival time.
// Keeps a bounded number of frames; of all but the latest only the beginning.

import * as api from "./api.js";
import { FrameChart, TimeChart } from "./charts.js";
import { Keyed, cell, find, make, mark, show, write, writeLong } from "./dom.js";
import { follow } from "./follow.js";
import * as format from "./format.js";
import { shownPath, trackKey, watchLink } from "./tables.js";

const WINDOW = 240; // frames kept
const LISTED = 20; // of them in the table
const HEAD = 72; // bytes kept of each
const DRAW = 100; // milliseconds between two drawings
const LONGEST_TEXT = 64 * 1024; // bytes of text shown
const SHORT_TEXT = 60; // characters, drawn large
const LONGEST_HEX = 1024; // bytes of anything else

const field = (name) => find(`[data-watch="${name}"]`);

// -- content of a frame

const IMAGES = [
  ["image/png", "PNG image", [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a], 0],
  ["image/jpeg", "JPEG image", [0xff, 0xd8, 0xff], 0],
  ["image/gif", "GIF image", [0x47, 0x49, 0x46, 0x38], 0],
  ["image/webp", "WebP image", [0x57, 0x45, 0x42, 0x50], 8],
  ["image/avif", "AVIF image", [0x66, 0x74, 0x79, 0x70, 0x61, 0x76, 0x69, 0x66], 4],
];

/** {kind, type} of an image, {kind, text}, or {kind} alone. `whole` is false where only the beginning is given. */
function recognise(data, whole) {
  for (const [type, kind, magic, at] of IMAGES) {
    if (magic.every((byte, index) => data[at + index] === byte)) return { kind, type };
  }
  if (data.length === 0) return { kind: "empty" };
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(data, { stream: !whole });
    // eslint-disable-next-line no-control-regex
    if (!/[\u0000-\u0008\u000e-\u001f\u007f]/.test(text)) return { kind: "text", text };
  } catch {
    // no text
  }
  return { kind: "binary" };
}

function pretty(text) {
  if (!/^\s*[[{]/.test(text)) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

const hex = (data) => Array.from(data, (byte) => byte.toString(16).padStart(2, "0")).join(" ");

/** Sixteen bytes a line, with offsets and characters; eight on a narrow screen. */
function dump(data) {
  const wide = matchMedia("(min-width: 40em)").matches ? 16 : 8;
  const lines = [];
  for (let at = 0; at < data.length; at += wide) {
    const row = data.subarray(at, at + wide);
    const letters = Array.from(row, (byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : "\u00b7"));
    lines.push(`${at.toString(16).padStart(4, "0")}  ${hex(row).padEnd(wide * 3 - 1)}  ${letters.join("")}`);
  }
  return lines.join("\n");
}

function snippet(frame) {
  frame.content ??= (() => {
    const { kind, text } = recognise(frame.head, frame.size <= HEAD);
    return text ?? (kind === "binary" ? hex(frame.head.subarray(0, 24)) : kind);
  })();
  return frame.content;
}

// -- the view

function frameRow() {
  const cells = ["Group", "Frame", "Size", "Arrived", "After"].map((label) => cell(label, { class: "number" }));
  const content = make("span", { class: "line mono" });
  const element = make("tr", { role: "row" }, ...cells, cell("Content", {}, content));
  let filled = false;
  return {
    element,
    update(frame) {
      if (filled) return; // a frame does not change
      filled = true;
      const texts = [format.count(frame.group), format.count(frame.frame), format.bytes(frame.size),
        format.clock(frame.wall, { milliseconds: true }), format.short(frame.gap)];
      cells.forEach((element, index) => write(element, texts[index]));
      writeLong(content, snippet(frame));
    },
  };
}

export class Watch {
  title = "Frames";
  element = find("#watch");

  constructor(histories) {
    this.histories = histories;
    this.target = null; // {broadcast, track} while this view is open
    this.running = null; // AbortController of the attempt to follow
    this.paused = false;
    this.known = [];
    this.rows = new Keyed(find("#watch .frames tbody"), frameRow);
    const frames = find("#frame-charts");
    this.sizes = new FrameChart(frames, {
      title: "Frame sizes",
      series: [{ label: "first of a group", colour: "groups", bars: true }, { label: "others", colour: "sent", bars: true }],
      format: format.bytes,
      axis: format.round(format.bytes),
      least: 10,
      window: WINDOW,
      sync: "frames",
    });
    this.gaps = new FrameChart(frames, {
      title: "Time between arrivals",
      series: [{ label: "since the previous frame", colour: "received" }],
      format: format.short,
      axis: format.round(format.short),
      least: 0.01,
      window: WINDOW,
      sync: "frames",
    });
    const relay = find("#track-charts");
    const line = (title, label, colour, options) =>
      new TimeChart(relay, { title, series: [{ label, colour }], sync: "track", ...options });
    this.relayCharts = [
      ["bytes", line("Track on the relay", "received", "received", { format: format.rate, axis: format.round(format.rate), unit: format.MEGABIT, least: 0.01 * format.MEGABIT })],
      ["groups", line("Groups", "begun", "groups", { format: format.often, axis: format.perSecond, least: 1 })],
      ["viewers", line("Viewers", "now", "viewers", { format: format.count, least: 4 })],
    ];
    this.form = find("#choose");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      const { broadcast, track } = this.form.elements;
      const link = watchLink(broadcast.value.trim(), track.value.trim());
      if (link === location.hash) this.#restart();
      else location.hash = link;
    });
    this.form.elements.broadcast.addEventListener("input", () => this.#suggest());
    field("pause").addEventListener("click", () => {
      this.paused = !this.paused;
      this.#restart();
    });
    const restart = () => this.target && this.#restart();
    document.addEventListener("visibilitychange", restart); // a hidden page stops watching
    api.changes.addEventListener("token", restart);
    field("image").addEventListener("load", () => this.#release());
    field("image").addEventListener("error", () => this.#release());
  }

  open(query) {
    const [broadcast, track] = [query.get("broadcast") ?? "", query.get("track")];
    this.paused = false;
    this.target = { broadcast, track };
    this.form.elements.broadcast.value = broadcast;
    this.form.elements.track.value = track;
    write(field("title"), track ? `${shownPath(broadcast)} \u203a ${track}` : shownPath(broadcast));
    this.#clear();
    this.#suggest();
    this.#restart();
    if (track) field("title").focus({ preventScroll: true });
    else this.form.elements.track.focus({ preventScroll: true });
  }

  close() {
    this.running?.abort();
    this.running = null;
    this.target = null;
  }

  /** Data of /state, each second; null if unknown. */
  update(state) {
    this.known = state ? state.broadcasts : [];
    if (!this.target) return;
    this.#suggest();
    show(find("#track-charts"), state !== null);
    if (!state) return;
    const { broadcast: path, track: name } = this.target;
    const broadcast = state.broadcasts.find((found) => found.path === path && found.serving);
    const track = broadcast?.tracks.find((found) => found.name === name);
    const history = track ? this.histories.of(trackKey(broadcast, track)) : null;
    for (const [column, chart] of this.relayCharts) {
      chart.draw(history ? history.columns(state.relay.now, [column]) : [[], []]);
    }
  }

  #suggest() {
    const options = (list, names) => {
      const text = JSON.stringify(names);
      if (list.dataset.names === text) return;
      list.dataset.names = text;
      list.replaceChildren(...names.map((name) => make("option", { value: name })));
    };
    const path = this.form.elements.broadcast.value;
    options(find("#known-broadcasts"), [...new Set(this.known.map((broadcast) => broadcast.path))].sort());
    const tracks = this.known.filter((broadcast) => broadcast.path === path).flatMap(({ tracks: found }) => found);
    const usual = ["catalog.json", "video/hd", "audio/data", "seconds"];
    options(find("#known-tracks"), [...new Set([...tracks.map((track) => track.name), ...usual])]);
  }

  #clear() {
    this.frames = [];
    this.seen = { frames: 0, bytes: 0 };
    this.latest = null; // the latest frame, until it is drawn
    for (const name of ["group", "frame", "size", "timestamp", "fps", "rate", "seen"]) write(field(name), format.NONE);
    write(field("kind"), "");
    write(field("nothing"), "No frame received yet.");
    this.#present("nothing");
    this.rows.sync([], () => null);
    for (const chart of [this.sizes, this.gaps]) chart.draw([[], ...chart.series.map(() => [])]);
  }

  #say(state, text) {
    mark(field("state"), "data-state", state);
    write(field("state"), text);
  }

  // -- following

  #restart() {
    this.running?.abort();
    this.running = null;
    write(field("pause"), this.paused ? "Resume" : "Pause");
    show(field("pause"), Boolean(this.target.track));
    if (!this.target.track) this.#say("idle", "Enter a track name: the relay lists only tracks that were requested.");
    else if (this.paused) this.#say("paused", "Paused.");
    else if (!document.hidden) {
      this.running = new AbortController();
      this.arrival = null; // of the previous frame
      follow(this.target, this.running.signal, {
        take: (frame) => this.#take(frame),
        say: (state, text) => this.#say(state, text),
      });
    }
  }

  #take(frame) {
    const arrival = performance.now() / 1000;
    this.seen.frames += 1;
    this.seen.bytes += frame.size;
    this.frames.push({
      number: this.seen.frames,
      group: frame.group,
      frame: frame.frame,
      size: frame.size,
      timestamp: frame.timestamp,
      head: frame.payload.slice(0, HEAD),
      arrival,
      wall: Date.now(),
      gap: this.arrival === null ? null : arrival - this.arrival,
    });
    if (this.frames.length > WINDOW) this.frames.shift();
    this.latest = frame.payload;
    this.timer ??= setTimeout(() => {
      this.timer = null;
      if (this.target) this.#draw();
    }, DRAW);
    this.arrival = arrival;
  }

  // -- drawing

  #draw() {
    const last = this.frames.at(-1);
    if (!last) return;
    const set = (name, text, value) => {
      write(field(name), text);
      mark(field(name), "data-value", value);
    };
    set("group", format.count(last.group), last.group);
    set("frame", format.count(last.frame), last.frame);
    set("size", format.bytes(last.size), last.size);
    set("timestamp", last.timestamp === null ? "none" : format.timestamp(last.timestamp), last.timestamp ?? "");
    set("seen", `${format.count(this.seen.frames)}`, this.seen.frames);
    mark(field("seen"), "title", format.bytes(this.seen.bytes));
    const recent = this.frames.filter((frame) => frame.arrival > last.arrival - 10 && frame.gap !== null);
    const length = recent.length ? last.arrival - (recent[0].arrival - recent[0].gap) : 0;
    write(field("fps"), format.often(length > 0 ? recent.length / length : null));
    write(field("rate"), format.rate(length > 0 ? recent.reduce((sum, { size }) => sum + size, 0) / length : null));
    const column = (value) => this.frames.map(value);
    const numbers = column((frame) => frame.number);
    this.sizes.draw([
      numbers,
      column((frame) => (frame.frame === 0 ? frame.size : null)),
      column((frame) => (frame.frame === 0 ? null : frame.size)),
    ]);
    this.gaps.draw([numbers, column((frame) => frame.gap)]);
    this.rows.sync(this.frames.slice(-LISTED).reverse(), (frame) => frame.number);
    this.#preview();
  }

  #preview() {
    if (this.latest === null || this.shownUrl) return; // an image is being decoded: the next drawing is newer
    const data = this.latest;
    this.latest = null;
    const { kind, type, text } = recognise(data, true);
    write(field("kind"), `${kind}, ${format.bytes(data.length)}`);
    if (type) {
      this.shownUrl = URL.createObjectURL(new Blob([data], { type }));
      field("image").src = this.shownUrl;
      this.#present("image");
    } else if (text !== undefined) {
      write(field("text"), pretty(text.slice(0, LONGEST_TEXT)));
      this.#present("text", text.length <= SHORT_TEXT ? "short" : null);
    } else if (data.length) {
      const more = data.length > LONGEST_HEX ? `\n\u2026 and ${format.bytes(data.length - LONGEST_HEX)} more` : "";
      write(field("text"), dump(data.subarray(0, LONGEST_HEX)) + more);
      this.#present("text", "hex");
    } else {
      write(field("nothing"), "An empty frame.");
      this.#present("nothing");
    }
  }

  #present(which, style = null) {
    mark(field("text"), "class", style);
    for (const name of ["image", "text", "nothing"]) show(field(name), name === which);
  }

  #release() {
    URL.revokeObjectURL(this.shownUrl);
    this.shownUrl = null;
    if (this.latest !== null && this.target) this.#preview();
  }
}
