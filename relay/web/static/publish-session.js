// A broadcast, its tracks, and one session that offers them to the relay: moq-lite-06 over a WebSocket.
// The relay asks for tracks and ends its interest in them; groups are sent to every interest there is.

import { every } from "./publish-source.js";
import * as wire from "./publish-wire.js";

const IDLE = 30_000; // milliseconds without any frame; the relay pings every 5 s
const SILENCE = 15_000; // milliseconds after which the connection counts as lost
const SETUP_TIME = 10_000; // milliseconds for the socket to open and the relay to introduce itself
const GRANT_TIME = 3_000; // milliseconds for the relay to ask for what this session may announce
const TIMESCALE = 1_000_000;
const MOST_REQUEST = 65_536; // bytes of one request

/** What a path adds to a prefix of whole segments; null if it is elsewhere. */
export function below(path, prefix) {
  if (prefix === "" || path === prefix) return path.slice(prefix.length);
  return path.startsWith(`${prefix}/`) ? path.slice(prefix.length + 1) : null;
}

/** A track: groups of frames, one group at a time. Sequence numbers go on in the next session. */
export class Track {
  /** `keeps`: the latest group is for subscribers that come later, too. `onwanted(wanted)`: a subscriber came, or the last left. */
  constructor(name, { priority, age, keeps = false, onwanted = () => {} }) {
    Object.assign(this, { name, priority, age, keeps, onwanted });
    this.info = wire.trackInfo({ priority, age, timescale: TIMESCALE });
    this.next = 0; // sequence number of the next group
    this.frames = null; // of the latest group, if kept
    this.open = false; // the latest group is not complete
    this.subscriptions = new Set();
  }

  get wanted() {
    return this.subscriptions.size > 0;
  }

  /** Begin a group, which ends the one before. */
  begin() {
    this.end();
    for (const subscription of this.subscriptions) subscription.begin(this.next);
    if (this.keeps) this.frames = [];
    this.open = true;
    this.next += 1;
  }

  /** A frame of the group; the time is in microseconds. */
  write(timestamp, payload) {
    this.frames?.push([timestamp, payload]);
    for (const subscription of this.subscriptions) subscription.write(timestamp, payload);
  }

  end() {
    for (const subscription of this.subscriptions) subscription.end();
    this.open = false;
  }

  subscribe(subscription) {
    this.subscriptions.add(subscription);
    if (this.frames !== null) {
      subscription.begin(this.next - 1);
      for (const [timestamp, payload] of this.frames) subscription.write(timestamp, payload);
      if (!this.open) subscription.end();
    }
    this.onwanted(true);
  }

  unsubscribe(subscription) {
    if (this.subscriptions.delete(subscription)) this.onwanted(this.wanted);
  }
}

/** One interest of the relay in a track. */
class Subscription {
  constructor(session, stream, id) {
    Object.assign(this, { session, stream, id });
    this.started = false;
    this.group = null; // stream of the open group
    this.last = 0; // time of its latest frame
  }

  begin(sequence) {
    if (!this.started) this.session.write(this.stream, wire.subscribeOk(sequence));
    this.started = true;
    this.end();
    this.group = this.session.open();
    this.last = 0;
    this.session.write(this.group, wire.groupHeader(this.id, sequence));
  }

  /** Without effect before the first group: a decoder cannot begin within one. */
  write(timestamp, payload) {
    if (this.group === null) return;
    this.session.write(this.group, wire.frame(timestamp - this.last, payload));
    this.last = timestamp;
  }

  end() {
    if (this.group !== null) this.session.write(this.group, null, true);
    this.group = null;
  }
}

/** The end of a session. `final`: another attempt would end the same way. */
export class Ended extends Error {
  constructor(reason, { final = false, opened = false, prefixes = null } = {}) {
    super(reason);
    Object.assign(this, { final, opened, prefixes });
  }
}

