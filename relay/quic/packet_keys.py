"""Packet protection of 1-RTT packets (RFC 9001, 5 and 6): keys of both directions, of each key phase, and their update.

`PureKeys` and the compiled kernel are equal. The connection calls `sending` and `receiving` directly.
"""

from __future__ import annotations

from typing import Final, Protocol

from aioquic.quic.crypto import derive_key_iv_hp
from aioquic.quic.packet import QuicProtocolVersion
from aioquic.tls import CipherSuite, cipher_suite_hash, hkdf_expand_label
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES, ChaCha20
from cryptography.hazmat.primitives.ciphers.modes import ECB

from relay.quic.errors import AEAD_LIMIT_REACHED, STREAM, STREAM_FIN, STREAM_LENGTH, STREAM_OFFSET, QuicError
from relay.quic.varint import read_varint

try:
    from relay.quic import _kernel
except ImportError:  # not built, or libcrypto is missing
    _kernel = None  # type: ignore[assignment]

NATIVE: Final[bool] = _kernel is not None  # the compiled kernel is usable
TAG: Final = 16  # bytes of the AEAD tag
SAMPLE: Final = 16  # bytes of the ciphertext sample for header protection, and of a mask
NONCE: Final = 12  # bytes
KEY_PHASE: Final = 0x04  # bits of the first byte (RFC 9000, 17.3.1)
RESERVED: Final = 0x18
PACKETS_PER_KEY: Final = 1 << 22  # half of AES-GCM's limit (RFC 9001, 6.6)
FAILURES: Final = 1 << 36
"""Packets that may fail to authenticate (RFC 9001, 6.6): the limit of ChaCha20-Poly1305, below AES-GCM's."""

CHACHA20: Final = 0x1303
_FIVE: Final = bytes(5)

Opened = tuple[int, int, bytes | None]  # number, first byte, payload (`None` of the other key phase)
Taken = tuple[int, int, int, int, bytes, bool]  # packets, first's frame type, stream id, offset, data, end


class Keys(Protocol):
    """One direction of one key phase."""

    def one(self, number: int, number_size: int, flags: int, cid: bytes, payload: bytes, /) -> bytes:
        """Seal a packet. `number_size` is in bytes, and part of `flags`."""

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
        """`None` if the packet does not authenticate. `expected` is the next packet number."""

    def take(
        self, buffer: memoryview | bytes, each: int, cid: bytes, expected: int, phase: int, /
    ) -> Taken | None:
        """Open the packets at the start of `buffer` that continue one another in number and stream data.

        Datagrams have `each` bytes, the last possibly fewer. The first packet must be number `expected`; each
        holds one STREAM frame and padding only. `None` if the first does not.
        """


