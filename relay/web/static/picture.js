// One video track on a canvas: follows it, decodes it with WebCodecs and draws each picture when it is due.
// Whatever cannot keep up is skipped up to the newest group.

import { samples } from "./catalog.js";
import { hasStartCode, withStartCodes } from "./containers.js";
import { follow } from "./follow.js";

const DECODING = 6; // pictures in the decoder
const DECODED = 6; // pictures that wait to be drawn
const LONGEST_QUEUE = 1200; // frames that wait to be decoded
const LARGEST_QUEUE = 32 * 1024 * 1024; // bytes of them
const MOST_FAULTS = 4; // of the decoder, without a picture in between
const LARGEST = 1920; // pixels of the canvas, in either direction
const EARLY = 4; // milliseconds
const RECENT = 5000; // milliseconds that rates are taken over

/** Configuration for a VideoDecoder. `sample` is the first one, if there is one: it may contradict the catalog. */
export function videoConfig(rendition, sample = null) {
  const config = { codec: rendition.codec, optimizeForLatency: true };
  let { description } = rendition;
  if (sample?.config) description = sample.config;
  if (sample && units(rendition) && hasStartCode(sample.data)) description = null;
  if (description) config.description = description;
  if (rendition.width && rendition.height) Object.assign(config, { codedWidth: rendition.width, codedHeight: rendition.height });
  if (rendition.aspect) [config.displayAspectWidth, config.displayAspectHeight] = rendition.aspect;
  return config;
}

/** The codec has units with start codes or lengths. */
const units = ({ codec }) => /^(avc|hvc|hev)/i.test(codec);

/** The chunk of a sample, in the form that the configuration announces. */
export function videoChunk(rendition, config, sample) {
  let { data } = sample;
  if (units(rendition) && !config.description && !hasStartCode(data)) data = withStartCodes(data) ?? data;
  return new EncodedVideoChunk({ type: sample.key ? "key" : "delta", timestamp: sample.timestamp, data });
}

/** Draw a picture on a canvas of a bounded size, turned as the catalog says. */
export function paint(canvas, picture, { largest = LARGEST, rotation = 0, flip = false } = {}) {
  const scale = Math.min(1, largest / Math.max(picture.displayWidth, picture.displayHeight));
  const [width, height] = [picture.displayWidth, picture.displayHeight].map((side) => Math.max(1, Math.round(side * scale)));
  const turned = rotation % 180 !== 0;
  const [across, down] = turned ? [height, width] : [width, height];
  if (canvas.width !== across || canvas.height !== down) Object.assign(canvas, { width: across, height: down });
  const context = canvas.getContext("2d", { alpha: false });
  context.setTransform(1, 0, 0, 1, across / 2, down / 2);
  if (flip) context.scale(-1, 1);
  context.rotate((rotation * Math.PI) / 180);
  context.drawImage(picture, -width / 2, -height / 2, width, height);
}

/** Rates of the last seconds. */
export class Rates {
  constructor() {
    this.arrivals = []; // [time, bytes]
    this.keys = []; // timestamps of groups
    this.last = null;
  }

  note(bytes, groupStart, now = performance.now()) {
    this.arrivals.push([now, bytes]);
    while (now - this.arrivals[0][0] > RECENT) this.arrivals.shift();
    if (groupStart !== null) this.keys = [...this.keys.slice(-4), groupStart];
    this.last = now;
  }

  /** Bits per second, null until there is enough to tell. */
  get bitrate() {
    const { arrivals } = this;
    const span = arrivals.length > 1 ? performance.now() - arrivals[0][0] : 0;
    return span > 1000 ? (arrivals.reduce((sum, [, bytes]) => sum + bytes, 0) * 8000) / span : null;
  }

  /** Seconds from group to group. */
  get interval() {
    const { keys } = this;
    return keys.length > 1 ? (keys.at(-1) - keys[0]) / (keys.length - 1) / 1_000_000 : null;
  }

  /** Seconds since the last frame. */
  get age() {
    return this.last === null ? null : (performance.now() - this.last) / 1000;
  }
}

export class Picture {
  /** `say(state, text)` as in `follow`, and "faulty" if the pictures cannot be decoded. */
  constructor(canvas, clock, say) {
    Object.assign(this, { canvas, clock, say });
    this.running = null;
  }

  open(rendition, turn) {
    this.close();
    this.rendition = rendition;
    this.turn = turn;
    this.rates = new Rates();
    this.queue = []; // samples to decode
    this.bytes = 0; // of them
    this.ready = []; // decoded pictures
    this.arrivals = new Map(); // by timestamp
    this.group = -1;
    this.faults = 0;
    this.needsKey = true;
    this.drawn = 0;
    this.skipped = 0; // frames
    this.size = null;
    this.latency = null; // milliseconds from arrival to presentation
    this.running = new AbortController();
    follow(rendition, this.running.signal, {
      take: (frame) => this.#take(frame),
      say: (state, text) => {
        if (state === "following") this.#begin();
        this.say(state, text);
      },
    });
    this.#look();
  }

