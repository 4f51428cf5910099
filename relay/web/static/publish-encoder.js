// From pictures and sound to the tracks of a broadcast: hang's catalog, video in H.264 (else VP8 or VP9), audio in Opus.
// Encodes only what somebody watches. Frames are dropped before they are encoded, so no decoder misses one.

import { Track } from "./publish-session.js";
import * as wire from "./publish-wire.js";
import { now } from "./publish-source.js";

export const KEY_INTERVAL = 2; // seconds
const AUDIO_GROUP = 5; // frames of 20 ms
const AUDIO_BITRATE = 64_000;
const QUEUE = 3; // pictures that an encoder may have before it counts as too slow
const MOST_FAILURES = 3;
const LEAST_BACKLOG = 64_000; // bytes unsent before pictures are dropped; half a second of video if that is more
const DRIFT = 200_000; // microseconds between the clocks of the sound and the page

export const VIDEO = "video/hd";
export const AUDIO = "audio/data";
export const CATALOG = "catalog.json";

/** Level 4.0 of H.264 is for 1080p at 30 frames a second. */
const CODECS = [
  { codec: "avc1.640028", avc: { format: "annexb" } },
  { codec: "avc1.4d0028", avc: { format: "annexb" } },
  { codec: "avc1.42e028", avc: { format: "annexb" } },
  { codec: "vp8" },
  { codec: "vp09.00.40.08" },
];

/** Bits a second that a picture needs at 30 frames a second: 2.4 Mbit/s for 720p. */
const bitrateOf = (width, height) => Math.max(300_000, Math.round((width * height * 2.6) / 10_000) * 10_000);

/** The first configuration that really encodes this picture; null if none does. */
async function choose(frame, framerate) {
  const width = frame.displayWidth & ~1; // codecs halve the resolution of colour
  const height = frame.displayHeight & ~1;
  const common = { width, height, framerate, bitrate: bitrateOf(width, height), latencyMode: "realtime" };
  for (const candidate of CODECS) {
    const config = { ...common, ...candidate };
    const { supported } = await VideoEncoder.isConfigSupported(config).catch(() => ({ supported: false }));
    if (supported && (await encodes(config, frame))) return config;
  }
  return null;
}

/** Some platforms promise a codec and fail at the first picture. */
async function encodes(config, frame) {
  let chunks = 0;
  const encoder = new VideoEncoder({ output: () => (chunks += 1), error: () => {} });
  try {
    encoder.configure(config);
    encoder.encode(frame, { keyFrame: true });
    await encoder.flush();
  } catch {
    return false;
  } finally {
    shut(encoder);
  }
  return chunks > 0;
}

/** Close an encoder that an error may have closed. */
function shut(encoder) {
  if (encoder && encoder.state !== "closed") encoder.close();
}

/** One broadcast from one source. */
export class Broadcast {
  /** `path` is absolute; `backlog()` is the bytes that wait to be sent. */
  constructor(path, source, backlog) {
    Object.assign(this, { path, source, backlog });
    this.hop = Math.floor(Math.random() * (Number.MAX_SAFE_INTEGER - 1)) + 1;
    this.onerror = () => {};
    this.catalog = new Track(CATALOG, { priority: 100, age: 5000, keeps: true });
    this.audio = new Track(AUDIO, { priority: 80, age: 5000 });
    this.video = new Track(VIDEO, { priority: 60, age: 5000, onwanted: (wanted) => (this.keyDue ||= wanted) });
    this.tracks = new Map([this.catalog, this.video].map((track) => [track.name, track]));
    this.config = null; // of the video encoder
    this.rendition = null; // of the sound, for the catalog
    this.figures = { bytes: 0, pictures: 0, dropped: 0 };
    this.keyDue = true;
    this.lastKey = -Infinity;
    this.congested = false;
    this.failures = 0; // of the video encoder
    this.voice = null; // encoder of the sound
    this.offset = null; // from the clock of the sound to the page's
    this.inGroup = 0; // frames of sound in the open group
    this.choosing = false;
    this.closed = false;
  }

  /** Begin. Resolves when there is a catalog, so that the broadcast may be announced. */
  start() {
    const ready = new Promise((resolve, reject) => Object.assign(this, { ready: resolve, fail: reject }));
    this.source.onpicture = (frame) => this.#picture(frame);
    if (this.source.hasSound) {
      this.tracks.set(AUDIO, this.audio);
      this.source.onsound = (data) => this.#sound(data);
      this.rendition = { codec: "opus", container: { kind: "legacy" }, sampleRate: 48_000, numberOfChannels: 1, bitrate: AUDIO_BITRATE, jitter: 20 };
    }
    return ready;
  }

  /** The source goes on. */
  close() {
    this.closed = true;
    this.source.release();
    shut(this.encoder);
    shut(this.voice);
  }

