"""QUIC: packets, handshakes, and our parsers for them."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
from pathlib import Path
from typing import Any, cast

from aioquic.buffer import Buffer, encode_uint_var  # type: ignore[attr-defined]
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import pull_ack_frame

from fuzz.loop import run
from fuzz.quic_pair import Faults, Pair
from fuzz.source import Source
from relay.model.limits import Limits
from relay.quic import packet_keys
from relay.quic.certificate_store import generate_certificate
from relay.quic.congestion import make_congestion
from relay.quic.errors import QuicError
from relay.quic.recovery import Recovery, Sent
from relay.quic.settings import QuicSettings
from relay.quic.udp import UdpSocket
from relay.runtime import SYSTEM
from relay.transport.quic_server import QuicServer
from relay.wire.version import Version
from tests.transport.virtual import CLIENT

FRAMES = (0x0A, 0x08, 0x0E, 0x0F, 0x02, 0x03, 0x04, 0x05, 0x00, 0x01, 0x06, 0x07, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15,
          0x16, 0x17, 0x18, 0x19, 0x1A, 0x1B, 0x1C, 0x1D, 0x1E, 0x30, 0x31, 0x0B, 0x40)  # fmt: skip
NUMBERS = {0x04: 3, 0x05: 2, 0x10: 1, 0x11: 2, 0x12: 1, 0x13: 1, 0x14: 1, 0x15: 2, 0x16: 1, 0x17: 1, 0x19: 1}
"""Frames that consist of this many numbers."""

SMALLEST = 1200
ROOM = 1300


def stream_id(source: Source) -> int:
    return source.number() if source.byte() % 16 == 1 else source.byte() % 24


def frame(source: Source, sent: int = 0) -> bytes:
    """A frame with fields from the input. `sent` is the number of packets sent by the other side."""
    kind = source.pick(FRAMES)
    if kind & 0xF8 == 0x08:
        offset = source.number() if kind & 4 else 0
        data = source.chunk()
        start = (
            encode_uint_var(kind)
            + encode_uint_var(stream_id(source))
            + (encode_uint_var(offset) if kind & 4 else b"")
        )
        size = source.number() if source.byte() % 16 == 1 else len(data)
        return start + (encode_uint_var(size) if kind & 2 else b"") + data
    if kind in (0x04, 0x05, 0x11, 0x15):
        numbers = [stream_id(source)] + [source.number() for _ in range(NUMBERS[kind] - 1)]
        return encode_uint_var(kind) + b"".join(map(encode_uint_var, numbers))
    if kind in NUMBERS:
        return encode_uint_var(kind) + b"".join(source.varint() for _ in range(NUMBERS[kind]))
    if kind in (0x02, 0x03):
        ranges = source.byte() % 6
        largest = source.number() if source.byte() % 16 == 1 else max(0, sent - 1 - source.byte() % 4)
        first = source.number() if source.byte() % 16 == 1 else min(largest, source.byte() % 8)
        numbers = [largest, source.number(), ranges, first]
        numbers += [source.byte() % 3 if source.byte() % 8 else source.number() for _ in range(2 * ranges)]
        numbers += [source.number() for _ in range(3 * (kind & 1))]
        return encode_uint_var(kind) + b"".join(map(encode_uint_var, numbers))
    if kind == 0x18:
        cid = source.chunk(21)
        return (
            b"\x18"
            + source.varint()
            + source.varint()
            + bytes((len(cid),))
            + cid
            + source.take(16).ljust(16, b"t")
        )
    if kind in (0x1A, 0x1B):
        return bytes((kind,)) + source.take(8).ljust(8, b"p")
    if kind in (0x1C, 0x1D):
        text = source.chunk()
        blamed = source.varint() if kind == 0x1C else b""
        return bytes((kind,)) + source.varint() + blamed + encode_uint_var(len(text)) + text
    if kind in (0x06, 0x07, 0x31):
        data = source.chunk()
        lead = b"" if kind == 0x31 else source.varint()
        return bytes((kind,)) + lead + encode_uint_var(len(data)) + data
    if kind == 0x00:
        return bytes(source.byte())
    if kind == 0x30:
        return b"\x30" + source.chunk()
    return bytes(encode_uint_var(kind))


def payload(source: Source, sent: int = 0) -> bytes:
    """The payload of a packet."""
    if source.byte() % 8 == 1:
        return source.chunk()
    return b"".join(frame(source, sent) for _ in range(1 + source.byte() % 5))[:ROOM]


def packets(data: bytes) -> None:
    """Protected packets of an established peer, through every receive path."""
    source = Source(data)
    with Pair("moq-lite-05", way=source.byte(), hostile_server=source.flag()) as pair:
        pair.mute()
        while source and not pair.over:
            if source.byte() % 6 == 1:
                pair.act(source)
                pair.wire.run()
                pair.check()
                continue
            merged = source.flag()
            batch = []
            if merged:
                # Adjacent data of one stream, as of a large frame.
                number, offset, size = source.byte() % 24, source.byte(), 1 + source.byte()
                for _ in range(source.byte() % 8):
                    lead = bytes((0x0C | source.byte() % 16 // 15,)) + encode_uint_var(number)
                    batch.append(pair.packet(lead + (0x8000_0000 | offset).to_bytes(4, "big") + bytes(size)))
                    offset += size + source.byte() % 8 // 7
            for _ in range(source.byte() % 4):
                skip = source.byte() % 8 // 6
                batch.append(pair.packet(payload(source, pair.sent).ljust(4, b"\0"), skip=skip))
            pair.deliver(batch, merged=merged)
        pair.finish()


# -- first packets


class _Socket:
    """Counts sent packets."""

    unfragmented = False
    closed = False
    address = ("192.0.2.2", 443)

    def __init__(self) -> None:
        self.sent = 0

    def send(self, data: bytes, _address: object) -> None:
        self.sent += len(data)

    def send_all(self, buffers: list[bytes], _size: int, _address: object) -> None:
        self.sent += sum(map(len, buffers))

    def close(self) -> None:
        self.closed = True


class _Certificates:
    """One, of elliptic curve."""

    fingerprint = ""

    def __init__(self) -> None:
        self.pairs = (generate_certificate(["relay.test"], dt.datetime.now(dt.UTC)),)

    def renew_if_due(self, _now: object) -> bool:
        return False

    def select(self, _name: object) -> Any:
        return self.pairs[0]


@functools.cache
def certificates() -> _Certificates:
    return _Certificates()


CLIENT_HELLO = (Path(__file__).parent / "client_hello.bin").read_bytes()
"""A ClientHello of aioquic's client, offering moq-lite-05 and h3."""