class PureKeys:
    """Packet keys in Python, for every cipher."""

    def __init__(self, suite: int, key: bytes, iv: bytes, header_key: bytes) -> None:
        self._iv: int = int.from_bytes(iv, "big")
        self._aead: AESGCM | ChaCha20Poly1305
        self._headers: CipherContext
        self._chacha20: bool = suite == CHACHA20
        if self._chacha20:
            self._aead = ChaCha20Poly1305(key)
            self._headers = Cipher(ChaCha20(header_key, bytes(SAMPLE)), None).encryptor()
        else:
            self._aead = AESGCM(key)
            self._headers = Cipher(AES(header_key), ECB()).encryptor()  # noqa: S305 - of single blocks

    def one(self, number: int, number_size: int, flags: int, cid: bytes, payload: bytes, /) -> bytes:
        return self._seal([payload], number, number_size, flags, cid)

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
        payloads: list[bytes] = []
        kind = bytes((STREAM | STREAM_OFFSET,)) + prefix
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
                kind = bytes((STREAM | STREAM_OFFSET | STREAM_FIN,)) + prefix
            payloads.append(b"".join((kind, (0x80000000 | at).to_bytes(4, "big"), data)))
            at = end
            if at == stop:
                return self._seal(payloads, number, number_size, flags, cid), cursor

    def _seal(self, payloads: list[bytes], number: int, number_size: int, flags: int, cid: bytes) -> bytes:
        """Seal, then protect the headers with one set of masks (RFC 9001, 5.4)."""
        seal, iv = self._aead.encrypt, self._iv
        head = bytes((flags,)) + cid
        limit = 1 << 8 * number_size
        sealed: list[bytes] = []
        for at, payload in enumerate(payloads, number):
            header = head + (at % limit).to_bytes(number_size, "big")
            sealed.append(seal((iv ^ at).to_bytes(NONCE, "big"), payload, header))
        skip = 4 - number_size
        masks = self._masks([data[skip : skip + SAMPLE] for data in sealed])
        parts: list[bytes] = []
        begin = 0
        for data in sealed:
            mask = masks[begin : begin + SAMPLE]
            hidden = number % limit ^ int.from_bytes(mask[1 : 1 + number_size], "big")
            parts += (_BYTES[flags ^ (mask[0] & 0x1F)], cid, hidden.to_bytes(number_size, "big"), data)
            number += 1
            begin += SAMPLE
        return b"".join(parts)

    def open(self, datagram: bytes, cid_size: int, expected: int, phase: int, /) -> Opened | None:
        start = 1 + cid_size
        if len(datagram) < start + 4 + SAMPLE:
            return None
        mask = self._masks([datagram[start + 4 : start + 4 + SAMPLE]])
        first = datagram[0] ^ (mask[0] & 0x1F)
        if first >> 2 & 1 != phase:
            return 0, first, None
        size = (first & 3) + 1
        end = start + size
        truncated = int.from_bytes(datagram[start:end], "big") ^ int.from_bytes(mask[1 : 1 + size], "big")
        number = full_number(truncated, size, expected)
        header = b"".join((_BYTES[first], datagram[1:start], truncated.to_bytes(size, "big")))
        try:
            payload = self._aead.decrypt((self._iv ^ number).to_bytes(NONCE, "big"), datagram[end:], header)
        except InvalidTag:
            return None
        return number, first, payload

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
            if opened is None:
                break
            number, first, payload = opened
            if payload is None or number != expected or first & RESERVED:
                break
            frame = _read_only_stream(payload)
            if frame is None:
                break
            if not chunks:
                kind, stream_id, begin = payload[0], frame[0], frame[1]
            elif frame[0] != stream_id or frame[1] != end:
                break
            chunks.append(frame[2])
            end = frame[1] + len(frame[2])
            expected += 1
            if payload[0] & STREAM_FIN:
                fin = True
                break
        if not chunks:
            return None
        return len(chunks), kind, stream_id, begin, b"".join(chunks), fin

    def _masks(self, samples: list[bytes]) -> bytes:
        """The masks of the headers, `SAMPLE` bytes each."""
        if not self._chacha20:
            return self._headers.update(b"".join(samples))  # unchained: one call makes many
        masks: list[bytes] = []
        for sample in samples:
            self._headers.reset_nonce(sample)
            masks.append(self._headers.update(_FIVE).ljust(SAMPLE, b"\0"))
        return b"".join(masks)


def full_number(truncated: int, size: int, expected: int) -> int:
    """Decode a packet number that was sent as `size` bytes (RFC 9000, A.3). `expected` is the next number."""
    window = 1 << 8 * size
    number = (expected & -window) | truncated
    if number + window // 2 <= expected and number + window < 1 << 62:
        return number + window
    if number > expected + window // 2 and number >= window:
        return number - window
    return number


def _read_only_stream(plain: bytes) -> tuple[int, int, bytes] | None:
    """Stream id, offset and data; padding is allowed."""
    if not plain or plain[0] & 0xF8 != STREAM:
        return None
    offset = 0
    stop = len(plain)
    try:
        stream_id, at = read_varint(plain, 1)
        if plain[0] & STREAM_OFFSET:
            offset, at = read_varint(plain, at)
        if plain[0] & STREAM_LENGTH:
            length, at = read_varint(plain, at)
            stop = at + length
    except IndexError:
        return None
    if stop > len(plain) or plain[stop:].strip(b"\0"):
        return None
    return stream_id, offset, plain[at:stop]


_BYTES: Final = [bytes((value,)) for value in range(0x100)]


