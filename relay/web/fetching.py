"""`/fetch`: groups of a track over HTTP, as they come.

Without a query it is the route of moq-relay 0.9.3: the payloads of the newest group, one after the other. `?group=N`
asks for another group, `?follow=1` goes on with the groups after it, `?frames=1` keeps the frames apart: one JSON
object a line, or with `Accept: application/msgpack` one msgpack map after the other, payload as binary.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any, Final

import msgpack
from aiohttp import web

from relay.actors import messages as m
from relay.actors.reader import Over, Reading
from relay.model.track import Dialect
from relay.wire.errors import StreamCode
from relay.wire.frame import FrameHeader
from relay.wire.frame_decoder import FrameDecoder
from relay.wire.version import Version

FETCH_TIMEOUT: Final = 10.0
"""Seconds that a fetch waits for a group to begin."""

QUEUE_BYTES: Final = 16 * 1024 * 1024
"""What waits for a client that reads too slowly, before it is given up."""

MAX_GROUP: Final = (1 << 62) - 1


class BadQueryError(ValueError):
    """The query asks for something that does not exist; the text says what would be right."""


class SlowReaderError(Exception):
    """The client does not keep up."""


def reading_of(path: str, track: str, query: Any) -> tuple[Reading, bool]:
    """What a request asks for, and whether its frames are kept apart. Raises BadQueryError."""
    text = query.get("group", "latest")
    group: int | None = None
    if text != "latest":
        if not (text.isascii() and text.isdigit() and int(text) <= MAX_GROUP):
            raise BadQueryError(f"group={text[:40]!r}: expected a group number or latest")
        group = int(text)
    follow, frames = (_switch(query, name) for name in ("follow", "frames"))
    dialect = Dialect.TIMED if frames or follow else Dialect.RAW
    return Reading(path, track, dialect, group, follow), frames


def _switch(query: Any, name: str) -> bool:
    text = query.get(name, "0")
    if text not in ("0", "1"):
        raise BadQueryError(f"{name}={text[:40]!r}: expected 0 or 1")
    return bool(text == "1")


class Feed:
    """What a reader actor passes on, until the response takes it: bounded."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[m.GroupPiece | Over] = asyncio.Queue()
        self._bytes = 0

    def put(self, item: m.GroupPiece | Over) -> None:
        """Called by the reader actor."""
        if isinstance(item, m.GroupPiece):
            self._bytes += sum(map(len, item.chunks))
        self._queue.put_nowait(item)

    async def get(self) -> m.GroupPiece | Over:
        """The next item. Raises SlowReaderError if too much waits behind it."""
        item = await self._queue.get()
        if self._bytes > QUEUE_BYTES and not self._queue.empty():
            raise SlowReaderError
        if isinstance(item, m.GroupPiece):
            self._bytes -= sum(map(len, item.chunks))
        return item


class Frames:
    """Whole frames out of the pieces of groups that may be interleaved."""

    def __init__(self, encode: Callable[[int, int, FrameHeader, bytes], bytes]) -> None:
        self._encode = encode
        self._open: dict[int, tuple[FrameDecoder, list[FrameHeader], list[bytes], int]] = {}

    def take(self, piece: m.GroupPiece) -> bytes:
        """The encoded frames that this piece completes."""
        decoder, header, parts, number = self._open.get(
            piece.sequence, (FrameDecoder(Version.LITE_05, MAX_GROUP), [], [], piece.start_frame)
        )
        out: list[bytes] = []

        def finish() -> None:
            nonlocal number
            if header and sum(map(len, parts)) == header[0].size:
                out.append(self._encode(piece.sequence, number, header.pop(), b"".join(parts)))
                parts.clear()
                number += 1

        for item in decoder.feed(b"".join(piece.chunks)):
            if isinstance(item, FrameHeader):
                header[:] = [item]
            else:
                parts.append(item)
            finish()
        if piece.fin or piece.code is not None:
            self._open.pop(piece.sequence, None)
        else:
            self._open[piece.sequence] = (decoder, header, parts, number)
        return b"".join(out)


def _json_line(group: int, frame: int, header: FrameHeader, payload: bytes) -> bytes:
    row = {
        "group": group,
        "frame": frame,
        "timestamp": header.timestamp,
        "size": header.size,
        "payload": base64.b64encode(payload).decode(),
    }
    return json.dumps(row).encode() + b"\n"


def _msgpack_map(group: int, frame: int, header: FrameHeader, payload: bytes) -> bytes:
    row = {
        "group": group,
        "frame": frame,
        "timestamp": header.timestamp,
        "size": header.size,
        "payload": payload,
    }
    packed: bytes = msgpack.packb(row)
    return packed


def _payload(group: int, frame: int, header: FrameHeader, payload: bytes) -> bytes:  # noqa: ARG001
    return payload


async def respond(
    request: web.Request, feed: Feed, reading: Reading, headers: dict[str, str], *, frames: bool
) -> web.StreamResponse | Over | None:
    """Stream what the feed brings. `Over` if it was refused before it began, `None` if nothing came in time."""
    try:
        async with asyncio.timeout(FETCH_TIMEOUT):
            item = await feed.get()
    except TimeoutError:
        return None
    if isinstance(item, Over):
        return item
    response = web.StreamResponse(headers=headers)
    take = _form(request, response, reading, frames=frames)
    await response.prepare(request)
    try:
        while not isinstance(item, Over):
            data = take(item)
            if data:
                await response.write(data)
            if item.fin and not reading.follow:
                await response.write_eof()
                return response
            item = await feed.get()
    except SlowReaderError:
        item = Over(StreamCode.TOO_FAR_BEHIND)
    if item.code is None:
        await response.write_eof()
    elif request.transport is not None:
        request.transport.abort()  # what broke off must not look complete
    return response


def _form(
    request: web.Request, response: web.StreamResponse, reading: Reading, *, frames: bool
) -> Callable[[m.GroupPiece], bytes]:
    """How the pieces become the body."""
    if frames and "application/msgpack" in request.headers.get("accept", ""):
        response.content_type = "application/msgpack"
        return Frames(_msgpack_map).take
    if frames:
        response.content_type = "application/x-ndjson"
        return Frames(_json_line).take
    return Frames(_payload).take if reading.follow else _joined


def _joined(piece: m.GroupPiece) -> bytes:
    return b"".join(piece.chunks)


def refusal(outcome: Over | None) -> tuple[int, str]:
    """Status and text for a fetch that brought nothing."""
    if outcome is None:
        return 504, "no group in time: the publisher sends nothing on this track\n"
    match outcome.code:
        case StreamCode.UNROUTABLE:
            return 404, "no such broadcast\n"
        case StreamCode.NOT_FOUND:
            return 404, "no such track or group\n"
        case None:
            return 404, "the track has ended without a group\n"
        case code:
            return 500, f"the track was aborted with code {code}\n"
