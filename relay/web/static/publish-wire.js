// Bytes of moq-lite-06 and of QMux draft 02, as far as a publisher needs them. Knows no socket and no stream state.

export const SUBPROTOCOL = "qmux-02.moq-lite-06";

export const MAX_CHUNK = 16_000; // bytes of stream data in a message; the peer accepts messages of 16,382 bytes

/** Unreadable bytes of the peer. */
export class WireError extends Error {}

// -- numbers

const MAX_VARINT = 2 ** 62;

/** A QUIC varint (RFC 9000, section 16) in its shortest form, of a number below 2^53 or a BigInt below 2^62. */
export function varint(value) {
  const number = Number(value);
  if (!(number >= 0 && number < MAX_VARINT)) throw new RangeError(`${value} is no varint`);
  if (number < 0x40) return Uint8Array.of(number);
  if (number < 0x4000) return Uint8Array.of(0x40 | (number >> 8), number & 0xff);
  const bytes = new Uint8Array(number < 0x4000_0000 ? 4 : 8);
  const view = new DataView(bytes.buffer);
  if (bytes.length === 4) view.setUint32(0, (0x8000_0000 | number) >>> 0);
  else view.setBigUint64(0, (3n << 62n) | BigInt(value));
  return bytes;
}

/** A signed number as an unsigned one: 0, -1, 1, -2. */
export const zigzag = (number) => (number < 0 ? -2 * number - 1 : 2 * number);

export function join(...parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

const numbers = (...values) => join(...values.map(varint));

/** Bytes after their length. */
const sized = (...parts) => {
  const body = join(...parts);
  return join(varint(body.length), body);
};

const text = (string) => sized(new TextEncoder().encode(string));

/** Reads from the beginning of bytes. `null` from a method: more bytes are needed, and nothing was read. */
export class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }

  get rest() {
    return this.bytes.length - this.at;
  }

  /** A Number, or a BigInt from 2^53 on. */
  varint() {
    if (!this.rest) return null;
    const size = 1 << (this.bytes[this.at] >> 6);
    if (this.rest < size) return null;
    let value = BigInt(this.bytes[this.at] & 0x3f);
    for (let index = 1; index < size; index += 1) value = (value << 8n) | BigInt(this.bytes[this.at + index]);
    this.at += size;
    return value > BigInt(Number.MAX_SAFE_INTEGER) ? value : Number(value);
  }

  take(size) {
    if (this.rest < size) return null;
    this.at += size;
    return this.bytes.subarray(this.at - size, this.at);
  }

  /** Bytes after their length. */
  sized() {
    const start = this.at;
    const size = this.varint();
    const body = size === null ? null : this.take(size);
    if (body === null) this.at = start;
    return body;
  }
}

/** Reads a message that is complete. Raises WireError where its bytes end too early. */
class Message {
  constructor(bytes) {
    this.reader = new Reader(bytes);
  }

  number() {
    return whole(this.reader.varint());
  }

  byte() {
    return whole(this.reader.take(1))[0];
  }

  text() {
    return new TextDecoder().decode(whole(this.reader.sized()));
  }
}

function whole(value) {
  if (value === null) throw new WireError("a message ends too early");
  return value;
}

// -- moq-lite-06

/** First number of a bidirectional stream. */
export const BIDI = { ANNOUNCE: 1, SUBSCRIBE: 2, FETCH: 3, PROBE: 4, GOAWAY: 5, TRACK: 6 };

/** First number of a unidirectional stream. */
export const UNI = { GROUP: 0, SETUP: 1 };

/** Codes of resets and stops. */
export const CODE = { CANCELLED: 1, NOT_FOUND: 51 };

const HOP_PARAMETER = 5;

/** The stream with our SETUP. `hop` identifies this publisher in all its sessions. */
export const setup = (hop) => join(numbers(UNI.SETUP), sized(numbers(1, HOP_PARAMETER), sized(varint(hop))));

/** First answer on an Announce stream; `count` announcements follow at once. */
export const announceOk = (hop, count) => sized(numbers(hop, count));

/** A broadcast without further hops or costs. */
export const announceStart = (suffix) => join(varint(0), sized(text(suffix), numbers(0, 0, 0)));

/** The broadcast that the `id`-th announcement of the stream named, from 0. */
export const announceEnd = (id) => join(varint(1), sized(varint(id)));

/** `age`: milliseconds that a group stays of use. Timestamps are in units of 1/`timescale` seconds. */
export const trackInfo = ({ priority, age, timescale }) => sized(Uint8Array.of(priority), numbers(age, timescale));

/** The first group that will come. */
export const subscribeOk = (group) => join(varint(0), sized(varint(group)));

/** The first group that will not come. */
export const subscribeEnd = (group) => join(varint(1), sized(varint(group)));

export const groupHeader = (subscription, sequence) => join(varint(UNI.GROUP), sized(numbers(subscription, sequence, 0)));

/** A frame; `delta` is the time since the previous one on the stream, since 0 for the first. */
export const frame = (delta, payload) => join(numbers(zigzag(delta), payload.length), payload);

/** hang's container "legacy": the time in microseconds before the data of the codec. */
export const legacy = (timestamp, data) => join(varint(timestamp), data);

export const readAnnounceRequest = (body) => new Message(body).text();

