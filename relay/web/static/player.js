// The view of a broadcast: its picture and sound, and its tracks as the catalog describes them.

import * as api from "./api.js";
import * as catalogs from "./catalog.js";
import { Clock } from "./clock.js";
import { Keyed, cell, find, make, mark, show, write, writeLong } from "./dom.js";
import { pause } from "./follow.js";
import * as format from "./format.js";
import { Picture, videoConfig } from "./picture.js";
import { Sound, audioConfig } from "./sound.js";
import { shownPath, watchLink } from "./tables.js";

const LOOK_AGAIN = 10_000; // milliseconds until the catalog is read again
const FIRST_PAUSE = 1000; // after a failure, doubled each time
const LONGEST_PAUSE = 8000;
const PERIOD = 250; // milliseconds between two drawings of the figures

const field = (name) => find(`[data-play="${name}"]`);

// -- what this browser can decode

const NAMES = [
  [/^avc/i, "H.264"], [/^(hvc|hev)/i, "H.265"], [/^vp0?8/i, "VP8"], [/^vp0?9/i, "VP9"], [/^av01/i, "AV1"],
  [/^opus/i, "Opus"], [/^mp4a\.40/i, "AAC"], [/^flac/i, "FLAC"], [/^pcm/i, "PCM"],
];

export function codecName(codec) {
  const name = NAMES.find(([pattern]) => pattern.test(codec))?.[1];
  return !name ? codec : name.toLowerCase() === codec ? name : `${name} (${codec})`;
}

/** Why this page can decode nothing at all; null if it can. */
export function incapable() {
  if ("VideoDecoder" in window && "AudioDecoder" in window) return null;
  if (!window.isSecureContext) {
    return "Browsers decode pictures and sound only on pages of a secure context, and this address is none. Open the page over "
      + "https:// ([web.https] in the relay's configuration), or on the relay's own machine as http://localhost, "
      + `for instance through a tunnel: ssh -L ${location.port || 80}:localhost:${location.port || 80} ${location.hostname}`;
  }
  return "This browser has no WebCodecs, which this page decodes pictures and sound with: "
    + "Chrome and Edge have it since 94, Firefox since 130, Safari since 26.";
}

/** Why a rendition cannot be shown or heard here; null if it can. */
export async function unsupported(rendition) {
  const reason = incapable();
  if (reason) return reason;
  if (rendition.fault) return `${rendition.fault[0].toUpperCase()}${rendition.fault.slice(1)}.`;
  const video = rendition.kind === "video";
  try {
    const { supported } = video
      ? await VideoDecoder.isConfigSupported(videoConfig(rendition))
      : await AudioDecoder.isConfigSupported(audioConfig(rendition));
    if (supported) return null;
  } catch {
    return `${rendition.codec} is not a codec that this browser knows.`;
  }
  const hint = /^(hvc|hev)/i.test(rendition.codec) ? " Browsers decode H.265 only where the machine's hardware does." : "";
  return `This browser cannot decode ${codecName(rendition.codec)}.${hint}`;
}

// -- the table of tracks

const bits = (value) => (value === null || value === undefined ? format.NONE : `${format.bytes(value).replace(/B$/, "bit")}/s`);

function measure(rendition) {
  const parts = [];
  if (rendition.kind === "video") {
    if (rendition.size) parts.push(rendition.size.join("\u00d7"));
    if (rendition.framerate) parts.push(`${Number(rendition.framerate.toFixed(2))} fps`);
  } else {
    if (rendition.sampleRate) parts.push(`${rendition.sampleRate / 1000} kHz`);
    if (rendition.channels) parts.push({ 1: "mono", 2: "stereo" }[rendition.channels] ?? `${rendition.channels} channels`);
  }
  return parts.join(", ") || format.NONE;
}

