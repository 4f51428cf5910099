// Reads a stream of msgpack values. Only the types that the debug API sends; anything else is an error.

const MORE = new Error("incomplete"); // thrown inside only: the value goes on in the next piece
const utf8 = new TextDecoder();

/** Values of a stream that arrives in pieces of any size. */
export class Unpacker {
  /** `longest` bounds the bytes of one value. */
  constructor(longest) {
    this.longest = longest;
    this.buffer = new Uint8Array(65536);
    this.start = 0; // of the first value that is not complete
    this.end = 0;
  }

  /** Take a piece and yield the values that it completes. Their bytes are copies. */
  *push(piece) {
    this.#append(piece);
    while (this.start < this.end) {
      const reader = new Reader(this.buffer.subarray(this.start, this.end));
      let value;
      try {
        value = reader.value();
      } catch (error) {
        if (error !== MORE) throw error;
        if (this.end - this.start > this.longest) throw new Error("a frame is too large for this page");
        return;
      }
      this.start += reader.at;
      yield value;
    }
  }

  #append(piece) {
    const kept = this.end - this.start;
    if (this.end + piece.length > this.buffer.length) {
      const fits = kept + piece.length <= this.buffer.length;
      const next = fits ? this.buffer : new Uint8Array(Math.max(2 * this.buffer.length, kept + piece.length));
      next.set(this.buffer.subarray(this.start, this.end));
      this.buffer = next;
      this.start = 0;
      this.end = kept;
    }
    this.buffer.set(piece, this.end);
    this.end += piece.length;
  }
}

class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.at = 0;
  }

  #take(length) {
    const start = this.at;
    if (start + length > this.bytes.length) throw MORE;
    this.at += length;
    return start;
  }

  #size(width) {
    const at = this.#take(width);
    return width === 1 ? this.view.getUint8(at) : width === 2 ? this.view.getUint16(at) : this.view.getUint32(at);
  }

  #raw(length) {
    const at = this.#take(length);
    return this.bytes.subarray(at, at + length);
  }

  #map(length) {
    const found = {};
    for (let index = 0; index < length; index += 1) {
      const name = this.value();
      found[name] = this.value();
    }
    return found;
  }

  value() {
    const type = this.bytes[this.#take(1)];
    if (type < 0x80) return type;
    if (type < 0x90) return this.#map(type & 15);
    if (type >= 0xa0 && type < 0xc0) return utf8.decode(this.#raw(type & 31));
    if (type >= 0xe0) return type - 256;
    switch (type) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: case 0xc5: case 0xc6: return this.#raw(this.#size(1 << (type - 0xc4))).slice();
      case 0xca: return this.view.getFloat32(this.#take(4));
      case 0xcb: return this.view.getFloat64(this.#take(8));
      case 0xcc: case 0xcd: case 0xce: return this.#size(1 << (type - 0xcc));
      case 0xcf: return Number(this.view.getBigUint64(this.#take(8)));
      case 0xd0: return this.view.getInt8(this.#take(1));
      case 0xd1: return this.view.getInt16(this.#take(2));
      case 0xd2: return this.view.getInt32(this.#take(4));
      case 0xd3: return Number(this.view.getBigInt64(this.#take(8)));
      case 0xd9: case 0xda: case 0xdb: return utf8.decode(this.#raw(this.#size(1 << (type - 0xd9))));
      case 0xde: return this.#map(this.#size(2));
      default: throw new Error(`unexpected msgpack type 0x${type.toString(16)}`);
    }
  }
}