/** A session; `ended` resolves to its end. */
export class Session {
  /** `broadcast` has a path, a `hop` that identifies the publisher, and tracks by name. */
  constructor(url, broadcast, onannounced) {
    this.broadcast = broadcast;
    this.onannounced = onannounced;
    this.onleaving = () => {}; // the relay asks us to go to another one
    this.announced = false;
    this.bytes = 0; // sent
    this.ended = new Promise((resolve) => (this.resolve = resolve));
    this.streams = new Map(); // by number: of both sides, that are not over
    this.blocked = new Set(); // streams with bytes that may not be sent yet
    this.limits = null; // of the relay
    this.total = 0; // bytes of streams sent
    this.opened = 0; // unidirectional streams of ours
    this.prefixes = []; // that we may publish
    this.announcements = new Set(); // Announce streams with our broadcast
    this.subscriptions = new Map(); // by stream: [track, subscription]
    this.heard = performance.now();
    this.socket = new WebSocket(url, [wire.SUBPROTOCOL]);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.#send(wire.parameters(IDLE));
    this.socket.onmessage = ({ data }) => this.#receive(data);
    this.socket.onclose = ({ reason }) => this.#end(new Ended(reason || "the connection was lost", { opened: this.limits !== null }));
    this.setup = setTimeout(() => this.#fail("no answer in time"), SETUP_TIME);
    this.watch = every(SILENCE / 5, () => {
      if (this.limits && performance.now() - this.heard > SILENCE) this.#fail("the relay has gone silent");
    });
  }

  /** Bytes that have not left this machine. */
  get backlog() {
    let queued = this.socket.bufferedAmount;
    for (const { size } of this.blocked) queued += size;
    return queued;
  }

  /** Withdraw the broadcast, end its tracks, and leave. */
  leave() {
    for (const stream of this.announcements) this.write(stream, wire.announceEnd(0), true);
    for (const [stream, [track, subscription]] of this.subscriptions) {
      subscription.end();
      this.write(stream, wire.subscribeEnd(track.next), true);
    }
    this.#end(new Ended("left", { final: true, opened: true }));
  }

  // -- streams

  /** A new stream for a group. */
  open() {
    const stream = this.#stream(4 * this.opened + 2, this.limits.uni);
    this.opened += 1;
    return stream;
  }

  #stream(id, limit) {
    const stream = { id, limit, sent: 0, queue: [], size: 0, fin: false, over: false, received: new Uint8Array() };
    this.streams.set(id, stream);
    return stream;
  }

  /** Queue bytes, and the end of the stream; what limits permit is sent at once. */
  write(stream, bytes, fin = false) {
    if (stream.over || stream.fin) return;
    if (bytes !== null) {
      stream.queue.push(bytes);
      stream.size += bytes.length;
    }
    stream.fin = fin;
    this.#flush(stream);
  }

