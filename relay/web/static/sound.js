// One audio track as sound: follows it, decodes it with WebCodecs and plays each piece when it is due.

import { samples } from "./catalog.js";
import { follow } from "./follow.js";
import { Rates } from "./picture.js";

const MOST_FAULTS = 4; // of the decoder, without a sound in between
const DECODING = 64; // pieces in the decoder
const TOLERANCE = 0.06; // seconds between what is due and what continues the piece before
const USUAL_RATE = 48_000;
const HELD = 100; // milliseconds that a frame waits for those of earlier groups
const MOST_SLACK = 0.2; // seconds

/** Configuration for an AudioDecoder. */
export function audioConfig(rendition) {
  const codec = rendition.codec === "pcm" ? "pcm-f32" : rendition.codec; // hang's name for it
  const config = {
    codec,
    sampleRate: rendition.sampleRate ?? USUAL_RATE,
    numberOfChannels: rendition.channels ?? 2,
  };
  // one or two channels of Opus need none, and some publishers write others than browsers take
  if (rendition.description && !(codec === "opus" && config.numberOfChannels <= 2)) config.description = rendition.description;
  return config;
}

/** Puts frames into the order of their groups: each has a stream of its own, and the newest one is sent first. */
export class InOrder {
  constructor(take) {
    this.take = take;
    this.clear();
  }

  clear() {
    this.group = null; // of the last frame that was taken
    this.held = []; // [frame, arrival], in order
    clearTimeout(this.timer);
  }

  put(frame, now = performance.now()) {
    if (this.group !== null && frame.group < this.group) return; // too late
    const after = this.held.findIndex(([other]) => other.group > frame.group);
    this.held.splice(after < 0 ? this.held.length : after, 0, [frame, now]);
    this.#release(now);
  }

  #release(now) {
    clearTimeout(this.timer);
    while (this.held.length) {
      const [frame, arrival] = this.held[0];
      if (this.group !== null && frame.group > this.group + 1 && now - arrival < HELD) {
        this.timer = setTimeout(() => this.#release(performance.now()), HELD - (now - arrival));
        return;
      }
      this.held.shift();
      this.group = frame.group;
      this.take(frame);
    }
  }
}

export class Sound {
  /** `say` as in Picture. */
  constructor(clock, say) {
    Object.assign(this, { clock, say });
    this.running = null;
    this.loudness = 1;
    this.order = new InOrder((frame) => this.#take(frame));
  }

  /** Only after a click: browsers play no sound before. */
  open(rendition) {
    this.close();
    this.rendition = rendition;
    this.config = audioConfig(rendition);
    this.rates = new Rates();
    this.faults = 0;
    this.slack = 0; // seconds for the decoder, learnt from pieces that were too late
    this.next = 0; // time of the context at which the last piece ends
    const rate = this.config.sampleRate;
    this.context = new AudioContext(rate >= 8000 && rate <= 96_000 ? { sampleRate: rate } : {});
    this.gain = new GainNode(this.context, { gain: this.loudness });
    this.analyser = new AnalyserNode(this.context, { fftSize: 2048 });
    this.gain.connect(this.analyser).connect(this.context.destination);
    this.context.resume();
    this.running = new AbortController();
    follow(rendition, this.running.signal, {
      take: (frame) => this.order.put(frame),
      say: (state, text) => {
        if (state === "following") this.#begin();
        this.say(state, text);
      },
    });
  }

  close() {
    this.running?.abort();
    this.running = null;
    this.#drop();
    this.context?.close();
    this.context = null;
    this.clock.lead = 0;
    this.#begin();
  }

  /** 0 to 1. */
  set volume(value) {
    this.loudness = value;
    if (this.context) this.gain.gain.value = value;
  }

  /** Root mean square of what plays, 0 to 1. */
  get level() {
    if (!this.context) return 0;
    const wave = new Float32Array(this.analyser.fftSize);
    this.analyser.getFloatTimeDomainData(wave);
    return Math.sqrt(wave.reduce((sum, value) => sum + value * value, 0) / wave.length);
  }

  /** From the newest group on: what was cached comes at once, and groups may be counted anew. */
  #begin() {
    this.clock.forget("audio");
    this.order.clear();
  }

  #drop() {
    if (this.decoder && this.decoder.state !== "closed") this.decoder.close();
    this.decoder = null;
  }

  #fail(text) {
    this.close();
    this.say("faulty", text);
  }

  #take(frame) {
    if (!this.running) return;
    let found;
    try {
      found = samples(this.rendition, frame);
    } catch (error) {
      this.#fail(`The sound is not in the container that the catalog names (${this.rendition.container}): ${error.message}.`);
      return;
    }
    if (!found.length) return;
    this.rates.note(frame.size, null);
    const now = performance.now(); // the time that it was held counts as well
    for (const { timestamp, data } of found) {
      this.clock.note("audio", timestamp / 1000, now);
      try {
        if (!this.decoder) this.#configure();
        if (this.decoder.decodeQueueSize > DECODING) continue; // more than a second: the decoder does not keep up
        this.decoder.decode(new EncodedAudioChunk({ type: "key", timestamp, data }));
      } catch (error) {
        this.#stumble(error);
        if (!this.running) return;
      }
    }
  }

  #configure() {
    const decoder = new AudioDecoder({
      output: (piece) => {
        if (decoder === this.decoder) this.#play(piece);
        piece.close();
      },
      error: (error) => {
        if (decoder === this.decoder) this.#stumble(error);
      },
    });
    decoder.configure(this.config);
    this.decoder = decoder;
  }

  #stumble(error) {
    this.#drop();
    this.faults += 1;
    if (this.faults >= MOST_FAULTS) this.#fail(`This browser cannot decode the sound (${this.rendition.codec}): ${error.message}`);
  }

  #play(piece) {
    this.faults = 0;
    const { context } = this;
    const { currentTime } = context;
    const output = context.outputLatency || 0;
    this.clock.lead = (output + this.slack) * 1000;
    const wait = this.clock.at("audio", piece.timestamp / 1000) - performance.now();
    let when = currentTime + wait / 1000 - output;
    if (this.next > currentTime && Math.abs(when - this.next) < TOLERANCE) when = this.next;
    if (when < currentTime) {
      this.slack = Math.min(this.slack + currentTime - when, MOST_SLACK);
      return;
    }
    const buffer = new AudioBuffer({
      length: piece.numberOfFrames,
      numberOfChannels: piece.numberOfChannels,
      sampleRate: piece.sampleRate,
    });
    for (let channel = 0; channel < piece.numberOfChannels; channel += 1) {
      piece.copyTo(buffer.getChannelData(channel), { planeIndex: channel, format: "f32-planar" });
    }
    const source = new AudioBufferSourceNode(context, { buffer });
    source.connect(this.gain);
    source.start(when);
    this.next = when + buffer.duration;
  }
}
