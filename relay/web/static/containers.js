// Containers of media frames: the payload of a frame becomes samples for a decoder. Pure functions on bytes.
//
// A sample is {timestamp, duration, key, data}: microseconds, and the bytes that a decoder takes. `config` is there if
// the container brings a description for the decoder. Payloads come from anyone: faults throw an Error with a reason.

const MICRO = 1_000_000;
const MOST_SAMPLES = 4096; // of one fragment

const view = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

// -- bytes as text

/** Bytes of a text in hex, or else in base64. */
export function bytesOf(text) {
  const plain = text.replace(/^0x/i, "").replace(/\s+/g, "");
  if (/^([0-9a-f]{2})*$/i.test(plain)) {
    return Uint8Array.from(plain.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
  }
  return fromBase64(text);
}

export function fromBase64(text) {
  const plain = text.replaceAll("-", "+").replaceAll("_", "/").replace(/[\s=]+/g, "");
  return Uint8Array.from(atob(plain), (character) => character.charCodeAt(0));
}

// -- legacy: a timestamp in microseconds as a QUIC varint, then the data

/** {value, next} of a varint (RFC 9000, 16). */
export function varint(bytes, at = 0) {
  if (at >= bytes.length) throw new Error("the frame ends within a number");
  const length = 1 << (bytes[at] >> 6);
  if (at + length > bytes.length) throw new Error("the frame ends within a number");
  let value = bytes[at] & 0x3f;
  for (let index = 1; index < length; index += 1) value = value * 256 + bytes[at + index];
  return { value, next: at + length };
}

/** No sample for a frame without data: it only marks the end of what was sent. */
export function legacy(payload, key) {
  const { value, next } = varint(payload);
  return next < payload.length ? [{ timestamp: value, duration: null, key, data: payload.subarray(next) }] : [];
}

// -- LOC (draft-ietf-moq-loc): properties, then the data

const TIMESCALE = 0x08;
const TIMESTAMPS = [0x10, 0x06, 0x02]; // newest draft first
const VIDEO_CONFIG = 0x0d;

/**
 * Properties in the frame, as moq-dev writes them: their length, then pairs of a type, as difference from the
 * previous one, and a number (even types) or bytes. Null if the frame does not begin with such a block.
 */
function properties(payload) {
  const found = new Map();
  try {
    const { value: length, next: start } = varint(payload);
    const end = start + length;
    if (length === 0 || end > payload.length) return null;
    let type = 0;
    for (let at = start; at < end;) {
      const step = varint(payload, at);
      type += step.value;
      const { value, next } = varint(payload, step.next);
      at = type % 2 ? next + value : next;
      if (at > end) return null;
      found.set(type, type % 2 ? payload.subarray(next, at) : value);
    }
    return { found, data: payload.subarray(end) };
  } catch {
    return null;
  }
}

/** `timestamp` is that of the frame itself, for publishers whose properties are outside of the payload. */
export function loc(payload, key, timestamp) {
  const block = properties(payload);
  const type = TIMESTAMPS.find((name) => block?.found.has(name));
  if (type === undefined) {
    if (timestamp === null) throw new Error("a LOC frame without timestamp");
    return payload.length ? [{ timestamp, duration: null, key, data: payload }] : [];
  }
  if (!block.data.length) return [];
  const scale = block.found.get(TIMESCALE) || MICRO;
  const sample = {
    timestamp: Math.round((block.found.get(type) * MICRO) / scale),
    duration: null,
    key,
    data: block.data,
  };
  const config = block.found.get(VIDEO_CONFIG);
  return [config?.length ? { ...sample, config } : sample];
}

// -- CMAF: boxes of ISO BMFF

/** Boxes side by side: {type, start, body, end}. Throws if one does not fit. */
export function* boxes(data, start = 0, end = data.length) {
  const numbers = view(data);
  while (start < end) {
    if (start + 8 > end) throw new Error("CMAF: the data ends within a box");
    let size = numbers.getUint32(start);
    const type = String.fromCharCode(...data.subarray(start + 4, start + 8));
    let body = start + 8;
    if (size === 1) {
      if (start + 16 > end) throw new Error("CMAF: the data ends within a box");
      size = numbers.getUint32(start + 8) * 2 ** 32 + numbers.getUint32(start + 12);
      body = start + 16;
    } else if (size === 0) size = end - start;
    if (start + size < body || start + size > end) throw new Error(`CMAF: the box ${type} does not fit`);
    yield { type, start, body, end: start + size };
    start += size;
  }
}

/** The first box at a path of types, such as "mdia/mdhd"; undefined if there is none. */
function inner(data, box, path) {
  let found = box;
  for (const type of path.split("/")) {
    if (!found) return undefined;
    found = [...boxes(data, found.body, found.end)].find((child) => child.type === type);
  }
  return found;
}

const VIDEO_ENTRY = 78; // bytes of a sample entry before its boxes
const AUDIO_ENTRY = 28;
const CONFIGS = ["avcC", "hvcC"];

/** What an initialization segment says of its tracks: {id, timescale, codec, description, duration, size, flags}. */
export function initialization(data) {
  const moov = [...boxes(data)].find(({ type }) => type === "moov");
  if (!moov) throw new Error("CMAF: the initialization segment has no moov");
  const numbers = view(data);
  const defaults = new Map();
  const mvex = inner(data, moov, "mvex");
  for (const box of mvex ? boxes(data, mvex.body, mvex.end) : []) {
    if (box.type === "trex" && box.end - box.body >= 24) {
      const [duration, size, flags] = [12, 16, 20].map((at) => numbers.getUint32(box.body + at));
      defaults.set(numbers.getUint32(box.body + 4), { duration, size, flags });
    }
  }
  const tracks = [];
  for (const trak of boxes(data, moov.body, moov.end)) {
    if (trak.type !== "trak") continue;
    const tkhd = inner(data, trak, "tkhd");
    const mdhd = inner(data, trak, "mdia/mdhd");
    const stsd = inner(data, trak, "mdia/minf/stbl/stsd");
    if (!tkhd || !mdhd || !stsd) throw new Error("CMAF: a track lacks tkhd, mdhd or stsd");
    const at = (box) => box.body + (data[box.body] === 1 ? 20 : 12); // version 1 has longer times
    const id = numbers.getUint32(at(tkhd));
    const timescale = numbers.getUint32(at(mdhd));
    if (!timescale) throw new Error("CMAF: the timescale is 0");
    const [entry] = boxes(data, stsd.body + 8, stsd.end);
    if (!entry) throw new Error("CMAF: the track has no sample entry");
    tracks.push({
      id,
      timescale,
      codec: entry.type,
      description: entryDescription(data, entry),
      ...(defaults.get(id) ?? { duration: 0, size: 0, flags: 0 }),
    });
  }
  if (!tracks.length) throw new Error("CMAF: the initialization segment has no track");
  return tracks;
}

function entryDescription(data, entry) {
  if (/^enc[av]$/.test(entry.type)) throw new Error("CMAF: the media is encrypted");
  const audio = ["mp4a", "Opus", "fLaC"].includes(entry.type);
  const start = entry.body + (audio ? AUDIO_ENTRY : VIDEO_ENTRY);
  if (start > entry.end) return null;
  for (const box of boxes(data, start, entry.end)) {
    if (CONFIGS.includes(box.type)) return data.slice(box.body, box.end);
    if (box.type === "esds") return audioSpecificConfig(data.subarray(box.body + 4, box.end));
  }
  return null;
}

/** The innermost descriptor of an esds box (ISO 14496-1). */
function audioSpecificConfig(data) {
  const before = { 3: 3, 4: 13 }; // bytes before the descriptors within
  for (let at = 0; at < data.length;) {
    const tag = data[at];
    let size = 0;
    let more = true;
    for (at += 1; more && at < data.length; at += 1) {
      size = size * 128 + (data[at] & 0x7f);
      more = data[at] >= 0x80;
    }
    if (tag === 5) return data.slice(at, at + size);
    at += before[tag] ?? size;
  }
  return null;
}

const NOT_SYNC = 0x10000; // sample_is_non_sync_sample

/** Samples of a frame with one or several fragments. `tracks` come from `initialization`. */
export function cmaf(payload, key, tracks) {
  const samples = [];
  let moof = null;
  for (const box of boxes(payload)) {
    if (box.type === "moof") moof = box;
    if (box.type !== "mdat" || !moof) continue;
    for (const traf of boxes(payload, moof.body, moof.end)) {
      if (traf.type === "traf") fragment(payload, moof, box, traf, tracks, samples);
    }
    moof = null;
  }
  if (samples.length && key) samples[0].key = true; // the first one of a group
  return samples;
}

function fragment(data, moof, mdat, traf, tracks, samples) {
  const numbers = view(data);
  const children = [...boxes(data, traf.body, traf.end)];
  const header = children.find(({ type }) => type === "tfhd");
  if (!header) throw new Error("CMAF: a fragment without tfhd");
  const has = (box, flag) => numbers.getUint32(box.body) & flag;
  let at = header.body + 8;
  const next = (width = 4) => (at += width) - width;
  const id = numbers.getUint32(header.body + 4);
  const track = tracks.length === 1 ? tracks[0] : tracks.find((found) => found.id === id);
  if (!track) return; // of another track
  let base = moof.start;
  if (has(header, 0x1)) {
    next(8); // an absolute position: of the file, not of this frame
    base = null;
  }
  if (has(header, 0x2)) next();
  const duration = has(header, 0x8) ? numbers.getUint32(next()) : track.duration;
  const size = has(header, 0x10) ? numbers.getUint32(next()) : track.size;
  const flags = has(header, 0x20) ? numbers.getUint32(next()) : track.flags;
  const start = children.find(({ type }) => type === "tfdt");
  let time = 0;
  if (start) {
    const low = numbers.getUint32(start.body + 4);
    time = data[start.body] === 1 ? low * 2 ** 32 + numbers.getUint32(start.body + 8) : low;
  }
  let position = mdat.body;
  for (const run of children) {
    if (run.type !== "trun") continue;
    at = run.body + 8;
    const count = numbers.getUint32(run.body + 4);
    if (samples.length + count > MOST_SAMPLES) throw new Error(`CMAF: ${count} samples in a fragment`);
    if (has(run, 0x1)) {
      const offset = numbers.getInt32(next());
      if (base !== null) position = base + offset;
    }
    const first = has(run, 0x4) ? numbers.getUint32(next()) : null;
    for (let index = 0; index < count; index += 1) {
      const lasts = has(run, 0x100) ? numbers.getUint32(next()) : duration;
      const length = has(run, 0x200) ? numbers.getUint32(next()) : size;
      const own = has(run, 0x400) ? numbers.getUint32(next()) : flags;
      const shift = has(run, 0x800) ? numbers.getInt32(next()) : 0;
      if (position < mdat.body || position + length > mdat.end) throw new Error("CMAF: a sample is outside of its mdat");
      samples.push({
        timestamp: Math.round(((time + shift) * MICRO) / track.timescale),
        duration: Math.round((lasts * MICRO) / track.timescale),
        key: ((index === 0 && first !== null ? first : own) & NOT_SYNC) === 0,
        data: data.subarray(position, position + length),
      });
      position += length;
      time += lasts;
    }
  }
}

// -- H.264 and H.265: start codes (Annex B) or lengths before the units

/** Begins with a start code. */
export function hasStartCode(data) {
  return data[0] === 0 && data[1] === 0 && (data[2] === 1 || (data[2] === 0 && data[3] === 1));
}

/** The same units with start codes in the place of lengths of four bytes; null if there are no such lengths. */
export function withStartCodes(data) {
  const numbers = view(data);
  const found = data.slice();
  for (let at = 0; at < data.length;) {
    if (at + 4 > data.length) return null;
    const length = numbers.getUint32(at);
    if (length === 0 || at + 4 + length > data.length) return null;
    found.set([0, 0, 0, 1], at);
    at += 4 + length;
  }
  return found;
}
