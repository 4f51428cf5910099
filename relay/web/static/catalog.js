// Catalogs: what a broadcast says of its tracks. Reads those of hang and of MSF, in the shapes of several years.
// They come from anyone: every number and text is checked, and every list has a bound.

import * as api from "./api.js";
import { bytesOf, cmaf, fromBase64, initialization, legacy, loc } from "./containers.js";

export const HANG = "catalog.json";
export const MSF = "catalog";

const LARGEST = 1024 * 1024; // bytes of a catalog
const MOST = 32; // renditions of a kind
const MOST_OTHERS = 32;
const LONGEST_NAME = 512; // characters
const LONGEST_INIT = 256 * 1024; // characters of an initialization segment
const DEEPEST = 32; // levels of a merge patch
const GROUP_TIME = 1500; // milliseconds that a group may stay open before what there is counts
const SECOND_CHOICE = 3000; // milliseconds until the other name is tried as well

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const text = (value, longest = LONGEST_NAME) =>
  typeof value === "string" && value.length > 0 && value.length <= longest ? value : null;
const number = (value, most) => (Number.isFinite(value) && value > 0 && value <= most ? value : null);
const whole = (value, most) => (Number.isSafeInteger(value) ? number(value, most) : null);

/** A fault of the catalog, in words for the reader. */
export class Unusable extends Error {}

// -- fetch

/** Frames of the newest group of a track, as bytes: of an open group those of the first moments. */
async function newest(broadcast, track, signal, quiet) {
  const own = new AbortController();
  const stop = () => own.abort();
  signal.addEventListener("abort", stop, { once: true });
  const found = [];
  let size = 0;
  let timer = null;
  try {
    for await (const { payload } of api.frames(broadcast, track, own.signal, { follow: false, quiet })) {
      found.push(payload);
      size += payload.length;
      if (size > LARGEST) throw new Unusable("the catalog is larger than 1 MB");
      timer ??= setTimeout(stop, GROUP_TIME);
    }
  } catch (error) {
    if (signal.aborted || error instanceof Unusable || !found.length) throw error;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", stop);
    own.abort();
  }
  if (!found.length) throw new Unusable("the catalog is empty");
  return found;
}

/**
 * The catalog of a broadcast, from the track `name` if that is known. Throws what the first choice threw if there is
 * none. `quiet` as in `frames`.
 */
export async function load(broadcast, signal, { quiet = false, name = null } = {}) {
  const read = async (track, until) => parse(track, broadcast, await newest(broadcast, track, until, quiet));
  if (name) return read(name, signal);
  const [usual, other] = broadcast.endsWith(".msf") ? [MSF, HANG] : [HANG, MSF];
  const own = new AbortController();
  const stop = () => own.abort();
  signal.addEventListener("abort", stop, { once: true });
  const first = read(usual, own.signal);
  const second = (async () => {
    await Promise.race([first.catch(() => {}), new Promise((done) => setTimeout(done, SECOND_CHOICE))]);
    own.signal.throwIfAborted();
    return read(other, own.signal);
  })();
  try {
    return await Promise.any([first, second]);
  } catch ({ errors }) {
    throw errors.find((error) => error instanceof Unusable) ?? errors[0];
  } finally {
    stop();
    signal.removeEventListener("abort", stop);
    second.catch(() => {});
  }
}

/** The first frame of a track's newest group: {payload, timestamp, ...}. Asks for no token. */
export async function firstFrame(broadcast, track, signal) {
  const own = new AbortController();
  const stop = () => own.abort();
  signal.addEventListener("abort", stop, { once: true });
  try {
    for await (const frame of api.frames(broadcast, track, own.signal, { follow: false, quiet: true })) return frame;
    throw new Error("an empty group");
  } finally {
    signal.removeEventListener("abort", stop);
    stop();
  }
}

// -- parse

/** {name, video, audio, others, ignored, text, ...} of the frames of a group. Throws Unusable. */
export function parse(name, broadcast, payloads) {
  let value;
  try {
    for (const [index, payload] of payloads.entries()) {
      const next = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(payload));
      value = index === 0 ? next : name === HANG ? merged(value, next) : updated(value, next);
    }
  } catch (error) {
    if (error instanceof Unusable) throw error;
    throw new Unusable("the catalog is not JSON");
  }
  if (!isObject(value)) throw new Unusable("the catalog is not a JSON object");
  const found = { name, broadcast, video: [], audio: [], others: [], ignored: 0, rotation: 0, flip: false };
  found.text = JSON.stringify(value); // to see a change
  if (Array.isArray(value.tracks)) fromMsf(value, found);
  else fromHang(value, found);
  return found;
}

