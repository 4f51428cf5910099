"""The other end, as all parts of a client see it; and how anything here is waited for.

Owns the session's version and end, everyone who waits for something of it, and the ids of subscriptions. Must never
read a message or decide an answer. `Client` makes one and ends it; announcements, subscriptions and publications
ask it.

The one rule of waiting: whoever waits does so on a `Bell`, and the end of the session wakes every bell. So nothing
hangs, whatever the peer leaves out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from relay.client.errors import SessionEnded
from relay.wire.errors import WireError, stream_code_for
from relay.wire.version import Version

if TYPE_CHECKING:
    from relay.client.subscribe import Subscription
    from relay.transport.session import Session, Stream


T = TypeVar("T")

KEPT: Final = 4_096
"""Changes, estimates and the like that wait to be read, and things of each kind that are noted."""


class Noted(list[T]):
    """What a peer did, the newest `KEPT` of it: a session may last for months. `total` counts all."""

    total = 0

    def append(self, item: T) -> None:
        """Note one more."""
        super().append(item)
        self.total += 1
        if len(self) > KEPT:
            del self[0]


class Handler(Protocol):
    """Who a stream belongs to: its `context`. Methods raise WireError for the peer's faults."""

    def on_data(self, data: bytes, *, fin: bool) -> None:
        """The next bytes, and with `fin` the end of the peer's half."""

    def on_reset(self, code: int) -> None:
        """The peer gave up its half."""

    def on_stop(self, code: int) -> None:
        """The peer reads our half no longer."""

    def on_fault(self, error: WireError) -> None:
        """The peer's bytes were wrong, and the stream has been ended for it."""


class Peer:
    """A session with what belongs to it."""

    def __init__(self, session: Session, *, hop: int, max_frame: int) -> None:
        self.session = session
        self.hop = hop
        self.max_frame = max_frame
        self.known_version: Version | None = None
        self.ended: SessionEnded | None = None
        self.sleepers: set[asyncio.Future[None]] = set()
        self.subscriptions: dict[int, Subscription] = {}
        self._ids = 0

    @property
    def version(self) -> Version:
        """What is spoken; RuntimeError before the set-up has told."""
        if self.known_version is None:
            raise RuntimeError("the version is not known before the client has started")
        return self.known_version

    def next_id(self) -> int:
        """Return the next subscription's id: they count from 0."""
        self._ids += 1
        return self._ids - 1

    def code(self, code: int) -> int:
        """Return what a code of the current stream table is called toward this peer."""
        return stream_code_for(self.known_version or Version.LITE_01, code)

    def refuse(self, stream: Stream, code: int) -> None:
        """End both halves of a stream, as far as they are ours to end."""
        code = self.code(code)
        if not (stream.unidirectional and stream.opened_by_peer):
            stream.reset(code)
        if stream.opened_by_peer or not stream.unidirectional:
            stream.stop(code)

    def check(self) -> None:
        """Raise SessionEnded if it has."""
        if self.ended is not None:
            raise self.ended.again()

    def end(self, error: SessionEnded) -> None:
        """Take note of the end, the first account of it, and wake everyone."""
        if self.ended is None:
            self.ended = error
        for sleeper in self.sleepers:
            if not sleeper.done():
                sleeper.set_result(None)


class Bell:
    """Wakes those who wait for one thing to change."""

    __slots__ = ("_peer", "_sleepers")

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._sleepers: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        """Let everyone who waits look again."""
        for sleeper in self._sleepers:
            if not sleeper.done():
                sleeper.set_result(None)

    async def until(self, ready: Callable[[], object]) -> None:
        """Wait until `ready()` is true. What it raises ends the wait, and so does the session's end."""
        while not ready():
            self._peer.check()
            sleeper = asyncio.get_running_loop().create_future()
            self._sleepers.append(sleeper)
            self._peer.sleepers.add(sleeper)
            try:
                await sleeper
            finally:
                self._sleepers.remove(sleeper)
                self._peer.sleepers.discard(sleeper)
