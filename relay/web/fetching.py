"""`/fetch`: groups of a track over HTTP, streamed (docs/http.md).

Without a query it is the route of moq-relay 0.9.3: the payloads of the newest group, concatenated.

Track names have slashes, such as `video/hd`: the longest announced path is the broadcast, unless `?track=`
names the track.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeAlias

import msgpack
from aiohttp import web

from relay.actors import messages as m
from relay.actors.reader import Over, Reading
from relay.auth.permissions import Reason
from relay.logger import get_logger
from relay.model.address import readable_host
from relay.model.group import FRAME_OVERHEAD, FrameQueue, FrameStart
from relay.model.path import normalize
from relay.wire.errors import StreamCode

logger = get_logger("relay.web")

FETCH_TIMEOUT: Final = 10.0  # seconds until a group must begin

STALL_TIMEOUT: Final = 20.0  # seconds without progress of a write until the client is aborted

LONGEST_WAIT: Final = 60.0  # seconds of `?wait=`

LOOK_INTERVAL: Final = 1.0  # seconds between checks for a lost client while nothing is sent

QUEUE_BYTES: Final = 16 * 1024 * 1024
"""Queued bytes at which a client is aborted. Cached groups at the start do not count."""

WRITE_BYTES: Final = 65_536
"""Small chunks are joined up to this size. At most one write waits in the client's socket."""

MAX_GROUP: Final = (1 << 62) - 1
MAX_DIGITS: Final = len(str(MAX_GROUP))


Form: TypeAlias = Callable[[m.GroupFragment], Iterable[bytes]]


class BadQueryError(ValueError):
    """The text says what is right."""


def candidates(path: str, track: str | None) -> list[tuple[str, str]]:
    """All splits of a path into broadcast and track, the longest broadcast first."""
    if track is not None:
        return [(normalize(path), track)] if track else []
    path = path.lstrip("/")
    found: dict[str, str] = {}
    for at in range(len(path) - 1, 0, -1):
        if path[at] == "/" and path[-1] != "/":
            found.setdefault(normalize(path[:at]), path[at + 1 :])
    return list(found.items())


def reading_of(candidates: list[tuple[str, str]], query: Any) -> tuple[Reading, bool]:
    """The request for one of `candidates`, and True for separate frames. Raises BadQueryError."""
    text = query.get("group", "latest")
    group: int | None = None
    if text != "latest":
        number = text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
        if not number or int(text) > MAX_GROUP:
            raise BadQueryError(f"group={text[:40]!r}: expected a group number or latest")
        group = int(text)
    follow, frames = (_switch(query, name) for name in ("follow", "frames"))
    (broadcast, track), *others = candidates
    return Reading(broadcast, track, group, follow, tuple(others), _wait(query)), frames


def _wait(query: Any) -> float:
    text = query.get("wait", "0")
    if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?", text) and float(text) <= LONGEST_WAIT:
        return float(text)
    raise BadQueryError(f"wait={text[:40]!r}: expected seconds from 0 to {LONGEST_WAIT:g}")


def _switch(query: Any, name: str) -> bool:
    text = query.get(name, "0")
    if text not in ("0", "1"):
        raise BadQueryError(f"{name}={text[:40]!r}: expected 0 or 1")
    return bool(text == "1")


class FetchQueue:
    """Bounded, between a reader actor and a response."""

    def __init__(self) -> None:
        self.on_full: Callable[[], object] = lambda: None
        """Called once when the queue is full: a write may block the response."""
        self.on_cut: Callable[[], object] = lambda: None  # by `cut`, likewise
        self._queue: asyncio.Queue[tuple[m.GroupFragment | Over, int]] = asyncio.Queue()
        self._waiting = 0
        self._begun = False
        self._full = False

    def put(self, item: m.GroupFragment | Over) -> None:
        if self._full:
            return
        # cached groups come at once, however slow the client is
        size = _size_of(item) if self._begun and isinstance(item, m.GroupFragment) else 0
        if self._waiting and self._waiting + size > QUEUE_BYTES:
            self._end(Over(StreamCode.TOO_FAR_BEHIND, ours=True))
            self.on_full()
            return
        self._waiting += size
        self._queue.put_nowait((item, size))

    def cut(self, over: Over) -> None:
        self._end(over)
        self.on_cut()

    def _end(self, over: Over) -> None:
        self._full = True
        while not self._queue.empty():
            self._queue.get_nowait()
        self._waiting = 0
        self._queue.put_nowait((over, 0))

    async def get(self) -> m.GroupFragment | Over:
        item, size = await self._queue.get()
        self._begun = True
        self._waiting -= size
        return item


def _size_of(fragment: m.GroupFragment) -> int:
    return sum(len(part) if isinstance(part, bytes) else FRAME_OVERHEAD for part in fragment.chunks)


class Frames:
    """Assembles frames from fragments of interleaved groups."""

    def __init__(self, encode: Callable[[int, int, FrameStart, bytes], bytes]) -> None:
        self._encode = encode
        self._open: dict[
            int, tuple[int, FrameQueue]
        ] = {}  # by group: number of the next frame, and its parts

    def take(self, fragment: m.GroupFragment) -> Iterator[bytes]:
        sequence = fragment.sequence
        number, frames = self._open.pop(sequence, (fragment.start_frame, FrameQueue()))
        frames.extend(fragment.chunks)
        while frames:
            yield self._encode(sequence, number, *frames.popleft())
            number += 1
        if not fragment.fin and fragment.code is None:
            self._open[sequence] = number, frames


