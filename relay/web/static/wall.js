// Thumbnails in the list of broadcasts: the newest key frame of each one that is in view, renewed now and then.
//
// Each renewal is a viewer for a moment. So the cost is bounded: few at once, each seldom, none out of view.

import * as catalogs from "./catalog.js";
import { find, make, mark, show } from "./dom.js";
import { incapable, unsupported } from "./player.js";
import { paint, videoChunk, videoConfig } from "./picture.js";

const AT_ONCE = 2; // of the six connections that browsers open to one address
const TICK = 500; // milliseconds between two looks for something to do
const RENEWED = 15_000; // milliseconds from a picture to the next one
const CATALOG_AGE = 60_000;
const FIRST_PAUSE = 15_000; // after a failure, doubled each time
const LONGEST_PAUSE = 300_000;
const PATIENCE = 8000; // milliseconds for all of one renewal
const READ_LATER = 3000; // milliseconds for which the relay may still count a reading that has ended
const LARGEST = 192; // pixels, in either direction
const STORED = "moq-relay.thumbnails";

/** The first picture of a rendition's newest group, on a canvas. */
async function drawKeyFrame(canvas, rendition, turn, signal) {
  const frame = await catalogs.firstFrame(rendition.broadcast, rendition.track, signal);
  const sample = catalogs.samples(rendition, frame)[0];
  if (!sample?.key) throw new Error("no key frame");
  const config = videoConfig(rendition, sample);
  await new Promise((resolve, reject) => {
    const decoder = new VideoDecoder({
      output(picture) {
        paint(canvas, picture, { ...turn, largest: LARGEST });
        picture.close();
        resolve();
      },
      error: reject,
    });
    const end = () => {
      if (decoder.state !== "closed") decoder.close();
      reject(new Error("no picture"));
    };
    signal.addEventListener("abort", end);
    decoder.configure(config);
    decoder.decode(videoChunk(rendition, config, sample));
    decoder.flush().then(end, end); // after the output: a promise is settled once
  });
}

class Wall {
  constructor() {
    this.entries = new Map(); // by element
    this.running = new Set();
    this.reading = new Map(); // [path, track] as JSON: until when
    this.observer = new IntersectionObserver((changes) => {
      for (const { target, isIntersecting } of changes) {
        const entry = this.entries.get(target);
        if (entry) entry.visible = isIntersecting;
        if (entry && !isIntersecting) entry.abort?.abort();
      }
    });
    this.control = find("[data-wall]");
    this.possible = incapable() === null;
    show(this.control.parentElement, this.possible);
    this.control.checked = this.possible && stored() !== "off";
    this.control.addEventListener("change", () => {
      store(this.control.checked ? null : "off");
      this.#switched();
    });
    document.addEventListener("visibilitychange", () => this.#switched());
    this.#switched();
  }

  get on() {
    return this.control.checked && !document.hidden;
  }

  #switched() {
    mark(document.body, "data-thumbnails", this.control.checked ? "" : null);
    clearInterval(this.timer);
    if (this.on) this.timer = setInterval(() => this.#look(), TICK);
    else for (const entry of this.running) entry.abort.abort();
  }

  /** A link with the thumbnail of a broadcast, for as long as it is in the document. */
  thumbnail(path, link) {
    const canvas = make("canvas", { width: 16, height: 9, hidden: "" });
    const element = make("a", { class: "thumbnail", href: link, tabindex: "-1", "aria-hidden": "true" }, canvas);
    this.entries.set(element, { path, element, canvas, visible: false, due: 0, pause: FIRST_PAUSE, catalog: null, read: 0 });
    this.observer.observe(element);
    return element;
  }

  /** This page, and not a viewer, may be why the relay lists a track. */
  reads(path, track) {
    return (this.reading.get(JSON.stringify([path, track])) ?? 0) > performance.now();
  }

  #wanted(entry) {
    return this.on && entry.visible;
  }

  #look() {
    const now = performance.now();
    for (const [element, entry] of this.entries) {
      if (element.isConnected || entry.abort) continue;
      this.observer.unobserve(element);
      this.entries.delete(element);
    }
    for (const [key, end] of this.reading) if (end <= now) this.reading.delete(key);
    const due = [...this.entries.values()].filter((entry) => entry.visible && !entry.abort && entry.due <= now);
    due.sort((a, b) => a.due - b.due);
    for (const entry of due.slice(0, AT_ONCE - this.running.size)) this.#renew(entry);
  }

  async #renew(entry) {
    const { signal } = (entry.abort = new AbortController());
    const timer = setTimeout(() => entry.abort.abort(), PATIENCE);
    this.running.add(entry);
    try {
      await this.#draw(entry, signal);
      show(entry.canvas, true);
      mark(entry.element, "data-none", null);
      entry.pause = FIRST_PAUSE;
      entry.due = performance.now() + RENEWED;
    } catch {
      if (signal.aborted && !this.#wanted(entry)) return;
      entry.catalog = null;
      if (entry.canvas.hidden) mark(entry.element, "data-none", "");
      entry.due = performance.now() + entry.pause; // no catalog, no video, or a codec that is not known here
      entry.pause = Math.min(2 * entry.pause, LONGEST_PAUSE);
    } finally {
      if (!this.#wanted(entry)) entry.due = 0; // it was stopped: go on when it is seen again
      clearTimeout(timer);
      this.running.delete(entry);
      entry.abort = null;
    }
  }

  async #draw(entry, signal) {
    const now = performance.now();
    if (!entry.catalog || now - entry.read > CATALOG_AGE) {
      const end = this.#note(entry.path, [catalogs.HANG, catalogs.MSF]);
      try {
        entry.catalog = await catalogs.load(entry.path, signal, { quiet: true, name: entry.catalog?.name });
      } finally {
        end();
      }
      entry.read = now;
    }
    const size = ({ width, height, bitrate }) => (width ?? 0) * (height ?? 0) || (bitrate ?? 0);
    const smallest = [...entry.catalog.video].sort((a, b) => size(a) - size(b));
    for (const rendition of smallest) {
      if (await unsupported(rendition)) continue;
      const end = this.#note(rendition.broadcast, [rendition.track]);
      try {
        await drawKeyFrame(entry.canvas, rendition, entry.catalog, signal);
      } finally {
        end();
      }
      return;
    }
    throw new Error("nothing to show");
  }

  /** Remember that these tracks are read, until some time after the end that the result notes. */
  #note(path, tracks) {
    const set = (until) => {
      for (const track of tracks) this.reading.set(JSON.stringify([path, track]), until);
    };
    set(performance.now() + PATIENCE + READ_LATER);
    return () => set(performance.now() + READ_LATER);
  }
}

function stored() {
  try {
    return localStorage.getItem(STORED);
  } catch {
    return null; // forbidden by the browser's settings
  }
}

function store(value) {
  try {
    if (value === null) localStorage.removeItem(STORED);
    else localStorage.setItem(STORED, value);
  } catch {
    // only for this visit then
  }
}

export const wall = new Wall();