  /** Send what limits permit. */
  #flush(stream) {
    const ours = (stream.id & 1) === 0;
    for (;;) {
      const allowed = ours && stream.id >> 2 >= this.limits.streams ? 0 : Math.min(stream.limit - stream.sent, this.limits.data - this.total);
      const size = Math.max(0, Math.min(allowed, stream.size, wire.MAX_CHUNK));
      if (stream.size ? size === 0 : !stream.fin || (ours && stream.id >> 2 >= this.limits.streams)) break;
      const fin = stream.fin && size === stream.size;
      this.#send(wire.join(wire.streamHeader(stream.id, stream.sent, size, fin), ...take(stream.queue, size)));
      stream.sent += size;
      stream.size -= size;
      this.total += size;
      if (fin) this.#over(stream);
      if (fin || !stream.size) break;
    }
    if (stream.over || !(stream.size || stream.fin)) this.blocked.delete(stream);
    else this.blocked.add(stream);
  }

  #unblock() {
    for (const stream of this.blocked) this.#flush(stream);
  }

  #reset(stream, code) {
    if (stream.over) return;
    this.#send(wire.reset(stream.id, code, stream.sent));
    this.#over(stream);
  }

  /** Our half of a stream has ended. */
  #over(stream) {
    stream.over = true;
    stream.queue.length = stream.size = 0;
    this.blocked.delete(stream);
    this.streams.delete(stream.id);
  }

  #send(bytes) {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    this.bytes += bytes.length;
    this.socket.send(bytes);
  }

  // -- the end

  #fail(reason, options = {}) {
    this.#end(new Ended(reason, { opened: this.limits !== null, ...options }));
  }

  #end(error) {
    if (!this.resolve) return;
    this.resolve(error);
    this.resolve = null;
    clearTimeout(this.setup);
    this.watch();
    for (const [track, subscription] of this.subscriptions.values()) track.unsubscribe(subscription);
    this.subscriptions.clear();
    this.#send(wire.close(0, ""));
    this.socket.onmessage = null;
    this.socket.close();
  }

  // -- receiving

  #receive(data) {
    this.heard = performance.now();
    try {
      for (const frame of wire.readMessage(new Uint8Array(data))) {
        this.#take(frame);
        if (!this.resolve) return;
      }
    } catch (error) {
      if (!(error instanceof wire.WireError)) throw error;
      this.#fail(`unreadable data of the relay: ${error.message}`);
    }
  }

  #take(frame) {
    const stream = this.streams.get(frame.stream);
    switch (frame.kind) {
      case "limits":
        this.limits = frame;
        this.write(this.open(), wire.setup(this.broadcast.hop), true);
        break;
      case "data":
      case "streams":
        this.limits[frame.kind] = Math.max(this.limits[frame.kind], frame.limit);
        this.#unblock();
        break;
      case "stream data":
        if (stream) stream.limit = Math.max(stream.limit, frame.limit);
        if (stream && this.blocked.has(stream)) this.#flush(stream);
        break;
      case "ping":
        this.#send(wire.pong(frame.sequence));
        break;
      case "stop":
        if (stream) this.#stopped(stream, frame.code);
        break;
      case "reset":
        if (stream) this.#left(stream, true);
        break;
      case "stream":
        if (frame.stream & 1) this.#data(frame);
        break;
      case "close":
        this.#fail(frame.reason || `the relay closed the session with code ${frame.code}`, { final: frame.code === 2 });
        break;
    }
  }

  /** The relay wants no more of a stream. */
  #stopped(stream, code) {
    for (const [, subscription] of this.subscriptions.values()) {
      if (subscription.group === stream) subscription.group = null;
    }
    this.#unsubscribe(stream);
    this.announcements.delete(stream);
    this.#reset(stream, code);
  }

  /** The relay has ended its half of a stream. */
  #left(stream, aborted) {
    const subscribed = this.#unsubscribe(stream);
    const announcing = this.announcements.delete(stream);
    if (aborted) this.#reset(stream, wire.CODE.CANCELLED);
    else if (subscribed || announcing) this.write(stream, null, true);
  }

  #unsubscribe(stream) {
    const found = this.subscriptions.get(stream);
    if (!found) return false;
    this.subscriptions.delete(stream);
    const [track, subscription] = found;
    track.unsubscribe(subscription);
    if (subscription.group !== null) this.#reset(subscription.group, wire.CODE.CANCELLED);
    subscription.group = null;
    return true;
  }

  #data({ stream: id, data, fin }) {
    if (id & 2) {
      this.#single(id, data);
      return;
    }
    const stream = this.streams.get(id) ?? (this.#known(id) ? null : this.#stream(id, this.limits.ours));
    if (!stream) return;
    if (stream.received !== null) {
      stream.received = wire.join(stream.received, data);
      if (stream.received.length > MOST_REQUEST) throw new wire.WireError("a request is too long");
      this.#request(stream);
    }
    if (fin) this.#left(stream, false);
  }

  /** A stream of the relay that is over. Its streams come in order. */
  #known(id) {
    const known = id <= (this.latest ?? -1);
    this.latest = Math.max(id, this.latest ?? -1);
    return known;
  }

  /** A unidirectional stream: SETUP, whose content does not concern a publisher. */
  #single(id, data) {
    if (this.introduced) return;
    this.introduced = true;
    if (new wire.Reader(data).varint() !== wire.UNI.SETUP) throw new wire.WireError("the relay did not begin with SETUP");
    clearTimeout(this.setup);
    this.setup = setTimeout(() => {
      if (!this.announced) this.#fail("not permitted to publish here", { final: true, prefixes: this.prefixes });
    }, GRANT_TIME);
  }

  #request(stream) {
    const reader = new wire.Reader(stream.received);
    const kind = reader.varint();
    if (kind === wire.BIDI.PROBE) {
      this.#refuse(stream, wire.CODE.CANCELLED); // we measure nothing
      return;
    }
    const body = kind === null ? null : reader.sized();
    if (body === null) return;
    stream.received = null; // what follows are updates of the request
    switch (kind) {
      case wire.BIDI.ANNOUNCE:
        this.#announce(stream, wire.readAnnounceRequest(body));
        break;
      case wire.BIDI.TRACK: {
        const track = this.#track(wire.readTrack(body));
        if (track) this.write(stream, track.info, true);
        else this.#refuse(stream, wire.CODE.NOT_FOUND);
        break;
      }
      case wire.BIDI.SUBSCRIBE: {
        const asked = wire.readSubscribe(body);
        const track = this.#track(asked);
        if (!track) {
          this.#refuse(stream, wire.CODE.NOT_FOUND);
          break;
        }
        const subscription = new Subscription(this, stream, asked.id);
        this.subscriptions.set(stream, [track, subscription]);
        track.subscribe(subscription);
        break;
      }
      case wire.BIDI.FETCH:
        this.#fetch(stream, wire.readFetch(body));
        break;
      case wire.BIDI.GOAWAY:
        this.onleaving();
        break;
      default:
        this.#refuse(stream, wire.CODE.CANCELLED);
    }
  }

  #track({ broadcast, track }) {
    return broadcast === this.broadcast.path ? this.broadcast.tracks.get(track) : undefined;
  }

  #refuse(stream, code) {
    stream.received = null;
    this.#reset(stream, code);
    this.#send(wire.stop(stream.id, code));
  }

  /** The relay asks for broadcasts below a prefix that this session may publish. */
  #announce(stream, prefix) {
    this.prefixes.push(prefix);
    const suffix = below(this.broadcast.path, prefix);
    this.write(stream, wire.announceOk(this.broadcast.hop, suffix === null ? 0 : 1));
    if (suffix === null) return;
    this.announcements.add(stream);
    this.write(stream, wire.announceStart(suffix));
    if (!this.announced) {
      this.announced = true;
      this.onannounced();
    }
  }

  /** Frames of a group that is kept. */
  #fetch(stream, { group, first, last, ...asked }) {
    const track = this.#track(asked);
    if (!track?.frames || group !== track.next - 1) {
      this.#refuse(stream, wire.CODE.NOT_FOUND);
      return;
    }
    let before = 0;
    for (const [timestamp, payload] of track.frames.slice(first, last < 0 ? undefined : last + 1)) {
      this.write(stream, wire.frame(timestamp - before, payload));
      before = timestamp;
    }
    this.write(stream, null, true);
  }
}

/** Take `size` bytes from the beginning of a list of byte arrays. */
function take(queue, size) {
  const taken = [];
  while (size) {
    const first = queue[0];
    if (first.length <= size) taken.push(queue.shift());
    else {
      taken.push(first.subarray(0, size));
      queue[0] = first.subarray(size);
    }
    size -= taken.at(-1).length;
  }
  return taken;
}