def _row(group: int, frame: int, start: FrameStart, payload: object) -> dict[str, object]:
    return {
        "group": group,
        "frame": frame,
        "timestamp": start.timestamp,
        "size": start.size,
        "payload": payload,
    }


def _json_line(group: int, frame: int, start: FrameStart, payload: bytes) -> bytes:
    return json.dumps(_row(group, frame, start, base64.b64encode(payload).decode())).encode() + b"\n"


def _msgpack_map(group: int, frame: int, start: FrameStart, payload: bytes) -> bytes:
    packed: bytes = msgpack.packb(_row(group, frame, start, payload))
    return packed


def _payload(group: int, frame: int, start: FrameStart, payload: bytes) -> bytes:  # noqa: ARG001
    return payload


async def respond(
    request: web.Request, queue: FetchQueue, reading: Reading, *, frames: bool
) -> web.StreamResponse | Over | None:
    """Returns `Over` if refused before it began, `None` if nothing came in time."""
    try:
        async with asyncio.timeout(FETCH_TIMEOUT + reading.wait):
            item = await _next(request, queue)
    except TimeoutError:
        return None
    except ConnectionError:
        return Over(StreamCode.CANCELLED)
    if isinstance(item, Over):
        return item
    response = web.StreamResponse()
    take = _form(request, response, reading, frames=frames)
    queue.on_full = lambda: _give_up(request)
    queue.on_cut = lambda: _abort(request)
    try:
        await response.prepare(request)
        if request.method != "HEAD":
            await _stream(request, response, queue, item, take, follow=reading.follow)
    except TimeoutError:
        _give_up(request)
    except ConnectionError:
        pass
    return response


async def _stream(
    request: web.Request,
    response: web.StreamResponse,
    queue: FetchQueue,
    item: m.GroupFragment | Over,
    take: Form,
    *,
    follow: bool,
) -> None:
    while not isinstance(item, Over):
        await _send(response, take(item))
        if item.fin and not follow:
            return
        item = await _next(request, queue)
    if item.code is not None:
        _abort(request)  # an aborted group must not look complete


async def _next(request: web.Request, queue: FetchQueue) -> m.GroupFragment | Over:
    """Raises ConnectionResetError if the client has left: aiohttp reports it only to writers."""
    while request.transport is not None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_INTERVAL):
                return await queue.get()
    raise ConnectionResetError("the client has left")


async def _send(response: web.StreamResponse, chunks: Iterable[bytes]) -> None:
    """Raises TimeoutError if the client reads nothing."""
    batch: list[bytes] = []
    size = 0
    for chunk in chunks:
        batch.append(chunk)
        size += len(chunk)
        if size >= WRITE_BYTES:
            await _write(response, batch)
            batch, size = [], 0
    if size:
        await _write(response, batch)


async def _write(response: web.StreamResponse, batch: list[bytes]) -> None:
    async with asyncio.timeout(STALL_TIMEOUT):
        await response.write(b"".join(batch))


def _give_up(request: web.Request) -> None:
    client = readable_host(str(request.remote))
    logger.warning("gave up", remote=client, path=request.path, reason="the client reads too slowly")
    _abort(request)


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _form(request: web.Request, response: web.StreamResponse, reading: Reading, *, frames: bool) -> Form:
    if frames and "application/msgpack" in request.headers.get("accept", ""):
        response.content_type = "application/msgpack"
        return Frames(_msgpack_map).take
    if frames:
        response.content_type = "application/x-ndjson"
        return Frames(_json_line).take
    return Frames(_payload).take if reading.follow else _chunks


def _chunks(fragment: m.GroupFragment) -> Iterable[bytes]:
    return [part for part in fragment.chunks if isinstance(part, bytes)]


def refusal(outcome: Over | None) -> tuple[int, str]:
    """Status and text for a fetch without a result."""
    if outcome is None:
        return 504, "no group in time: the publisher sends nothing on this track\n"
    match outcome.code:
        case StreamCode.UNROUTABLE:
            return 404, "no such broadcast\n"
        case StreamCode.NOT_FOUND | StreamCode.OLD | StreamCode.EVICTED:
            return 404, "no such track or group\n"
        case None:
            return 404, "the track has ended without a group\n"
        case StreamCode.UNAUTHORIZED if outcome.ours:
            return 401, f"unauthorized: {Reason.EXPIRED}\n"
        case StreamCode.INTERNAL if outcome.ours:
            return 500, "the relay has failed to read the track: its log says why\n"
        case StreamCode.GOING_AWAY:
            return 503, "going away: try another relay, or later\n"
        case StreamCode.NO_CAPACITY:
            return 503, "no room: as many tracks of this broadcast are read as may be, or the cache is full\n"
        case StreamCode.CONTROL_TIMEOUT:
            return 504, "the publisher does not answer\n"
        case code:
            return 502, f"the publisher rejected or aborted the track with code {code}\n"