  close() {
    this.running?.abort();
    this.running = null;
    cancelAnimationFrame(this.looking);
    this.#drop();
    for (const picture of this.ready?.splice(0) ?? []) picture.close();
    this.clock.forget("video");
  }

  /** From the newest group on: what was cached comes at once, and groups may be counted anew. */
  #begin() {
    this.clock.forget("video");
    this.group = -1;
    this.#leave(this.queue.length);
    for (const picture of this.ready.splice(0)) picture.close();
  }

  #drop() {
    if (this.decoder && this.decoder.state !== "closed") this.decoder.close();
    this.decoder = null;
    this.needsKey = true;
  }

  #fail(text) {
    this.close();
    this.say("faulty", text);
  }

  #take(frame) {
    if (frame.group < this.group) return; // of a group that was left
    const first = frame.group > this.group;
    if (first && frame.frame !== 0) return; // its key frame is missing
    this.group = frame.group;
    let found;
    try {
      found = samples(this.rendition, frame);
    } catch (error) {
      this.#fail(`The frames are not in the container that the catalog names (${this.rendition.container}): ${error.message}.`);
      return;
    }
    if (!found.length) return;
    this.rates.note(frame.size, first ? found[0].timestamp : null);
    const now = performance.now();
    for (const sample of found) {
      this.clock.note("video", sample.timestamp / 1000, now);
      this.arrivals.set(sample.timestamp, now);
      this.queue.push(sample);
      this.bytes += sample.data.length;
    }
    while (this.arrivals.size > LONGEST_QUEUE) this.arrivals.delete(this.arrivals.keys().next().value);
    if (this.queue.length > LONGEST_QUEUE || this.bytes > LARGEST_QUEUE) this.#leave(this.queue.findLastIndex(({ key }) => key) || this.queue.length);
    this.#feed();
  }

  /** Skip all samples before an index. */
  #leave(index) {
    if (index < 0) index = this.queue.length;
    const left = this.queue.splice(0, index);
    this.bytes -= left.reduce((sum, { data }) => sum + data.length, 0);
    this.skipped += left.length;
    if (!this.queue[0]?.key) this.needsKey = true;
  }

  #feed() {
    const now = performance.now();
    // a later group is due already: the pictures before it are too late
    const due = this.queue.findLastIndex((sample) => sample.key && this.clock.at("video", sample.timestamp / 1000) <= now);
    if (due > 0) this.#leave(due);
    while (this.queue.length && this.ready.length < DECODED && (this.decoder?.decodeQueueSize ?? 0) < DECODING) {
      const sample = this.queue.shift();
      this.bytes -= sample.data.length;
      if (this.needsKey && !sample.key) continue;
      try {
        if (!this.decoder || sample.config) this.#configure(sample);
        this.decoder.decode(videoChunk(this.rendition, this.config, sample));
        this.needsKey = false;
      } catch (error) {
        this.#stumble(error);
        if (!this.running) return;
      }
    }
  }

  #configure(sample) {
    const config = videoConfig(this.rendition, sample);
    if (!this.decoder) {
      const decoder = new VideoDecoder({
        output: (picture) => this.#output(decoder, picture),
        error: (error) => {
          if (decoder === this.decoder) this.#stumble(error);
        },
      });
      this.decoder = decoder;
    }
    this.decoder.configure(config);
    this.config = config;
  }

  #stumble(error) {
    this.#drop();
    this.faults += 1;
    if (this.faults < MOST_FAULTS) return; // once more, at the next key frame
    this.#fail(`This browser cannot decode the pictures (${this.rendition.codec}): ${error.message}`);
  }

  #output(decoder, picture) {
    if (decoder !== this.decoder) {
      picture.close();
      return;
    }
    this.faults = 0;
    this.ready.push(picture);
    this.#feed();
  }

  #look() {
    this.looking = requestAnimationFrame(() => {
      if (!this.running) return;
      this.#draw();
      this.#feed();
      if (this.running) this.#look();
    });
  }

  #draw() {
    const now = performance.now();
    let picture = null;
    while (this.ready.length && this.clock.at("video", this.ready[0].timestamp / 1000) <= now + EARLY) {
      picture?.close();
      picture = this.ready.shift();
    }
    if (!picture) return;
    paint(this.canvas, picture, this.turn);
    this.drawn += 1;
    this.size = [picture.displayWidth, picture.displayHeight];
    const arrival = this.arrivals.get(picture.timestamp);
    this.latency = arrival === undefined ? null : now - arrival;
    picture.close();
  }
}