/** A merge patch (RFC 7396). */
function merged(target, patch, depth = 0) {
  if (depth > DEEPEST) throw new Unusable("the catalog is too deep");
  if (!isObject(patch)) return patch;
  const result = new Map(isObject(target) ? Object.entries(target) : []);
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) result.delete(key);
    else result.set(key, merged(result.get(key), value, depth + 1));
  }
  return Object.fromEntries(result);
}

/** Add what `make` makes to a list, or count it as ignored if the list is full. */
function add(found, list, most, make) {
  if (list.length < most) list.push(make());
  else found.ignored += 1;
}

// -- hang

function fromHang(value, found) {
  for (const kind of ["video", "audio"]) {
    for (const [name, config] of hangRenditions(value[kind])) {
      const track = text(name);
      if (track === null || !isObject(config)) found.ignored += 1;
      else add(found, found[kind], MOST, () => rendition(kind, track, hangTrack(config), found.broadcast));
    }
  }
  const properties = isObject(value.video) ? value.video : isObject(value.video?.[0]?.config) ? value.video[0].config : {};
  found.rotation = [90, 180, 270].find((turn) => turn === properties.rotation) ?? 0;
  found.flip = properties.flip === true;
  for (const [section, content] of Object.entries(value)) {
    if (section !== "video" && section !== "audio") otherTracks(found, section, content, 0);
  }
}

/** Pairs of a track's name and its config: of an object by name, or of the older lists. */
function* hangRenditions(section) {
  if (isObject(section?.renditions)) yield* Object.entries(section.renditions);
  else if (Array.isArray(section)) for (const item of section) yield [item?.track?.name ?? item?.track, item?.config];
  else if (isObject(section?.track)) yield [section.track.name, section.config];
}

function hangTrack(config) {
  const { kind, init, timescale, trackId } = isObject(config.container) ? config.container : { kind: config.container ?? "legacy" };
  return {
    ...config,
    container: kind,
    init,
    timescale,
    trackId,
    width: config.codedWidth,
    height: config.codedHeight,
    aspectWidth: config.displayAspectWidth ?? config.displayRatioWidth,
    aspectHeight: config.displayAspectHeight ?? config.displayRatioHeight,
    channels: config.numberOfChannels,
  };
}

/** Tracks that other sections name, such as chat or captions, for the frame view. */
function otherTracks(found, section, content, depth) {
  if (depth > 3 || !isObject(content)) return;
  for (const [key, value] of Object.entries(content)) {
    const name = key === "name" || key === "track" ? text(value) : null;
    if (name !== null) add(found, found.others, MOST_OTHERS, () => ({ name, kind: section.slice(0, 40) }));
    else otherTracks(found, section, value, depth + 1);
  }
}

// -- MSF, and the common catalog format before it

/** Apply an update of MSF to the catalog before it. */
function updated(catalog, update) {
  if (!isObject(update) || !isObject(catalog) || Array.isArray(update.tracks)) return update;
  const list = (value) => (Array.isArray(value) ? value.slice(0, 4 * MOST).filter(isObject) : []);
  let tracks = list(catalog.tracks);
  const names = new Set(list(update.removeTracks).map((track) => track.name));
  tracks = tracks.filter((track) => !names.has(track.name)).concat(list(update.addTracks));
  for (const clone of list(update.cloneTracks)) {
    const parent = tracks.find((track) => track.name === clone.parentName);
    if (parent) tracks.push({ ...parent, ...clone });
  }
  return { ...catalog, tracks };
}