SOURCE_CID = b"source--"
"""The connection id in its transport parameters."""


def edited(source: Source, data: bytes) -> bytes:
    """`data` with some bytes replaced, removed or inserted."""
    found = bytearray(data)
    for _ in range(source.byte() % 6):
        at = int.from_bytes(source.take(2), "big") % (len(found) + 1)
        match source.byte() % 4:
            case 0:
                found[at : at + 1] = source.take(1)
            case 1:
                found[at : at + source.byte()] = b""
            case 2:
                found[at:at] = source.chunk()
            case _:
                piece = source.chunk()
                found[at : at + len(piece)] = piece
    return bytes(found)


EXTENSIONS = (0, 10, 13, 16, 41, 42, 43, 44, 45, 51, 57, 0xFFA5, 5, 0x0A0A)
PARAMETERS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 32, 0x11, 0x2AB2, 0xFF73DB)


def built_hello(source: Source) -> bytes:
    """A ClientHello with valid lengths, and usual or arbitrary extensions."""
    usual = CLIENT_HELLO
    start = 38 + 1 + usual[38]
    head = usual[4:start]
    suites = b"".join(source.take(2).ljust(2, b"\x01") for _ in range(source.byte() % 4)) + b"\x13\x01"
    body = head + len(suites).to_bytes(2, "big") + suites + b"\x01\x00"
    at = start + 2 + int.from_bytes(usual[start : start + 2], "big")
    at += 1 + usual[at] + 2
    extensions = []
    while at < len(usual):
        size = int.from_bytes(usual[at + 2 : at + 4], "big")
        extensions.append((int.from_bytes(usual[at : at + 2], "big"), usual[at + 4 : at + 4 + size]))
        at += 4 + size
    for _ in range(source.byte() % 4):
        index = source.byte() % (len(extensions) + 1)
        kind = source.pick(EXTENSIONS)
        match source.byte() % 5:
            case 0:
                del extensions[index : index + 1]
            case 1:
                extensions.insert(index, (kind, source.chunk()))
            case 2 if index < len(extensions):
                extensions[index] = extensions[index][0], edited(source, extensions[index][1])
            case 3:
                content = parameters(source)
                extensions = [entry for entry in extensions if entry[0] != 57] + [(57, content)]
            case _:
                inner = source.chunk()
                extensions.append((kind, len(inner).to_bytes(2, "big") + inner))
    listed = b"".join(
        kind.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data for kind, data in extensions
    )
    body += len(listed).to_bytes(2, "big") + listed
    return b"\x01" + len(body).to_bytes(3, "big") + body