class PacketProtection:
    """Keys of both directions, which survive reordering and loss around a key update (RFC 9001, 6).

    Our own update changes what we send; what we receive changes with the first packet of the peer in the new
    phase. The keys before serve late packets until the next update.

    Size: both directions have keys of up to three phases, and the secrets that the next ones come from.
    """

    def __init__(
        self, suite: int, version: int, send_secret: bytes, receive_secret: bytes, *, native: bool = NATIVE
    ) -> None:
        self._suite: CipherSuite = CipherSuite(suite)
        self._version: int = version
        self._native: bool = native and NATIVE and suite != CHACHA20
        self._send_secret: bytes = send_secret
        self._receive_secret: bytes = receive_secret
        self._send_header_key: bytes = self._derive(send_secret)[2]  # outlives updates (RFC 9001, 6.1)
        self._receive_header_key: bytes = self._derive(receive_secret)[2]
        self.sending: Keys = self._make(send_secret, sealing=True)
        self.sending_phase: int = 0
        self.receiving: Keys = self._make(receive_secret, sealing=False)
        self.receiving_phase: int = 0
        self.failures: int = 0  # packets that did not authenticate
        self._previous: Keys | None = None
        self._next: Keys | None = None
        self._receiving_from: int = 0  # first packet number in `receiving_phase`
        self._sending_from: int = 0  # first packet number of `sending_phase`; -1 before it
        self._used: int = 0  # packets sealed in it
        self._wanted: bool = False

    def update(self) -> None:
        """Begins once the peer has acknowledged a packet of the present phase.

        Earlier, one by each side would look like none (RFC 9001, 6.1). No packet is acknowledged before the
        handshake is confirmed.
        """
        self._wanted = True

    def before_sending(self, number: int, largest_acked: int) -> None:
        """Begin a requested update if allowed. `number` is the next packet's; `largest_acked` may be -1."""
        if (
            self._wanted
            and 0 <= self._sending_from <= largest_acked
            and self.sending_phase == self.receiving_phase
        ):
            self._update_sending()
        if self._sending_from < 0:
            self._sending_from = number

    def sent(self, packets: int) -> None:
        self._used += packets
        if self._used > PACKETS_PER_KEY:
            self._wanted = True

    def open_other_phase(self, datagram: bytes, cid_size: int, expected: int) -> Opened | None:
        """Open a packet for which `receiving` gave no payload; `None` if it does not authenticate.

        A genuine one of the next phase begins this phase, in both directions.
        """
        phase = 1 - self.receiving_phase
        if self._previous is not None:
            # Header protection is the same in every phase, so this tells the number of a forged packet as well.
            opened = self._previous.open(datagram, cid_size, expected, phase)
            if opened is not None and opened[0] < self._receiving_from:
                return opened
        if self._next is None:
            self._next = self._make(self._following(self._receive_secret), sealing=False)
        opened = self._next.open(datagram, cid_size, expected, phase)
        if opened is not None and opened[0] >= self._receiving_from:
            self._update_receiving(opened[0])
            return opened
        return None

    def failed(self) -> None:
        """A packet did not authenticate. Raises QuicError if there were too many."""
        self.failures += 1
        if self.failures >= FAILURES:
            raise QuicError(AEAD_LIMIT_REACHED, 0, "too many packets did not authenticate")

    def _update_receiving(self, number: int) -> None:
        assert self._next is not None
        self._previous = self.receiving
        self.receiving = self._next
        self._next = None
        self._receive_secret = self._following(self._receive_secret)
        self.receiving_phase = 1 - self.receiving_phase
        self._receiving_from = number
        if self.sending_phase != self.receiving_phase:
            self._update_sending()

    def _update_sending(self) -> None:
        self._send_secret = self._following(self._send_secret)
        self.sending = self._make(self._send_secret, sealing=True)
        self.sending_phase = 1 - self.sending_phase
        self._sending_from = -1
        self._used = 0
        self._wanted = False

    def _derive(self, secret: bytes) -> tuple[bytes, bytes, bytes]:
        """Key, IV and header protection key (RFC 9001, 5.1)."""
        return derive_key_iv_hp(cipher_suite=self._suite, secret=secret, version=self._version)

    def _following(self, secret: bytes) -> bytes:
        """The secret of the next key phase (RFC 9001, 6.1; RFC 9369, 3.3.2)."""
        label = b"quicv2 ku" if self._version == QuicProtocolVersion.VERSION_2 else b"quic ku"
        algorithm = cipher_suite_hash(self._suite)
        return hkdf_expand_label(algorithm, secret, label, b"", algorithm.digest_size)

    def _make(self, secret: bytes, *, sealing: bool) -> Keys:
        key, iv, _ = self._derive(secret)
        header_key = self._send_header_key if sealing else self._receive_header_key
        if self._native:
            return _kernel.Keys(key, iv, header_key, sealing)
        return PureKeys(self._suite, key, iv, header_key)