export function readTrack(body) {
  const message = new Message(body);
  return { broadcast: message.text(), track: message.text() };
}

export function readSubscribe(body) {
  const message = new Message(body);
  return { id: message.number(), broadcast: message.text(), track: message.text() };
}

export function readFetch(body) {
  const message = new Message(body);
  const { broadcast, track } = { broadcast: message.text(), track: message.text() };
  message.byte(); // priority
  return { broadcast, track, group: message.number(), first: message.number(), last: message.number() - 1 };
}

// -- QMux

const RESET = 0x04;
const STOP = 0x05;
const STREAM = 0x08; // and these bits
const FIN = 1;
const SIZED = 2;
const OFFSET = 4;
const MAX_DATA = 0x10;
const MAX_STREAM_DATA = 0x11;
const MAX_STREAMS_UNI = 0x13;
const CLOSE = 0x1c;
const APPLICATION_CLOSE = 0x1d;
const PING = 0x348c67529ef8c7bdn;
const PING_RESPONSE = 0x348c67529ef8c7ben;
const PARAMETERS = 0x3f5153300d0a0d0an;

/** Numbers behind the type, of frames without further content. */
const PLAIN = new Map([
  [RESET, 3], [STOP, 2], [MAX_DATA, 1], [MAX_STREAM_DATA, 2], [0x12, 1], [MAX_STREAMS_UNI, 1],
  [0x14, 1], [0x15, 2], [0x16, 1], [0x17, 1], [0x24, 4],
]);

const LIMITS = new Map([[0x04, "data"], [0x05, "ours"], [0x07, "uni"], [0x09, "streams"]]);

/** A publisher gets only requests, so it sets no limit: 2^60 bytes and streams. */
const ENDLESS = 1n << 60n;

/** Our transport parameters, the first frame of a session. `idle` is in milliseconds. */
export function parameters(idle) {
  const unlimited = [0x04, 0x05, 0x06, 0x07, 0x08, 0x09].map((id) => [id, ENDLESS]);
  const fields = [[0x01, idle], ...unlimited].map(([id, value]) => join(varint(id), sized(varint(value))));
  return join(varint(PARAMETERS), sized(...fields));
}

export const streamHeader = (stream, offset, size, fin) =>
  numbers(STREAM | OFFSET | SIZED | (fin ? FIN : 0), stream, offset, size);
export const reset = (stream, code, size) => numbers(RESET, stream, code, size);
export const stop = (stream, code) => numbers(STOP, stream, code);
export const pong = (sequence) => numbers(PING_RESPONSE, sequence);
export const close = (code, reason) => join(numbers(APPLICATION_CLOSE, code), text(reason));

/**
 * The frames of a message, those that concern a publisher: {kind: "stream", stream, data, fin},
 * {kind: "reset" | "stop", stream, code}, {kind: "limits", data, ours, uni, streams} with bytes of all streams,
 * of a stream that the peer opened, of one of ours, and their number, {kind: "data" | "streams", limit},
 * {kind: "stream data", stream, limit}, {kind: "ping", sequence}, {kind: "close", code, reason}.
 */
export function readMessage(bytes) {
  const reader = new Reader(bytes);
  const frames = [];
  while (reader.rest) {
    const kind = whole(reader.varint());
    if (kind === 0) continue; // padding
    if (typeof kind === "number" && (kind & ~7) === STREAM) {
      const stream = whole(reader.varint());
      if (kind & OFFSET) whole(reader.varint()); // messages keep the order
      const data = kind & SIZED ? whole(reader.sized()) : reader.take(reader.rest);
      frames.push({ kind: "stream", stream, data, fin: Boolean(kind & FIN) });
    } else if (PLAIN.has(kind)) {
      const [first, second] = Array.from({ length: PLAIN.get(kind) }, () => whole(reader.varint()));
      if (kind === RESET || kind === 0x24) frames.push({ kind: "reset", stream: first, code: second });
      else if (kind === STOP) frames.push({ kind: "stop", stream: first, code: second });
      else if (kind === MAX_DATA) frames.push({ kind: "data", limit: Number(first) });
      else if (kind === MAX_STREAM_DATA) frames.push({ kind: "stream data", stream: first, limit: Number(second) });
      else if (kind === MAX_STREAMS_UNI) frames.push({ kind: "streams", limit: Number(first) });
    } else if (kind === PING) frames.push({ kind: "ping", sequence: whole(reader.varint()) });
    else if (kind === PING_RESPONSE) whole(reader.varint());
    else if (kind === PARAMETERS) frames.push({ kind: "limits", ...readParameters(whole(reader.sized())) });
    else if (kind === CLOSE || kind === APPLICATION_CLOSE) {
      const code = whole(reader.varint());
      if (kind === CLOSE) whole(reader.varint()); // type of the frame at fault
      frames.push({ kind: "close", code, reason: new TextDecoder().decode(whole(reader.sized())) });
      return frames;
    } else throw new WireError(`unknown frame type ${kind}`);
  }
  return frames;
}

function readParameters(body) {
  const reader = new Reader(body);
  const limits = { data: 0, ours: 0, uni: 0, streams: 0 };
  while (reader.rest) {
    const id = whole(reader.varint());
    const value = whole(reader.sized());
    if (LIMITS.has(id)) limits[LIMITS.get(id)] = Number(whole(new Reader(value).varint()));
  }
  return limits;
}