function trackRow(choose) {
  const link = make("a");
  const why = make("span", { class: "line quiet why" });
  const codec = cell("Codec");
  const size = cell("Size");
  const rate = cell("Bitrate", { class: "number" });
  const interval = cell("Key frames", { class: "number" });
  const age = cell("Age", { class: "number" });
  const button = make("button", { type: "button" });
  let current = null;
  button.addEventListener("click", () => choose(current));
  const element = make("tr", { role: "row" },
    make("th", { role: "rowheader", scope: "row" }, make("span", { class: "line" }, link), why),
    codec, size, rate, interval, age, cell("", { class: "number" }, button));
  return {
    element,
    update(row) {
      current = row.rendition;
      const { kind, track, broadcast, label, container } = row.rendition;
      mark(element, "data-rendition", track);
      mark(element, "data-kind", kind);
      writeLong(link, label ? `${label} (${track})` : track);
      mark(link, "href", watchLink(broadcast, track));
      write(why, row.why ?? (kind === "video" ? "picture" : "sound"));
      mark(why, "data-fault", row.why ? "" : null);
      writeLong(codec, `${row.rendition.codec === null ? "no codec" : codecName(row.rendition.codec)}, ${container}`);
      write(size, row.size);
      write(rate, row.rate);
      write(interval, row.interval);
      write(age, row.age);
      write(button, row.active ? "Playing" : kind === "video" ? "Show" : "Hear");
      mark(button, "aria-pressed", row.active);
      if (button.disabled !== Boolean(row.why)) button.disabled = Boolean(row.why);
    },
  };
}

function otherRow() {
  const link = make("a");
  const kind = make("span", { class: "quiet" });
  const element = make("li", {}, link, " ", kind);
  return {
    element,
    update(item) {
      writeLong(link, item.name);
      mark(link, "href", watchLink(item.broadcast, item.name));
      write(kind, item.kind);
    },
  };
}

/** What a decoder and its source depend on, to compare two renditions. */
function essence({ broadcast, track, codec, container, description, tracks, sampleRate, channels }) {
  return JSON.stringify([broadcast, track, codec, container, description && [...description], tracks, sampleRate, channels]);
}

// -- the view

export class Player {
  title = "Watch";
  element = find("#play");

  constructor() {
    this.broadcast = null; // path while this view is open
    this.state = null; // of the relay, if it is known
    this.canvas = field("canvas");
    this.clock = new Clock();
    this.picture = new Picture(this.canvas, this.clock, (state, text) => this.#heard("video", state, text));
    this.sound = new Sound(this.clock, (state, text) => this.#heard("audio", state, text));
    this.rows = new Keyed(field("tracks"), () => trackRow((rendition) => this.#choose(rendition)));
    this.others = new Keyed(field("others"), otherRow);
    field("pause").addEventListener("click", () => {
      this.paused = !this.paused;
      this.#restart();
    });
    field("sound").addEventListener("click", () => {
      this.audible = !this.audible;
      this.#restart("audio");
    });
    field("volume").addEventListener("input", () => {
      this.sound.volume = field("volume").valueAsNumber ** 2; // as loud as the slider is far
    });
    field("full").addEventListener("click", () => {
      if (document.fullscreenElement) document.exitFullscreen();
      else field("stage").requestFullscreen?.().catch(() => {});
    });
    document.addEventListener("visibilitychange", () => {
      if (this.broadcast !== null) this.#restart("video"); // a hidden page goes on with the sound alone
    });
    api.changes.addEventListener("token", () => {
      if (this.broadcast !== null) this.#begin(this.broadcast);
    });
  }

  open(query) {
    this.#begin(query.get("broadcast"));
    field("title").focus({ preventScroll: true });
  }

  #begin(broadcast) {
    this.close();
    this.broadcast = broadcast;
    this.catalog = null;
    this.chosen = {}; // names of tracks by kind, where the reader chose
    this.reasons = new Map(); // why a rendition is unsupported, by its object
    this.said = {}; // {state, text} by kind
    this.playing = {}; // renditions by kind
    this.paused = false;
    this.audible = false; // browsers play sound only after a click
    write(field("title"), shownPath(broadcast));
    mark(field("frames"), "href", watchLink(broadcast));
    mark(this.canvas, "data-shown", null);
    this.canvas.width = 16;
    this.canvas.height = 9;
    this.running = new AbortController();
    this.#say("waiting", "Waiting for the catalog.");
    this.#draw();
    this.#watchCatalog(this.running.signal);
    this.timer = setInterval(() => this.#draw(), PERIOD);
  }

  close() {
    if (this.broadcast === null) return;
    this.broadcast = null;
    clearInterval(this.timer);
    this.running.abort();
    this.picture.close();
    this.sound.close();
    if (document.fullscreenElement) document.exitFullscreen();
  }

  /** Data of /state, each second; null if unknown. */
  update(state) {
    this.state = state;
  }

  #say(state, text) {
    mark(field("state"), "data-state", state);
    write(field("state"), text);
  }

  // -- catalog

  async #watchCatalog(signal) {
    let rest = FIRST_PAUSE;
    let name = null; // of the track that had it
    while (!signal.aborted) {
      try {
        const found = await catalogs.load(this.broadcast, signal, { name });
        if (signal.aborted) return;
        name = found.name;
        rest = FIRST_PAUSE;
        await this.#adopt(found);
      } catch (error) {
        if (signal.aborted) return;
        name = null;
        if (!this.catalog) this.#explain(error);
        if (error instanceof api.Refused && error.final) return;
        rest = Math.min(rest * 2, LONGEST_PAUSE);
      }
      const own = new AbortController();
      this.lookAgain = () => own.abort(); // a track has ended: the catalog may have changed
      const stop = () => own.abort();
      signal.addEventListener("abort", stop, { once: true });
      await pause(this.catalog ? LOOK_AGAIN : rest, own.signal);
      signal.removeEventListener("abort", stop);
      if (own.signal.aborted) await pause(FIRST_PAUSE, signal);
    }
  }

  #explain(error) {
    if (error instanceof catalogs.Unusable) this.#say("lost", `No picture: ${error.message}.`);
    else if (!(error instanceof api.Refused)) this.#say("lost", "The connection failed. Trying again.");
    else if (error.final) this.#say("refused", error.advice);
    else if (error.message === "no such broadcast") this.#say("lost", "This broadcast is not live. Waiting for it.");
    else {
      this.#say("lost", "No picture: this broadcast has no catalog, neither catalog.json (hang) nor catalog (MSF). "
        + `Its tracks can be looked at one by one. The relay says: ${error.message}.`);
    }
  }