def parameters(source: Source) -> bytes:
    """Transport parameters with valid or invalid values."""
    found = b""
    for _ in range(source.byte() % 8):
        kind = source.pick(PARAMETERS)
        value = source.varint() if source.flag() else source.chunk(40)
        found += encode_uint_var(kind) + encode_uint_var(len(value)) + value
    return found


def initial(source: Source, crypto: bytes, number: int) -> bytes:
    """A valid Initial packet that carries `crypto`."""
    dcid, scid = b"\x08destiny", SOURCE_CID
    dcid = dcid[: 8 + source.byte() % 2]
    pair = CryptoPair()
    pair.setup_initial(cid=dcid, is_client=True, version=1)
    content = crypto.ljust(SMALLEST, b"\0")
    token = source.chunk(20) if source.byte() % 8 == 1 else b""
    header = (
        bytes((0xC1,)) + (1).to_bytes(4, "big") + bytes((len(dcid),)) + dcid + bytes((len(scid),)) + scid
        + encode_uint_var(len(token)) + token + (0x4000 | len(content) + 2 + 16).to_bytes(2, "big")
        + number.to_bytes(2, "big")
    )  # fmt: skip
    return bytes(pair.encrypt_packet(header, content, number))


async def _first_packets(source: Source) -> None:
    server = QuicServer(
        runtime=SYSTEM,
        address=("192.0.2.2", 443),
        certificates=cast("Any", certificates()),
        settings=QuicSettings(native=source.byte() % 4 != 1),
        limits=Limits(handshakes=4),
        versions=tuple(Version),
        on_request=lambda _request: None,
    )
    sock = cast("UdpSocket", _Socket())
    try:
        for number in range(1 + source.byte() % 3):
            match source.byte() % 6:
                case 0:
                    data = source.chunk().ljust(1 + source.byte() * 6, b"\0")
                case 1:
                    data = edited(source, initial(source, b"\x06\x00\x41\x00" + CLIENT_HELLO, number))
                case 2:
                    data = initial(source, b"".join(frame(source) for _ in range(source.byte() % 4)), number)
                case 3:
                    hello = edited(source, CLIENT_HELLO)
                    data = initial(source, b"\x06\x00" + encode_uint_var(len(hello)) + hello, number)
                case _:
                    hello = built_hello(source)
                    half = len(hello) if source.byte() % 4 else source.byte()
                    pieces = b""
                    for begin, piece in ((half, hello[half:]), (0, hello[:half])):
                        if piece:
                            pieces += b"\x06" + encode_uint_var(begin) + encode_uint_var(len(piece)) + piece
                    data = initial(source, pieces, number)
            if data:
                server.on_datagram(sock, data[:1452], CLIENT)
            if source.flag():
                server._drained()
                await asyncio.sleep(0)
        server._drained()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(server.connections) <= 4
        assert cast("Any", sock).sent <= 3 * 3 * 1452 + 1452
    finally:
        server.release()
    assert not server._routes
    assert not server.connections


