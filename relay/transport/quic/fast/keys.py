"""Packet protection of 1-RTT packets (RFC 9001, 5) for the packet loops.

Owns the keys of each direction and phase, in two equal implementations: `PureKeys` on aioquic's ciphers, the
compiled kernel on libcrypto. Must never know a frame but STREAM. `FastPair` replaces aioquic's contexts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from aioquic.quic.crypto import CryptoContext
from aioquic.quic.packet import decode_packet_number
from aioquic.tls import CipherSuite
from cryptography.exceptions import InvalidTag

from relay.transport.quic.compat import KeyUpdatePair
from relay.transport.quic.fast.secrets import SUITES, packet_keys
from relay.transport.quic.fast.varint import read_varint

try:
    from relay.transport.quic.fast import _kernel
except ImportError:  # not built, or libcrypto is missing
    _kernel = None  # type: ignore[assignment]

NATIVE = _kernel is not None  # the compiled kernel is usable
TAG = 16  # bytes of the AEAD tag
SAMPLE = 16  # bytes of the ciphertext sample for header protection, and of the mask
PACKETS_PER_KEY = 1 << 22  # packets sent before a key update: half of AES-GCM's limit (RFC 9001, 6.6)
STREAM = 0x0C  # STREAM with an offset, without a length: it extends to the end of its packet (RFC 9000, 19.8)
FIN = 1

Opened = tuple[int, int, bytes | None]  # number, first byte, payload (`None` of the other key phase)


Taken = tuple[int, int, int, int, bytes, bool]  # packets, first's frame type, stream id, offset, data, end


class Keys(Protocol):
    """One direction of one key phase."""

    def one(self, number: int, number_size: int, flags: int, cid: bytes, payload: bytes, /) -> bytes:
        """Seal one packet. `number_size` is in bytes, and part of `flags`."""

    def run(
        self,
        number: int,
        number_size: int,
        flags: int,
        cid: bytes,
        prefix: bytes,
        chunks: list[bytes],
        ends: list[int],
        cursor: int,
        start: int,
        stop: int,
        step: int,
        fin: bool,  # noqa: FBT001 - as the kernel takes it
        /,
    ) -> tuple[bytes, int]:
        """Seal a train of packets, joined, with one STREAM frame of `step` bytes each, `start` to `stop`.

        `prefix` is the encoded stream id. `chunks` hold the data and end at the offsets `ends`; `start` is in
        the one at `cursor`; `stop` is below 2**30. Returns the packets and the next cursor.
        """

    def open(self, datagram: bytes, cid_size: int, expected: int, phase: int, /) -> Opened | None:
        """Open a packet; `None` if it does not authenticate. `expected` is the next packet number."""

    def take(
        self, buffer: memoryview | bytes, each: int, cid: bytes, expected: int, phase: int, /
    ) -> Taken | None:
        """Open the packets at the start of `buffer` that continue one another in number and stream data.

        Datagrams have `each` bytes, the last possibly fewer. The first packet must be number `expected`; each
        holds one STREAM frame and padding only. `None` if the first does not.
        """


class PureKeys:
    """In Python, for every cipher."""

    __slots__ = ("_iv", "_masks", "_opens", "_seals")

    def __init__(self, context: CryptoContext) -> None:
        aead, protection = context.aead, context.hp
        assert aead is not None
        assert protection is not None
        self._seals = aead._aead.encrypt
        self._opens = aead._aead.decrypt
        self._iv = aead._iv
        # Unchained AES: one call makes many masks. The first secret's key outlives updates (RFC 9001, 6).
        self._masks: Callable[[bytes], bytes] = protection._encryptor.update
        if protection._is_chacha20:
            make = protection._mask
            self._masks = lambda samples: b"".join(
                make(samples[start : start + SAMPLE]).ljust(SAMPLE, b"\0")
                for start in range(0, len(samples), SAMPLE)
            )

    def one(self, number: int, number_size: int, flags: int, cid: bytes, payload: bytes, /) -> bytes:
        return self._finish([payload], number, number_size, flags, cid)

    def run(
        self,
        number: int,
        number_size: int,
        flags: int,
        cid: bytes,
        prefix: bytes,
        chunks: list[bytes],
        ends: list[int],
        cursor: int,
        start: int,
        stop: int,
        step: int,
        fin: bool,  # noqa: FBT001 - as the kernel takes it
        /,
    ) -> tuple[bytes, int]:
        payloads = []
        kind = bytes((STREAM,)) + prefix
        at = start
        while True:
            end = min(at + step, stop)
            data = b""
            if end > at:
                chunk, chunk_end = chunks[cursor], ends[cursor]
                begin = len(chunk) - chunk_end + at
                data = chunk[begin : begin + end - at]
                if end >= chunk_end:
                    cursor += 1
                while at + len(data) < end:
                    chunk, chunk_end = chunks[cursor], ends[cursor]
                    data += chunk[: end - at - len(data)]
                    if end >= chunk_end:
                        cursor += 1
            if end == stop and fin:
                kind = bytes((STREAM | FIN,)) + prefix
            payloads.append(b"".join((kind, (0x80000000 | at).to_bytes(4, "big"), data)))
            at = end
            if at == stop:
                return self._finish(payloads, number, number_size, flags, cid), cursor

    def _finish(self, payloads: list[bytes], number: int, number_size: int, flags: int, cid: bytes) -> bytes:
        """Seal, then protect the headers with one set of masks (RFC 9001, 5.4)."""
        seals, iv = self._seals, self._iv
        head = bytes((flags,)) + cid
        limit = 1 << 8 * number_size
        sealed = []
        for at, payload in enumerate(payloads, number):
            aad = head + (at % limit).to_bytes(number_size, "big")
            sealed.append(seals((iv ^ at).to_bytes(12, "big"), payload, aad))
        skip = 4 - number_size
        masks = self._masks(b"".join([data[skip : skip + SAMPLE] for data in sealed]))
        parts: list[bytes] = []
        at = 0
        for data in sealed:
            hidden = number % limit ^ int.from_bytes(masks[at + 1 : at + 1 + number_size], "big")
            parts += (_BYTES[flags ^ (masks[at] & 0x1F)], cid, hidden.to_bytes(number_size, "big"), data)
            number += 1
            at += SAMPLE
        return b"".join(parts)

    def open(self, datagram: bytes, cid_size: int, expected: int, phase: int, /) -> Opened | None:
        start = 1 + cid_size
        if len(datagram) < start + 4 + SAMPLE:
            return None
        mask = self._masks(datagram[start + 4 : start + 4 + SAMPLE])
        first = datagram[0] ^ (mask[0] & 0x1F)
        if first >> 2 & 1 != phase:
            return 0, first, None
        size = (first & 3) + 1
        end = start + size
        truncated = int.from_bytes(datagram[start:end], "big") ^ int.from_bytes(mask[1 : 1 + size], "big")
        number = (expected & -0x10000) | truncated
        if size != 2 or not -0x4000 < number - expected < 0x4000:
            number = decode_packet_number(truncated, size << 3, expected)
        header = b"".join((_BYTES[first], datagram[1:start], truncated.to_bytes(size, "big")))
        try:
            return number, first, self._opens((self._iv ^ number).to_bytes(12, "big"), datagram[end:], header)
        except InvalidTag:
            return None

    def take(
        self, buffer: memoryview | bytes, each: int, cid: bytes, expected: int, phase: int, /
    ) -> Taken | None:
        chunks: list[bytes] = []
        kind = stream_id = begin = end = 0
        fin = False
        for at in range(0, len(buffer), each):
            datagram = bytes(buffer[at : at + each])
            if datagram[0] & 0x80 or datagram[1 : 1 + len(cid)] != cid:
                break
            opened = self.open(datagram, len(cid), expected, phase)
            if opened is None or opened[0] != expected or opened[1] & 0x18 or opened[2] is None:
                break
            frame = _read_only_stream(opened[2])
            if frame is None:
                break
            if not chunks:
                kind, stream_id, begin = opened[2][0], frame[0], frame[1]
            elif frame[0] != stream_id or frame[1] != end:
                break
            chunks.append(frame[2])
            end = frame[1] + len(frame[2])
            expected += 1
            if opened[2][0] & FIN:
                fin = True
                break
        if not chunks:
            return None
        return len(chunks), kind, stream_id, begin, b"".join(chunks), fin


def _read_only_stream(plain: bytes) -> tuple[int, int, bytes] | None:
    """Stream id, offset and data of a packet's only STREAM frame; padding is allowed."""
    if not plain or plain[0] & 0xF8 != 0x08:
        return None
    offset = 0
    stop = len(plain)
    try:
        stream_id, at = read_varint(plain, 1)
        if plain[0] & 4:
            offset, at = read_varint(plain, at)
        if plain[0] & 2:
            length, at = read_varint(plain, at)
            stop = at + length
    except IndexError:
        return None
    if stop > len(plain) or plain[stop:].strip(b"\0"):
        return None
    return stream_id, offset, plain[at:stop]


