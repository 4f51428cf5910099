"""WebSocket framings, and the sessions on top of them.

Beyond "no exception": memory for a peer is bounded, and an ended session keeps nothing.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from fuzz.loop import run
from fuzz.owner import Owner
from fuzz.source import Source
from relay.model.limits import Limits
from relay.transport.websocket.choice import choices, choose
from relay.transport.websocket.request import make_session
from relay.transport.websocket.session import CONTROL_BACKLOG
from relay.wire.errors import WireError
from relay.wire.qmux import Draft, Kind, Parameters, decode_message
from relay.wire.varint import encode_varint
from relay.wire.version import Version
from relay.wire.websocket import decode_plain

CHOICES = choices(tuple(Version))
SMALL = Limits(websocket_streams=8, websocket_window=4096, websocket_message=2048)
"""Small, so that inputs reach the limits."""

KINDS = tuple(Kind)


def qmux_frames(data: bytes) -> None:
    """Of every draft."""
    source = Source(data)
    draft = source.pick(tuple(Draft))
    with suppress(WireError):
        decode_message(source.rest(), draft)


def plain_frames(data: bytes) -> None:
    """Of the oldest framing."""
    with suppress(WireError):
        decode_plain(data)


def message(source: Source, *, plain: bool) -> bytes:
    """Raw bytes, or frames with fields from the input."""
    if source.byte() % 8 == 0:
        return source.chunk()
    if plain:
        kind = source.pick((0x08, 0x09, 0x04, 0x05, 0x1D, 0x1C))
        return bytes((kind,)) + encode_varint(source.byte() % 40) + source.chunk()
    parts = []
    for _ in range(1 + source.byte() % 4):
        kind = source.pick(KINDS)
        if kind is Kind.STREAM:
            kind_bits = source.byte() % 8
            body = source.chunk()
            offset = source.varint() if kind_bits & 4 else b""
            size = encode_varint(len(body)) if kind_bits & 2 else b""
            parts.append(
                bytes((kind | kind_bits,)) + encode_varint(source.byte() % 48) + offset + size + body
            )
        elif kind is Kind.PARAMETERS:
            parts.append(parameters(source))
        elif kind in (Kind.DATAGRAM_LEN, Kind.APPLICATION_CLOSE, Kind.CONNECTION_CLOSE):
            body = source.chunk()
            numbers = b"" if kind is Kind.DATAGRAM_LEN else source.varint()
            parts.append(encode_varint(kind) + numbers + encode_varint(len(body)) + body)
        else:
            numbers = b"".join(source.varint() for _ in range(source.byte() % 4))
            parts.append(encode_varint(kind) + numbers)
    return b"".join(parts)


def parameters(source: Source) -> bytes:
    """Usual ones or arbitrary."""
    if source.flag():
        usual = Parameters(
            idle_timeout=source.number(), max_data=source.number(), stream_data_uni=source.number(),
            stream_data_bidi_local=source.number(), streams_bidi=source.byte(), streams_uni=source.byte(),
            max_datagram=source.number(),
        )  # fmt: skip
        return usual.encode()
    body = b""
    for _ in range(source.byte() % 8):
        value = source.chunk(16)
        body += source.varint() + encode_varint(len(value)) + value
    return encode_varint(Kind.PARAMETERS) + encode_varint(len(body)) + body


async def _session(source: Source) -> None:
    choice = source.pick(CHOICES)
    now = 100.0
    session = make_session(
        choice, SMALL, remote="192.0.2.1:1", is_client=source.flag(), path="/", query="", clock=lambda: now
    )
    owner = Owner()
    owner.begin(session)
    if choice.draft is not None and source.byte() % 8:
        session.receive(
            Parameters(max_data=1 << 20, streams_bidi=8, streams_uni=8, stream_data_uni=4096).encode()
        )
    while source and not session.finished:
        match source.byte() % 8:
            case 0:
                session.received_ping(source.chunk(125))
            case 1:
                session.received_pong()
            case 2:
                now += source.byte() / 16
                assert session.tick() >= 0
            case 3:
                owner.act(source)
            case 4:
                for _ in range(source.byte() % 16):
                    out = session.next_message()
                    if out is None:
                        break
                    assert len(out.data) <= 16_384
            case _:
                if session.readable:
                    session.receive(message(source, plain=choice.draft is None))
        # one message may hold many frames that need an answer
        assert (
            len(session.streams.controls) + len(session._signals) <= CONTROL_BACKLOG + SMALL.websocket_message
        )
        by_peer = [stream for stream in session.streams.table.values() if stream.opened_by_peer]
        assert len(by_peer) <= 2 * SMALL.websocket_streams
        await asyncio.sleep(0)
    session.close(0, "over")
    while session.next_message() is not None:
        pass
    await asyncio.sleep(0)
    assert owner.ended
    assert not session.streams.table
    assert not session.streams.controls
    assert session.streams.queue.top is None


def session(data: bytes) -> None:
    """Of any subprotocol, with pings, time and an owner."""
    run(_session(Source(data)))


def subprotocols(data: bytes) -> None:
    names = data.decode("utf-8", "surrogateescape").split(",")
    chosen = choose(tuple(name.strip() for name in names if name.strip()), tuple(Version))
    assert (
        chosen is None or chosen.subprotocol == "" or chosen.subprotocol in [name.strip() for name in names]
    )


TARGETS = {
    "qmux-frames": qmux_frames,
    "plain-frames": plain_frames,
    "websocket-session": session,
    "websocket-offers": subprotocols,
}