  #error(error) {
    if (this.closed) return;
    this.fail(error);
    this.onerror(error);
  }

  // -- the catalog

  #describe() {
    const { width, height, bitrate, framerate, codec } = this.config;
    const rendition = {
      codec, container: { kind: "legacy" }, codedWidth: width, codedHeight: height, bitrate, framerate,
      optimizeForLatency: true, jitter: Math.ceil(1000 / framerate),
    };
    const catalog = { video: { renditions: { [VIDEO]: rendition }, display: { width, height }, priority: 60 } };
    if (this.rendition) catalog.audio = { renditions: { [AUDIO]: this.rendition }, priority: 80 };
    this.catalog.begin();
    this.catalog.write(Math.round(now()), new TextEncoder().encode(JSON.stringify(catalog)));
    this.catalog.end();
    this.ready();
  }

  // -- video

  #picture(frame) {
    try {
      this.#encode(frame);
    } catch (error) {
      this.#error(error);
    } finally {
      frame.close();
    }
  }

  #encode(frame) {
    if (this.closed || this.choosing) return;
    const { config, encoder } = this;
    if (!config || config.width !== (frame.displayWidth & ~1) || config.height !== (frame.displayHeight & ~1)) {
      this.#configure(frame.clone()); // the first picture, or a phone was turned
      return;
    }
    if (!this.video.wanted) return;
    const most = Math.max(LEAST_BACKLOG, config.bitrate / 16);
    if (this.backlog() > (this.congested ? most / 4 : most)) {
      this.keyDue ||= !this.congested; // viewers go on with a new group
      this.congested = true;
      this.figures.dropped += 1;
      return;
    }
    this.congested = false;
    if (encoder.encodeQueueSize > QUEUE) {
      this.figures.dropped += 1;
      return;
    }
    const keyFrame = this.keyDue || frame.timestamp - this.lastKey >= KEY_INTERVAL * 1e6 - 0.5e6 / config.framerate;
    if (keyFrame) this.lastKey = frame.timestamp;
    this.keyDue = false;
    encoder.encode(frame, { keyFrame });
  }

  async #configure(frame) {
    this.choosing = true;
    try {
      const config = await choose(frame, this.source.framerate);
      if (this.closed) return;
      if (!config) throw new Error("this browser has no encoder for H.264, VP8 or VP9");
      shut(this.encoder);
      this.video.end();
      this.config = config;
      this.encoder = new VideoEncoder({
        output: (chunk) => this.#chunk(chunk),
        error: (error) => this.#failed(error),
      });
      this.encoder.configure(config);
      this.keyDue = true;
      this.#describe();
    } catch (error) {
      this.#error(error);
    } finally {
      frame.close();
      this.choosing = false;
    }
  }

  /** Encoders in hardware may be lost while they run: choose again with the next picture. */
  #failed(error) {
    this.failures += 1;
    this.config = null;
    if (this.failures > MOST_FAILURES) this.#error(error);
  }

  #chunk(chunk) {
    if (chunk.type === "key") this.video.begin();
    this.video.write(chunk.timestamp, this.#payload(chunk, chunk.timestamp));
    this.figures.pictures += 1;
  }

  #payload(chunk, timestamp) {
    const data = new Uint8Array(chunk.byteLength);
    chunk.copyTo(data);
    this.figures.bytes += data.length;
    return wire.legacy(timestamp, data);
  }

  // -- sound

  #sound(data) {
    try {
      if (!this.closed) this.#speak(data);
    } catch (error) {
      this.#error(error);
    } finally {
      data.close();
    }
  }

  #speak(data) {
    const { sampleRate, numberOfChannels } = data;
    const { rendition } = this;
    if (sampleRate !== rendition.sampleRate || numberOfChannels !== rendition.numberOfChannels) {
      Object.assign(rendition, { sampleRate, numberOfChannels });
      shut(this.voice);
      this.voice = null;
      if (this.config) this.#describe();
    }
    if (!this.audio.wanted || this.backlog() > 2 * LEAST_BACKLOG) {
      this.inGroup = 0;
      return;
    }
    if (!this.voice) {
      this.voice = new AudioEncoder({ output: (chunk) => this.#spoken(chunk), error: (error) => this.#error(error) });
      this.voice.configure({ codec: "opus", sampleRate, numberOfChannels, bitrate: AUDIO_BITRATE });
    }
    // The clock of a device has a beginning of its own.
    const offset = Math.round(now() - data.duration - data.timestamp);
    if (this.offset === null || Math.abs(offset - this.offset) > DRIFT) this.offset = offset;
    this.voice.encode(data);
  }

  #spoken(chunk) {
    const timestamp = Math.max(0, chunk.timestamp + this.offset);
    if (this.inGroup === 0) this.audio.begin();
    this.inGroup = (this.inGroup + 1) % AUDIO_GROUP;
    this.audio.write(timestamp, this.#payload(chunk, timestamp));
  }
}