class PacketKeys:
    """The keys in use in one direction."""

    __slots__ = ("one", "open", "phase", "run", "take", "used")

    def __init__(self, keys: Keys, phase: int) -> None:
        self.one = keys.one
        self.run = keys.run
        self.open = keys.open
        self.take = keys.take
        self.phase = phase
        self.used = 0  # packets sealed


def pure_read_ack(payload: bytes, at: int, /) -> tuple[int, int, int, list[tuple[int, int]] | None, int]:
    """Parse an ACK frame without ECN counts, after its type (RFC 9000, 19.3).

    Returns the largest number, encoded delay, lowest number of the first range, further (lowest, largest),
    and the position after it. Raises IndexError if the payload ends early, ValueError for a range below zero.
    """
    largest, at = read_varint(payload, at)
    delay, at = read_varint(payload, at)
    count, at = read_varint(payload, at)
    length, at = read_varint(payload, at)
    lowest = low = largest - length
    more: list[tuple[int, int]] | None = [] if count else None
    while low >= 0 and count:
        gap, at = read_varint(payload, at)
        length, at = read_varint(payload, at)
        high = low - gap - 2
        low = high - length
        assert more is not None
        more.append((low, high))
        count -= 1
    if low < 0:
        raise ValueError("ACK range contains a negative packet number")
    return largest, delay, lowest, more, at