function fromMsf(value, found) {
  const inits = new Map();
  for (const item of Array.isArray(value.initDataList) ? value.initDataList.slice(0, 4 * MOST) : []) {
    if (isObject(item) && (item.type === undefined || item.type === "inline")) inits.set(item.id, item.data);
  }
  const common = isObject(value.commonTrackFields) ? value.commonTrackFields : {};
  for (const item of value.tracks) {
    const track = isObject(item) ? { ...common, ...item, ...(isObject(item.selectionParams) ? item.selectionParams : {}) } : {};
    const name = text(track.name);
    const codec = text(track.codec);
    const kind = msfKind(track, codec);
    if (name === null) found.ignored += 1;
    else if (kind === null) add(found, found.others, MOST_OTHERS, () => ({ name, kind: text(track.role, 40) ?? text(track.packaging, 40) ?? "data" }));
    else {
      const channels = Number.parseInt(text(track.channelConfig) ?? whole(track.channelConfig, 32), 10);
      const config = {
        ...track,
        container: track.packaging ?? "loc",
        init: track.initData ?? inits.get(track.initRef),
        initTrack: track.initTrack,
        sampleRate: track.samplerate,
        channels: Number.isNaN(channels) ? undefined : channels,
        aspectWidth: track.displayWidth,
        aspectHeight: track.displayHeight,
        broadcast: undefined,
      };
      add(found, found[kind], MOST, () => rendition(kind, name, config, found.broadcast));
    }
  }
}

function msfKind(track, codec) {
  const role = track.role ?? /^(video|audio)\//.exec(text(track.mimeType) ?? "")?.[1];
  if (role === "video" || role === "signlanguage") return "video";
  if (role === "audio" || role === "audiodescription") return "audio";
  if (role !== undefined || codec === null) return null;
  if (/^(avc|hvc|hev|vp0?8|vp0?9|av01)/i.test(codec)) return "video";
  return /^(opus|mp4a|flac|pcm)/i.test(codec) ? "audio" : null;
}

// -- a rendition

/** A checked description of one track of media. `fault` says why it cannot be decoded. */
function rendition(kind, track, config, broadcast) {
  const found = {
    kind,
    track,
    broadcast: typeof config.broadcast === "string" ? resolved(broadcast, config.broadcast) : broadcast,
    label: text(config.label),
    codec: text(config.codec, 100),
    container: text(config.container, 40) ?? "no container",
    bitrate: number(config.bitrate, 1e12),
    width: whole(config.width, 16384),
    height: whole(config.height, 16384),
    framerate: number(config.framerate, 1000),
    sampleRate: whole(config.sampleRate, 768_000),
    channels: whole(config.channels, 32),
    description: null,
    tracks: null, // of CMAF
    fault: null,
  };
  const [aspectWidth, aspectHeight] = [config.aspectWidth, config.aspectHeight].map((value) => whole(value, 16384));
  if (aspectWidth && aspectHeight) found.aspect = [aspectWidth, aspectHeight];
  try {
    if (found.codec === null) throw new Unusable("the catalog names no codec");
    if (text(config.description, LONGEST_INIT)) found.description = bytesOf(config.description);
    if (found.container === "cmaf") found.tracks = cmafTracks(config);
    else if (!["legacy", "loc"].includes(found.container)) throw new Unusable(`this page does not know the container (${found.container})`);
    if (found.tracks) found.description ??= found.tracks[0].description;
  } catch (error) {
    found.fault = error instanceof Unusable || error.message.startsWith("CMAF:") ? error.message : "the catalog has a description that is neither hex nor base64";
  }
  return found;
}

function cmafTracks(config) {
  if (text(config.init, LONGEST_INIT)) return initialization(fromBase64(config.init));
  const timescale = whole(config.timescale, 2 ** 32);
  if (timescale === null) throw new Unusable("the catalog has no initialization segment");
  return [{ id: whole(config.trackId, 2 ** 32) ?? 1, timescale, description: null, duration: 0, size: 0, flags: 0 }];
}

/** The path that a catalog at `base` means by a relative one: "../other" is beside it. */
function resolved(base, relative) {
  const segments = base.split("/").filter(Boolean);
  for (const segment of relative.slice(0, LONGEST_NAME).split("/")) {
    if (segment === "..") segments.pop();
    else if (segment && segment !== ".") segments.push(segment);
  }
  return segments.join("/");
}

/** Samples of a frame of the rendition. */
export function samples(found, frame) {
  const key = found.kind === "audio" || frame.frame === 0;
  if (found.container === "cmaf") return cmaf(frame.payload, key, found.tracks);
  return found.container === "loc" ? loc(frame.payload, key, frame.timestamp) : legacy(frame.payload, key);
}
