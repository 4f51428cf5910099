"""Fakes by role. They keep lists: a repeated message shows as well as a missing one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast

from relay.actors import messages as m
from relay.actors.runtime import LoopActor, LoopInbox, Ref, send
from relay.model.route import Route
from relay.model.track import SubscribeParams
from relay.model.watchers import Announcement
from relay.moq import session as moq
from relay.moq.encoding import Encoding
from relay.runtime import Runtime
from relay.wire.frame import FrameHeader, frame_header_plain, frame_header_timed
from tests.clock import RUNTIME

T = TypeVar("T")


class Recorder(LoopActor):
    """Writes its messages into a list that outlives it."""

    def __init__(self, runtime: Runtime, log: list[Any]) -> None:
        super().__init__(runtime)
        self._log = log

    def on_receive(self, message: object) -> object:
        self._log.append(message)
        return None


class Fake:
    def __init__(self) -> None:
        self.log: list[Any] = []
        self.ref: Ref = Recorder.start(RUNTIME, self.log)

    def got(self, kind: type[T]) -> list[T]:
        return [message for message in self.log if isinstance(message, kind)]


class FakeRef:
    """Keeps what is sent to it: a `Ref` without an actor."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.actor_inbox = LoopInbox()
        self.actor_inbox._queue = cast("Any", self)

    @property
    def ref(self) -> Ref:
        return cast("Ref", self)

    def append(self, message: object) -> None:
        self.log.append(message)

    def got(self, kind: type[T]) -> list[T]:
        return [message for message in self.log if isinstance(message, kind)]


class FakePublisher(Fake):
    """A connection whose peer publishes: the source of a track."""

    def groups(self, track: Ref, *parts: m.GroupPart) -> None:
        send(track, moq.GroupData(1, parts))


class Received:
    """One group as a subscriber saw it."""

    def __init__(self, start_frame: int) -> None:
        self.start_frame = start_frame
        self.chunks: list[bytes] = []
        self.fin = False
        self.code: int | None = None

    @property
    def data(self) -> bytes:
        return b"".join(self.chunks)


class FakeSubscriber(Fake):
    """A connection whose peer subscribes, with any number of subscriptions by key."""

    def subscribe(
        self,
        to: Ref,
        key: int = 1,
        *,
        path: str = "room/cam",
        track: str = "video",
        encoding: Encoding = Encoding.PLAIN,
        params: SubscribeParams | None = None,
        exclude: int = 0,
    ) -> None:
        send(to, m.Subscribe(path, track, self.ref, 7, key, encoding, params or SubscribeParams(), exclude))

    def describe(self, to: Ref, key: int = 1, *, path: str = "room/cam", track: str = "video") -> None:
        send(to, m.Describe(path, track, self.ref, 7, key, 0))

    def fetch(
        self, to: Ref, group: int, key: int = 1, *, first: int = 0, last: int | None = None,
        encoding: Encoding = Encoding.PLAIN,
    ) -> None:  # fmt: skip
        params = SubscribeParams(start_group=group, start_frame=first, end_frame=last)
        send(to, m.Fetch("room/cam", "video", self.ref, 7, key, encoding, params, 0))

    def leave(self, track: Ref, key: int = 1) -> None:
        send(track, m.Unsubscribe(self.ref, key))

    def fragments(self, key: int = 1) -> list[m.GroupFragment]:
        return [
            fragment
            for message in self.got(m.Deliver)
            if message.key == key
            for fragment in message.fragments
        ]

    def groups(self, key: int = 1) -> dict[int, Received]:
        """Fails if the fragments of a group do not fit together."""
        found: dict[int, Received] = {}
        for fragment in self.fragments(key):
            if fragment.first:
                assert fragment.sequence not in found, f"group {fragment.sequence} begins twice"
                found[fragment.sequence] = Received(fragment.start_frame)
            if fragment.sequence not in found:
                continue
            group = found[fragment.sequence]
            assert not group.fin, f"group {fragment.sequence} goes on after its end"
            assert group.code is None, f"group {fragment.sequence} goes on after its abort"
            group.chunks += fragment.chunks
            group.fin = fragment.fin
            group.code = fragment.code
        return found

    def fetched(self, key: int = 1) -> bytes:
        return b"".join(
            c for message in self.got(m.FetchData) if message.key == key for c in message.part.chunks
        )


def part(
    sequence: int,
    *payloads: bytes,
    fin: bool = True,
    code: int | None = None,
    timestamps: Sequence[int] = (),
    first_frame: int = 0,
) -> m.GroupPart:
    """A group, or the next part of one, of whole frames."""
    parts: list[FrameHeader | bytes] = []
    arrival = time.monotonic_ns() // 1000
    for number, payload in enumerate(payloads):
        parts.append(FrameHeader(timestamps[number] if timestamps else arrival, len(payload)))
        if payload:
            parts.append(payload)
    return m.GroupPart(sequence, first_frame, tuple(parts), fin and code is None, code)


def payload_of(items: Iterable[object]) -> bytes:
    """Without the starts of frames."""
    chunks = (chunk for item in items if isinstance(item, m.GroupFragment) for chunk in item.chunks)
    return b"".join(chunk for chunk in chunks if isinstance(chunk, bytes))


def plain(*payloads: bytes) -> bytes:
    """Frames as 01 to 04 write them."""
    return b"".join(frame_header_plain(len(payload)) + payload for payload in payloads)


def timed(*frames: tuple[int, bytes]) -> bytes:
    """Frames as 05 and 06 write them, from (timestamp, payload)."""
    data = b""
    previous = 0
    for timestamp, payload in frames:
        data += frame_header_timed(timestamp - previous, len(payload)) + payload
        previous = timestamp
    return data


def announcement(
    path: str,
    session: int,
    connection: Ref,
    broadcast: Ref,
    *,
    generation: int = 1,
    route: Route | None = None,
    prefix: bool = False,
    tentative: bool = False,
    relayed: bool = False,
    onward: bool = True,
) -> m.Announce:
    found = route if route is not None else Route((session,))
    return m.Announce(
        session, connection, path, generation, found, broadcast, prefix, tentative, relayed, onward
    )


class View:
    """A watcher's knowledge; fails if its messages do not alternate."""

    def __init__(self, watch: int) -> None:
        self.watch = watch
        self.started = 0
        self.known: dict[str, Announcement] = {}

    def follow(self, log: Sequence[Any]) -> View:
        for message in log:
            if isinstance(message, m.WatchStarted) and message.watch == self.watch:
                self.started += 1
                assert len({offer.path for offer in message.offers}) == len(message.offers)
                self.known = {offer.path: offer for offer in message.offers}
            elif isinstance(message, m.WatchChanged) and message.watch == self.watch:
                assert self.started == 1, "a change before the initial set"
                if message.offer is None:
                    assert message.path in self.known, f"the end of {message.path!r}, which was not offered"
                    del self.known[message.path]
                else:
                    assert message.offer.path == message.path
                    assert self.known.get(message.path) != message.offer, "told what it knew"
                    self.known[message.path] = message.offer
        return self