def first_packets(data: bytes) -> None:
    """Datagrams of no known connection: noise, and first handshake packets."""
    with Faults() as faults:
        run(_first_packets(Source(data)))
        faults.check()


# -- packet protection


SUITES = ((0x1301, 16), (0x1302, 32), (0x1303, 32))
"""TLS cipher suites, and the bytes of their keys."""


@functools.cache
def key_pair(index: int) -> tuple[Any, Any]:
    """Keys in Python, and of the kernel if it was built and can do this suite."""
    suite, size = SUITES[index]
    material = bytes(range(size)), bytes(range(12)), bytes(range(50, 50 + size))
    pure = packet_keys.PureKeys(suite, *material)
    if not packet_keys.NATIVE or suite == packet_keys.CHACHA20:
        return pure, None
    return pure, vars(packet_keys)["_kernel"].Keys(*material, False)


def protection(data: bytes) -> None:
    """Opening packets one by one and in trains: the compiled kernel and Python agree."""
    source = Source(data)
    index = source.byte() % 3
    pure, native = key_pair(index)
    cid = source.take(source.byte() % 21)
    number = source.number()
    expected = max(0, number + source.byte() % 5 - 2) if source.flag() else source.number()
    buffer = b""
    each = 0
    for at in range(source.byte() % 6):
        if source.byte() % 4 == 1:
            buffer += source.chunk()
            continue
        content = frame(source) if source.flag() else payload(source)
        size = 1 + source.byte() % 4
        flags = 0x40 | (source.byte() & 0x1C if source.byte() % 8 == 1 else 0) | size - 1
        packet = pure.one((number + at) & 0x3FFF_FFFF_FFFF_FFFF, size, flags, cid, content.ljust(4, b"\0"))
        each = each or len(packet)
        buffer += packet
    if source.byte() % 8 == 1:
        buffer = edited(source, buffer)
    each = each if source.byte() % 8 else source.byte()
    if not buffer:
        return
    phase = source.byte() & 1
    ours = pure.open(buffer, len(cid), expected, phase)
    taken = pure.take(buffer, max(1, each), cid, expected, phase)
    if native is not None:
        assert native.open(buffer, len(cid), expected, phase) == ours
        assert native.take(buffer, max(1, each), cid, expected, phase) == taken


PACKETS = 100


def recovery() -> Recovery:
    """With packets in flight, alone and in trains; some were acknowledged."""
    found = Recovery(make_congestion("cubic", SMALLEST), max_ack_delay=0.025)
    number = 0
    while number < PACKETS:
        last = min(number + number % 7, PACKETS - 1)
        record = Sent(number, last, 1.0, SMALLEST, SMALLEST)
        record.step = 1000
        found.add(record)
        number = last + 1
    found.read_ack(b"\x14\x00\x00\x05", 0, PACKETS, 3)
    return found


def outstanding(found: Recovery) -> set[int]:
    return {number for record in found.sent for number in range(record.first, record.last + 1)}


def acknowledgements(data: bytes) -> None:
    """ACK frames acknowledge what aioquic reads in them."""
    ours = recovery()
    before = outstanding(ours)
    try:
        end = ours.read_ack(data, 0, PACKETS, 3)
    except (IndexError, QuicError):
        return
    buffer = Buffer(data=data)
    ranges, _ = pull_ack_frame(buffer)
    assert buffer.tell() == end
    acked = {number for each in ranges for number in each}
    assert outstanding(ours) == before - acked
    ours.settle(2.0, True)
    assert ours.outstanding == len(outstanding(ours))


TARGETS = {
    "quic-packets": packets,
    "quic-first": first_packets,
    "quic-protection": protection,
    "quic-ack": acknowledgements,
}