read_ack = _kernel.read_ack if NATIVE else pure_read_ack

_BYTES = [bytes((value,)) for value in range(0x100)]

_KERNEL_SUITES = frozenset((CipherSuite.AES_128_GCM_SHA256, CipherSuite.AES_256_GCM_SHA384))


def material(context: CryptoContext) -> tuple[bytes, bytes, bytes]:
    """Key, IV and header protection key of the secret in use."""
    assert context.cipher_suite is not None
    assert context.secret is not None
    assert context.version is not None
    return packet_keys(SUITES[context.cipher_suite], context.secret, context.version)


class FastPair(KeyUpdatePair):
    """aioquic's pair of contexts, with keys for the packet loops."""

    def __init__(self, *, native: bool = NATIVE) -> None:
        super().__init__()
        self.reading: PacketKeys | None = None  # `None` until a packet of this phase: aioquic opens it
        self.writing: PacketKeys | None = None
        self._native = native and NATIVE
        self._header_keys: dict[bool, Any] = {}  # of the first secrets, for sending and receiving

    def begin(self) -> bool:
        """Make the keys once both directions have secrets. Returns whether there are any."""
        if self.writing is None:
            if not (self.send.is_valid() and self.recv.is_valid()):
                return False
            self.writing = self._keys(self.send, sealing=True)
            self.reading = self._keys(self.recv, sealing=False)
        return True

    def _keys(self, context: CryptoContext, *, sealing: bool) -> PacketKeys:
        if not self._native or context.cipher_suite not in _KERNEL_SUITES:
            return PacketKeys(PureKeys(context), context.key_phase)
        key, iv, header_key = material(context)
        header_key = self._header_keys.setdefault(sealing, header_key)
        return PacketKeys(_kernel.Keys(key, iv, header_key, sealing), context.key_phase)

    def sending_keys(self, number: int) -> PacketKeys:
        """The keys from packet `number` on, after a key update if one is requested."""
        if self._update_wanted:
            self.consider_update()
        if self._update_key_requested:
            self._update_key("local_update")
        keys = self.writing
        assert keys is not None
        if self._first_sent is None:
            self._first_sent = number
        return keys

    def teardown(self) -> None:
        super().teardown()
        self.reading = self.writing = None
        self._header_keys.clear()

    def _update_key(self, trigger: str) -> None:
        if not self._header_keys:
            self._native = False  # the secrets of the header keys are about to be replaced
        super()._update_key(trigger)
        if self.writing is not None:
            self.writing = self._keys(self.send, sealing=True)
            self.reading = None

    def _phase_began(self) -> None:
        if self.writing is not None:
            self.reading = self._keys(self.recv, sealing=False)