  async #adopt(found) {
    if (this.catalog?.text === found.text) return;
    this.catalog = found;
    const renditions = [...found.video, ...found.audio];
    const reasons = await Promise.all(renditions.map(unsupported));
    if (this.catalog !== found || this.broadcast === null) return;
    this.reasons = new Map(renditions.map((rendition, index) => [rendition, reasons[index]]));
    for (const [kind, player] of [["video", this.picture], ["audio", this.sound]]) {
      const next = this.#best(kind);
      // publishers renew figures such as the bitrate all the time: what plays goes on
      if (player.running && this.playing[kind] && next && essence(this.playing[kind]) === essence(next)) this.playing[kind] = next;
      else this.#restart(kind);
    }
    this.picture.turn = this.#turn;
    this.#draw();
  }

  get #turn() {
    return { rotation: this.catalog.rotation, flip: this.catalog.flip };
  }

  // -- what plays

  /** The rendition that the reader chose, else the largest one that this browser decodes. */
  #best(kind) {
    const list = this.catalog?.[kind] ?? [];
    const chosen = list.find(({ track }) => track === this.chosen[kind]);
    if (chosen && !this.reasons.get(chosen)) return chosen;
    const size = ({ width, height, bitrate }) => (width ?? 0) * (height ?? 0) || (bitrate ?? 0);
    return list
      .filter((rendition) => this.reasons.get(rendition) === null)
      .sort((a, b) => size(b) - size(a))[0] ?? null;
  }

  #choose(rendition) {
    this.chosen[rendition.kind] = rendition.track;
    this.paused = false;
    if (rendition.kind === "audio") this.audible = true;
    this.#restart(rendition.kind);
  }

  /** Begin or end what should play, of one kind or of both. */
  #restart(only = null) {
    if (this.broadcast === null) return;
    for (const [kind, player, wanted] of [
      ["video", this.picture, !this.paused && !document.hidden],
      ["audio", this.sound, !this.paused && this.audible],
    ]) {
      if (only && only !== kind) continue;
      player.close();
      this.said[kind] = null;
      const rendition = this.#best(kind);
      this.playing[kind] = wanted ? rendition : null;
      if (!this.playing[kind]) continue;
      if (kind === "video") this.picture.open(rendition, this.#turn);
      else {
        this.sound.volume = field("volume").valueAsNumber ** 2;
        this.sound.open(rendition);
      }
    }
    this.#draw();
  }

  /** What a player reports. */
  #heard(kind, state, text) {
    this.said[kind] = { state, text };
    if (state === "lost") this.lookAgain?.();
    this.#draw();
  }

  // -- display

  /** The state in words. */
  #summary() {
    const { video, audio } = this.catalog;
    if (this.paused) return ["paused", "Paused."];
    const faulty = ["video", "audio"].map((kind) => this.said[kind]).find((said) => said?.state === "faulty");
    if (faulty) return ["refused", faulty.text];
    if (!this.playing.video && !this.playing.audio && video.length + audio.length === 0) {
      return ["lost", "The catalog lists no video and no audio track."];
    }
    if (video.length && !this.#best("video")) return ["refused", `No picture: ${this.reasons.get(video[0]) ?? ""}`];
    if (!video.length && !this.#best("audio")) return ["refused", `No sound: ${this.reasons.get(audio[0]) ?? ""}`];
    const said = this.said.video ?? this.said.audio;
    if (!said) return ["idle", video.length ? "Waiting for the first picture." : "There is no picture. Turn the sound on to listen."];
    if (said.state === "following") return ["following", this.playing.video && !this.picture.drawn ? "Waiting for a key frame." : "Playing, as one more viewer."];
    return [said.state, said.text];
  }

  #draw() {
    if (this.broadcast === null) return;
    if (this.catalog) this.#say(...this.#summary());
    const sounds = this.catalog ? this.#best("audio") : null;
    write(field("pause"), this.paused ? "Resume" : "Pause");
    write(field("sound"), !sounds ? "No sound" : this.audible ? "Sound off" : "Sound on");
    field("sound").disabled = !sounds;
    field("pause").disabled = !this.catalog;
    show(field("volume").parentElement, Boolean(sounds) && this.audible);
    const { level } = this.sound;
    field("level").value = Math.sqrt(level); // as loud as it seems
    mark(field("level"), "data-value", level.toFixed(4));
    const drawn = this.playing.video ? this.picture.drawn : 0;
    if (drawn) mark(this.canvas, "data-shown", "");
    show(field("nothing"), !this.canvas.hasAttribute("data-shown"));
    const hopeless = this.catalog && !this.#best("video");
    write(field("nothing"), !hopeless ? "No picture yet" : this.catalog.video.length ? "No picture" : "No video track");
    write(field("latency"), this.#latency());
    this.#listTracks();
  }

  /** From the arrival of a picture in this page to its presentation. */
  #latency() {
    const { latency, drawn } = this.picture;
    if (!this.playing.video || !drawn || latency === null) return "";
    return `Shown ${format.short(Math.max(latency, 0) / 1000)} after its arrival`;
  }

  #listTracks() {
    const { catalog } = this;
    const known = new Map();
    for (const { path, serving, tracks } of this.state?.broadcasts ?? []) {
      if (serving) for (const track of tracks) known.set(JSON.stringify([path, track.name]), track);
    }
    const rows = [...(catalog?.video ?? []), ...(catalog?.audio ?? [])].map((rendition) => {
      const player = rendition.kind === "video" ? this.picture : this.sound;
      const active = this.playing[rendition.kind] === rendition && player.running !== null;
      const rates = active ? player.rates : null;
      const newest = known.get(JSON.stringify([rendition.broadcast, rendition.track]))?.groups?.at(-1);
      const size = (active && rendition.kind === "video" && this.picture.size)
        || (rendition.width && rendition.height ? [rendition.width, rendition.height] : null);
      const age = rates ? rates.age : newest?.age ?? null;
      return {
        rendition,
        active,
        why: this.reasons.get(rendition) ?? null,
        size: measure({ ...rendition, size }),
        rate: bits(rates?.bitrate ?? rendition.bitrate),
        interval: rendition.kind === "video" && rates?.interval ? `every ${format.short(rates.interval)}` : format.NONE,
        age: age === null ? format.NONE : format.short(age),
      };
    });
    this.rows.sync(rows, ({ rendition }) => JSON.stringify([rendition.kind, rendition.track]));
    show(field("list"), rows.length > 0);
    const listed = new Set(rows.map(({ rendition }) => rendition.track));
    const others = (catalog?.others ?? []).map((item) => ({ ...item, broadcast: this.broadcast }));
    for (const name of others.map((item) => item.name)) listed.add(name);
    if (catalog) {
      others.push({ name: catalog.name, kind: "the catalog", broadcast: this.broadcast });
      listed.add(catalog.name);
    }
    for (const key of known.keys()) {
      const [path, name] = JSON.parse(key);
      if (path === this.broadcast && name && !listed.has(name) && others.length < 50) others.push({ name, kind: "in use", broadcast: path });
    }
    this.others.sync(others, ({ name }) => name);
    write(field("ignored"), catalog?.ignored ? `${format.counted(catalog.ignored, "further entry")} of the catalog are not shown.`.replace("entrys", "entries") : "");
  }
}
