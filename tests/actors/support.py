"""Fakes by role and ways to watch actors without sleeping.

Everything keeps lists, so that a second message of a kind is seen as well as a missing one. Waiting is spinning the
event loop: `settle` until nothing is left to do, `until` until a condition holds, `advance` moves the clock of a
`VirtualLoop`.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Self, TypeVar, cast

from pykka import ActorRegistry

from relay.actors import messages as m
from relay.actors import runtime
from relay.actors.connection import ConnectionActor
from relay.actors.environment import Environment
from relay.actors.origin import OriginActor
from relay.actors.runtime import LoopActor, Ref, ask, halt, send
from relay.auth.permissions import Permissions
from relay.model.limits import Limits
from relay.model.route import Route
from relay.model.track import SubscribeParams
from relay.moq.encoding import Encoding
from relay.transport.memory import MemorySession, memory_pair
from relay.transport.session import (
    CONTROL_PRIORITY,
    DatagramReceived,
    Event,
    SessionClosed,
    SessionStats,
    Sink,
    Stream,
    StreamData,
    StreamReset,
    StreamStopped,
)
from relay.wire.decoder import AnnounceDecoder, RequestDecoder, SubscribeDecoder, UniDecoder
from relay.wire.frame import (
    frame_header_plain,
    frame_header_timed,
    group_header,
    open_request,
    setup_stream,
)
from relay.wire.messages import (
    AnnounceActive,
    AnnounceEnded,
    AnnounceInit,
    AnnounceOk,
    AnnounceRequest,
    AnnounceUpdate,
    ClientSetup,
    Fetch,
    FrameHeader,
    GroupHeader,
    Request,
    Setup,
    SetupForm,
    Subscribe,
    SubscribeEnd,
    SubscribeOk,
    TrackInfo,
    TrackRequest,
)
from relay.wire.version import Version

TIMEOUT = 5.0
HOP = 999
EVERYTHING = Permissions("", ("",), ("",))
CLUSTER = Permissions("", ("",), ("",), cluster=True)
"""Those of another relay."""
MEMBERS = "internal/origins"
QUICK = Limits(track_idle=0.01)
"""Limits of most tests: idle tracks go at once."""

LATE = 0.02
"""Seconds for which most tests wait for groups that are late."""

T = TypeVar("T")
ALL = tuple(Version)


# --- time ----------------------------------------------------------------------------------------------------------


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock tests may move forward."""

    def __init__(self) -> None:
        self.skipped = 0.0
        super().__init__()

    def time(self) -> float:
        return super().time() + self.skipped


def ready_count() -> int:
    """Callbacks that the running loop has yet to call."""
    return len(cast("Any", asyncio.get_running_loop())._ready)


def timer_count() -> int:
    """Timers of the running loop that have neither fired nor been cancelled."""
    return sum(not handle.cancelled() for handle in cast("Any", asyncio.get_running_loop())._scheduled)


async def settle(limit: int = 100_000) -> None:
    """Return when no actor, session or callback has anything left to do but wait for time to pass."""
    for _ in range(limit):
        await asyncio.sleep(0)
        if not ready_count():
            return
    raise AssertionError("the actors do not come to rest")


async def until(condition: Callable[[], object], timeout: float = TIMEOUT) -> None:  # noqa: ASYNC109
    """Spin the loop until `condition` holds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    while not condition():
        if loop.time() > end:
            raise AssertionError("waited in vain")
        await asyncio.sleep(0)


async def advance(seconds: float) -> None:
    """Let `seconds` pass on a `VirtualLoop`, with everything that comes of it."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    await settle()
    loop.skipped += seconds
    for _ in range(3):
        await asyncio.sleep(0)
        await settle()


def run_virtual(scenario: Callable[[], Any]) -> None:
    """Run a coroutine function on a `VirtualLoop` of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scenario())


def virtual(scenario: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that runs on a `VirtualLoop` of its own."""

    @functools.wraps(scenario)
    def run(**given: Any) -> None:
        run_virtual(lambda: scenario(**given))

    return run


def shuffle_turns(seed: int) -> None:
    """From now on the actors of this loop take their turns in a random order, one per pass.

    Only the order of messages between two actors is a promise; whatever else relies on order shows here.
    """
    rng = random.Random(seed)
    dispatcher = cast("Any", runtime._dispatcher())

    def run() -> None:
        ready = dispatcher._ready
        try:
            if ready:
                ready.rotate(-rng.randrange(len(ready)))
                ready.popleft()._turn()
        finally:
            dispatcher._scheduled = bool(ready)
            if ready:
                asyncio.get_running_loop().call_soon(run)

    dispatcher._run = run


class Trouble(logging.Handler):
    """Collects what went wrong in any actor: every record of level ERROR."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f" {record.exc_info[1]!r}"
        self.records.append(text)

    def __enter__(self) -> Self:
        for name in ("pykka", "relay", "asyncio"):
            logging.getLogger(name).addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("pykka", "relay", "asyncio"):
            logging.getLogger(name).removeHandler(self)


def actor_of(ref: Ref) -> Any:
    """The actor itself, to look inside."""
    return cast("Any", ref.actor_inbox)._actor


def forget_actors() -> None:
    """Take what a failed test left behind out of the registry."""
    for ref in ActorRegistry.get_all():
        ActorRegistry.unregister(ref)


def stop_all() -> None:
    for ref in ActorRegistry.get_all():
        halt(ref)


def named(name: str) -> Ref:
    """The one living actor of that name."""
    (found,) = [ref for ref in ActorRegistry.get_all() if str(actor_of(ref)) == name]
    return found


def actors() -> list[str]:
    """Names of all living actors."""
    return sorted(str(actor_of(ref)) for ref in ActorRegistry.get_all())


# --- fakes for the track, the broadcast and the origin ---------------------------------------------------------------


class Recorder(LoopActor):
    """An actor that only writes down what it is told, into a list that outlives it."""

    def __init__(self, log: list[Any]) -> None:
        super().__init__()
        self._log = log

    def on_receive(self, message: object) -> object:
        self._log.append(message)
        return None


class Fake:
    """A Recorder and what it was told."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.ref: Ref = Recorder.start(self.log)

    def got(self, kind: type[T]) -> list[T]:
        """All messages of that kind, in order."""
        return [message for message in self.log if isinstance(message, kind)]


class FakeRef:
    """A reference to no actor: keeps what it is told. Goes where a `Ref` is only sent to."""

    ended = False

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.actor_inbox = self

    @property
    def ref(self) -> Ref:
        return cast("Ref", self)

    def put(self, message: object) -> None:
        self.log.append(message)

    def got(self, kind: type[T]) -> list[T]:
        """All messages of that kind, in order."""
        return [message for message in self.log if isinstance(message, kind)]


class FakePublisher(Fake):
    """Stands for a connection whose peer publishes: the source of a track."""

    def groups(self, track: Ref, *parts: m.GroupPart) -> None:
        send(track, m.UpstreamGroups(parts))


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
    """Stands for a connection whose peer subscribes, with any number of subscriptions by key."""

    def subscribe(
        self,
        to: Ref,
        key: int = 1,
        *,
        path: str = "room/cam",
        track: str = "video",
        encoding: Encoding = Encoding.PLAIN,
        interest: SubscribeParams | None = None,
        exclude: int = 0,
    ) -> None:
        send(to, m.Subscribe(path, track, self.ref, 7, key, encoding, interest or SubscribeParams(), exclude))

    def describe(self, to: Ref, key: int = 1, *, path: str = "room/cam", track: str = "video") -> None:
        send(to, m.Describe(path, track, self.ref, 7, key, 0))

    def fetch(
        self, to: Ref, group: int, key: int = 1, *, first: int = 0, last: int | None = None,
        encoding: Encoding = Encoding.PLAIN,
    ) -> None:  # fmt: skip
        interest = SubscribeParams(start_group=group, start_frame=first, end_frame=last)
        send(to, m.Fetch("room/cam", "video", self.ref, 7, key, encoding, interest, 0))

    def leave(self, track: Ref, key: int = 1) -> None:
        send(track, m.Leave(self.ref, key))

    def pieces(self, key: int = 1) -> list[m.GroupPiece]:
        return [piece for message in self.got(m.Deliver) if message.key == key for piece in message.pieces]

    def groups(self, key: int = 1) -> dict[int, Received]:
        """The groups of a subscription; fails if the pieces of one do not fit together."""
        found: dict[int, Received] = {}
        for piece in self.pieces(key):
            if piece.first:
                assert piece.sequence not in found, f"group {piece.sequence} begins twice"
                found[piece.sequence] = Received(piece.start_frame)
            if piece.sequence not in found:
                continue
            group = found[piece.sequence]
            assert not group.fin, f"group {piece.sequence} goes on after its end"
            assert group.code is None, f"group {piece.sequence} goes on after its abort"
            group.chunks += piece.chunks
            group.fin = piece.fin
            group.code = piece.code
        return found

    def fetched(self, key: int = 1) -> bytes:
        return b"".join(c for message in self.got(m.FetchData) if message.key == key for c in message.chunks)


def part(
    sequence: int,
    *payloads: bytes,
    fin: bool = True,
    code: int | None = None,
    timestamps: Sequence[int | None] = (),
    first_frame: int = 0,
) -> m.GroupPart:
    """A group, or the next part of one, of whole frames."""
    parts: list[FrameHeader | bytes] = []
    for number, payload in enumerate(payloads):
        parts.append(FrameHeader(timestamps[number] if timestamps else None, len(payload)))
        if payload:
            parts.append(payload)
    return m.GroupPart(sequence, first_frame, tuple(parts), fin and code is None, code)


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
    """What a watcher knows, from the messages it got; fails if they do not alternate."""

    def __init__(self, watch: int) -> None:
        self.watch = watch
        self.started = 0
        self.known: dict[str, m.Offered] = {}

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


# --- sessions --------------------------------------------------------------------------------------------------------


class RecordingStream:
    """A stream of the relay that writes down every call, and what was wrong with it."""

    def __init__(self, session: RecordingSession, raw: Any) -> None:
        self.raw = raw
        self.id: int = raw.id
        self.unidirectional: bool = raw.unidirectional
        self.opened_by_peer: bool = raw.opened_by_peer
        self.context: Any = None
        self.calls: list[tuple[Any, ...]] = []
        self._session = session
        self._finished = False
        self._reset = False
        raw.context = self

    @property
    def unsent(self) -> int:
        return int(self.raw.unsent)

    @property
    def undelivered(self) -> bool:
        return bool(self.raw.undelivered)

    def write(self, chunks: Sequence[bytes], *, fin: bool = False) -> None:
        self.calls.append(("write", tuple(chunks), fin))
        if self._reset or self._finished:
            self._session.violations.append(f"stream {self.raw.id} written after its end: {self.calls}")
        self._finished = self._finished or fin
        self.raw.write(chunks, fin=fin)

    def prioritize(self, priority: int) -> None:
        self.raw.prioritize(priority)

    def reset(self, code: int) -> None:
        self.calls.append(("reset", code))
        if self._reset:
            self._session.violations.append(f"stream {self.raw.id} reset twice: {self.calls}")
        self._reset = True
        self.raw.reset(code)

    def stop(self, code: int) -> None:
        self.calls.append(("stop", code))
        self.raw.stop(code)


class RecordingSession:
    """The relay's end of a session, with every stream recorded. Implements `Session`."""

    def __init__(self, raw: MemorySession) -> None:
        self.raw = raw
        self.violations: list[str] = []
        self.streams: list[RecordingStream] = []
        self.closes: list[tuple[int, str]] = []
        self.pings = 0
        self.trusted = False
        self.keep = True
        self._sink: Sink = lambda _: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)  # transport, remote, is_client, version, alpn, path, query

    transport: str
    remote: str
    is_client: bool
    version: Version | None
    alpn: str
    path: str | None
    query: str

    @property
    def datagram_limit(self) -> int:
        return self.raw.datagram_limit

    def start(self, sink: Sink) -> None:
        self._sink = sink
        self.raw.start(self._on_events)

    def _on_events(self, events: tuple[Event, ...]) -> None:
        self._sink(tuple(self._wrapped(event) for event in events))

    def _wrapped(self, event: Event) -> Event:
        if isinstance(event, StreamData | StreamReset | StreamStopped):
            return event._replace(stream=self._wrap(event.stream))
        return event

    def _wrap(self, raw: Any) -> RecordingStream:
        if raw.context is not None:
            return cast("RecordingStream", raw.context)
        stream = RecordingStream(self, raw)
        if self.keep:
            self.streams.append(stream)
        return stream

    def open_bidi(self, priority: int = CONTROL_PRIORITY) -> Stream:
        return self._wrap(self.raw.open_bidi(priority))

    def open_uni(self, priority: int = CONTROL_PRIORITY) -> Stream:
        return self._wrap(self.raw.open_uni(priority))

    def send_datagram(self, data: bytes) -> None:
        self.raw.send_datagram(data)

    def ping(self) -> None:
        self.pings += 1
        self.raw.ping()

    def trust(self) -> None:
        self.trusted = True

    def probe_timeout(self) -> float:
        return self.raw.probe_timeout()

    def close(self, code: int = 0, reason: str = "") -> None:
        self.closes.append((code, reason))
        self.raw.close(code, reason)

    def stats(self) -> SessionStats:
        return self.raw.stats()


class PeerStream:
    """One stream as the peer sees it: what came, and handles to answer."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.data = b""
        self.slices = 0
        self.fins = 0
        self.resets: list[int] = []
        self.stops: list[int] = []
        stream.context = self

    def write(self, data: bytes = b"", *, fin: bool = False) -> None:
        self.stream.write((data,) if data else (), fin=fin)

    def reset(self, code: int = 1) -> None:
        self.stream.reset(code)

    def stop(self, code: int = 1) -> None:
        self.stream.stop(code)

    @property
    def over(self) -> bool:
        return bool(self.fins or self.resets)


class GroupStream(PeerStream):
    """A unidirectional stream of the relay."""

    def __init__(self, stream: Stream, version: Version) -> None:
        super().__init__(stream)
        self._decoder = UniDecoder(version)
        self.header: GroupHeader | None = None
        self.setup: Setup | None = None
        self.frames: list[tuple[int | None, bytes]] = []

    def feed(self, data: bytes) -> None:
        for item in self._decoder.feed(data):
            if isinstance(item, GroupHeader):
                self.header = item
            elif isinstance(item, Setup):
                self.setup = item
            elif isinstance(item, FrameHeader):
                self.frames.append((item.timestamp, b""))
            else:
                timestamp, payload = self.frames[-1]
                self.frames[-1] = (timestamp, payload + item)

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, payload in self.frames]


class RequestStream(PeerStream):
    """A bidirectional stream that the relay opened."""

    def __init__(self, stream: Stream, version: Version) -> None:
        super().__init__(stream)
        self._decoder = RequestDecoder(version)
        self.messages: list[Any] = []

    def feed(self, data: bytes) -> None:
        self.messages += self._decoder.feed(data)

    @property
    def request(self) -> Any:
        return self.messages[0] if self.messages else None


class Watching:
    """An Announce stream of the peer, read as its version reads it; fails if announcements do not alternate."""

    def __init__(self, peer: RawPeer, stream: PeerStream) -> None:
        self.stream = stream
        self._version = peer.version
        self._decoder = AnnounceDecoder(peer.version)
        self._seen = 0
        self.items: list[Any] = []
        self.live: dict[str, Any] = {}
        self.by_id: dict[int, str] = {}
        self._next_id = 0

    def read(self) -> Watching:
        data = self.stream.data[self._seen :]
        self._seen = len(self.stream.data)
        for item in self._decoder.feed(data):
            self.items.append(item)
            self._apply(item)
        return self

    def _apply(self, item: Any) -> None:
        if isinstance(item, AnnounceInit):
            for suffix in item.suffixes:
                assert suffix not in self.live
                self.live[suffix] = AnnounceActive(suffix)
        elif isinstance(item, AnnounceActive):
            if self._version != Version.LITE_05:
                assert item.suffix not in self.live, f"{item.suffix!r} announced twice"
            self.live[item.suffix] = item
            self.by_id[self._next_id] = item.suffix
            self._next_id += 1
        elif isinstance(item, AnnounceUpdate):
            assert item.announce_id in self.by_id
            self.live[self.by_id[item.announce_id]] = item
        elif isinstance(item, AnnounceEnded):
            suffix = item.suffix if item.announce_id is None else self.by_id.pop(item.announce_id)
            assert suffix in self.live, f"end of {suffix!r}, which was not announced"
            del self.live[suffix]

    @property
    def paths(self) -> list[str]:
        return sorted(self.read().live)


class RawPeer:
    """A peer driven by hand, one wire message at a time; it answers nothing by itself."""

    def __init__(self, session: MemorySession, version: Version, relay: RecordingSession, ref: Ref) -> None:
        self.session = session
        self.version = version
        self.relay = relay
        self.ref = ref
        self.requests: list[RequestStream] = []
        self.incoming: list[GroupStream] = []
        self.datagrams: list[bytes] = []
        self.closed: list[SessionClosed] = []
        self.own: list[PeerStream] = []
        self.keep = True
        self._next_id = 0
        self._announcing: PeerStream | None = None
        self._announce_ids: dict[str, int] = {}
        self._next_announce = 0
        self._read_by_hand = False
        session.start(self._on_events)

    def _on_events(self, events: tuple[Event, ...]) -> None:
        for event in events:
            match event:
                case StreamData():
                    stream = event.stream.context or self._accept(event.stream)
                    stream.data += event.data
                    stream.slices += 1
                    stream.fins += event.fin
                    if isinstance(stream, GroupStream | RequestStream):
                        stream.feed(event.data)
                case StreamReset():
                    if event.stream.context is not None:
                        event.stream.context.resets.append(event.code)
                case StreamStopped():
                    if event.stream.context is not None:
                        event.stream.context.stops.append(event.code)
                case DatagramReceived():
                    self.datagrams.append(event.data)
                case SessionClosed():
                    self.closed.append(event)

    def _accept(self, stream: Stream) -> PeerStream:
        if stream.unidirectional:
            group = GroupStream(stream, self.version)
            if self.keep:
                self.incoming.append(group)
            return group
        request = RequestStream(stream, self.version)
        if self.keep or isinstance(request.request, AnnounceRequest):
            self.requests.append(request)
        return request

    # what the peer does

    def bidi(self, data: bytes, *, fin: bool = False) -> PeerStream:
        stream = PeerStream(self.session.open_bidi())
        stream.write(data, fin=fin)
        if self.keep:
            self.own.append(stream)
        return stream

    def uni(self, data: bytes, *, fin: bool = False) -> PeerStream:
        stream = PeerStream(self.session.open_uni())
        stream.write(data, fin=fin)
        return stream

    def introduce(
        self, *, origin: int | None = None, cost: int | None = None, path: str | None = None
    ) -> None:
        """SETUP in the form of the version; nothing on 03 and 04."""
        if self.version <= Version.LITE_02:
            form = SetupForm.DRAFT14
            self.bidi(ClientSetup(form, (self.version.setup_code,)).encode())
        elif self.version >= Version.LITE_05:
            self.uni(setup_stream(self.version, Setup(origin=origin, cost=cost, path=path)), fin=True)

    def request(self, message: Request, *, fin: bool = False) -> PeerStream:
        return self.bidi(open_request(self.version, message), fin=fin)

    def watch(self, prefix: str = "", *, exclude: int = 0) -> Watching:
        return Watching(self, self.request(AnnounceRequest(prefix, exclude)))

    def subscribe(self, path: str, track: str = "video", **fields: Any) -> tuple[int, PeerStream]:
        number = self._next_id
        self._next_id += 1
        return number, self.request(Subscribe(number, path, track, **fields))

    def info(self, path: str, track: str = "video") -> PeerStream:
        return self.request(TrackRequest(path, track))

    def fetch(self, path: str, group: int, track: str = "video", **fields: Any) -> PeerStream:
        return self.request(Fetch(path, track, 0, group, **fields))

    # what the peer publishes

    def announce_streams(self) -> list[RequestStream]:
        return [stream for stream in self.requests if isinstance(stream.request, AnnounceRequest)]

    def announcing(self, *, origin: int = 0) -> PeerStream:
        """The relay's Announce stream, with the opening reply of the version sent."""
        if self._announcing is None:
            streams = self.announce_streams()
            assert streams, "the relay has not asked for announcements"
            self._announcing = streams[0]
            if self.version <= Version.LITE_02:
                self._announcing.write(AnnounceInit().encode(self.version))
            elif self.version >= Version.LITE_05:
                self._announcing.write(AnnounceOk(origin, 0).encode(self.version))
        return self._announcing

    def publish(
        self, path: str, hops: tuple[int, ...] = (), *, origin: int | None = None, hop_count: int = 1,
        warm: int = 0, cold: int = 0, restart: bool = False,
    ) -> None:  # fmt: skip
        stream = self.announcing(origin=origin or 0)
        active = AnnounceActive(path, hops, hop_count, warm, cold, restart)
        self._announce_ids[path] = self._next_announce
        self._next_announce += 1
        stream.write(active.encode(self.version))

    def unpublish(self, path: str) -> None:
        number = self._announce_ids.pop(path)
        self.announcing().write(AnnounceEnded(path, number).encode(self.version))

    def update(self, path: str, hops: tuple[int, ...], *, warm: int = 0, cold: int = 0) -> None:
        number = self._announce_ids[path]
        self.announcing().write(AnnounceUpdate(number, hops, warm, cold).encode(self.version))

    def subscriptions(self) -> list[tuple[RequestStream, Subscribe]]:
        """The relay's subscriptions at this peer, ended ones too."""
        return [(s, s.request) for s in self.requests if isinstance(s.request, Subscribe)]

    def live_subscriptions(self) -> list[tuple[RequestStream, Subscribe]]:
        return [(s, r) for s, r in self.subscriptions() if not s.over]

    def track_requests(self) -> list[tuple[RequestStream, TrackRequest]]:
        return [(s, s.request) for s in self.requests if isinstance(s.request, TrackRequest)]

    def fetches(self) -> list[tuple[RequestStream, Fetch]]:
        return [(s, s.request) for s in self.requests if isinstance(s.request, Fetch)]

    def answer_tracks(self, info: TrackInfo | None = None) -> None:
        """Answer every TRACK request that has none yet."""
        reply = info or TrackInfo(127, ordered=False, max_latency=5000, timescale=1_000_000)
        for stream, _ in self.track_requests():
            if not stream.fins and not stream.resets and not getattr(stream, "answered", False):
                stream.answered = True  # type: ignore[attr-defined]
                stream.write(reply.encode(self.version), fin=True)

    def accept(self, stream: PeerStream, group: int = 0) -> None:
        """SUBSCRIBE_OK in the form of the version."""
        stream.write(SubscribeOk(group=group).encode(self.version))

    def end_track(self, stream: PeerStream, final: int) -> None:
        """END where the version has one, and FIN."""
        end = SubscribeEnd(final).encode(self.version) if self.version >= Version.LITE_05 else b""
        stream.write(end, fin=True)

    def frames(self, *frames: bytes | tuple[int, bytes]) -> bytes:
        """Frames as this version writes them; time 0, 1, 2.. where none is given."""
        pairs = [f if isinstance(f, tuple) else (n, f) for n, f in enumerate(frames)]
        if self.version >= Version.LITE_05:
            return timed(*pairs)
        return plain(*(payload for _, payload in pairs))

    def group(
        self, subscription: int, sequence: int, *frames: bytes | tuple[int, bytes], fin: bool = True
    ) -> PeerStream:
        header = group_header(self.version, GroupHeader(subscription, sequence))
        return self.uni(header + self.frames(*frames), fin=fin)

    # what the peer sees

    def groups(self, subscription: int) -> list[GroupStream]:
        """Group streams of one subscription of ours, by sequence (newer groups are sent first)."""
        found = [g for g in self.incoming if g.header is not None and g.header.subscribe_id == subscription]
        return sorted(found, key=lambda group: group.header.sequence if group.header else 0)

    def replies(self, stream: PeerStream) -> list[Any]:
        """What is on a Subscribe stream of ours so far."""
        return list(SubscribeDecoder(self.version).feed(stream.data))

    def close(self, code: int = 0) -> None:
        self.session.close(code)


class SilentPeer(RawPeer):
    """A peer that never sends a byte of its own."""


def told(row: dict[str, Any]) -> str:
    """The state of a peer in a row of `/state`, and whether its session is one that the other relay dialled."""
    return "dialled by it" if row["dialled_by"] == "it" and row["state"] == "connected" else str(row["state"])


class World:
    """An origin and any number of sessions; `close` proves that nothing is left of them."""

    def __init__(
        self,
        limits: Limits = QUICK,
        *,
        versions: tuple[Version, ...] = ALL,
        authorize: Callable[[str, str], Permissions | Awaitable[Permissions]] | None = None,
        linger: float = 0.0,
        members: str = MEMBERS,
    ) -> None:
        """`authorize` answers at once, or gives something to wait for."""

        async def decide(path: str, query: str, _remote: str) -> Permissions:
            found = EVERYTHING if authorize is None else authorize(path, query)
            return found if isinstance(found, Permissions) else await found

        self.limits = limits
        self.linger = linger
        self.origin: Ref = OriginActor.start(linger=linger, members=members)
        self.environment = Environment(self.origin, HOP, limits, versions, decide, members=members)
        self.peers: list[RawPeer] = []
        self.gate = FakeRef()
        self._numbers = 0

    def connect(
        self,
        version: Version,
        *,
        permissions: Permissions | None = EVERYTHING,
        path: str | None = "/",
        query: str = "",
        introduce: bool = True,
        origin: int | None = None,
        cost: int | None = None,
        limits: Limits | None = None,
        keep: bool = True,
        offers: tuple[str, ...] = (),
        kind: type[RawPeer] = RawPeer,
    ) -> RawPeer:
        """A session of that version, the relay's side accepted by a connection actor."""
        by_setup = version <= Version.LITE_02
        client, server = memory_pair(
            None if by_setup else version, path=path, query=query, client_offers=offers
        )
        recording = RecordingSession(server)
        recording.keep = keep
        self._numbers += 1
        environment = replace(self.environment, limits=limits) if limits else self.environment
        ref = ConnectionActor.start(
            session=recording,
            number=self._numbers,
            environment=environment,
            permissions=permissions,
            gate=self.gate.ref,
        )
        peer = kind(client, version, recording, ref)
        peer.keep = keep
        self.peers.append(peer)
        if introduce and kind is not SilentPeer:
            peer.introduce(origin=origin, cost=cost)
        return peer

    async def publisher(self, version: Version, *paths: str, **options: Any) -> RawPeer:
        """A connected peer that has announced `paths`."""
        peer = self.connect(version, **options)
        await settle()
        for path in paths:
            peer.publish(path)
        await settle()
        return peer

    async def viewer(self, version: Version, **options: Any) -> RawPeer:
        peer = self.connect(version, **options)
        await settle()
        return peer

    async def count(self) -> tuple[int, int, int]:
        found = await ask(self.origin, m.Count(), timeout=TIMEOUT)
        return cast("tuple[int, int, int]", tuple(found))

    async def close(self, *, clean: bool = True) -> None:
        """Everybody leaves. With `clean`, fails unless all actors and table entries are gone."""
        for peer in self.peers:
            peer.close()
        if clean:
            loop = asyncio.get_running_loop()
            longest = max(self.limits.track_idle, self.linger)
            if isinstance(loop, VirtualLoop):
                await advance(longest + 1)
                await advance(longest + 1)
            else:
                paths = actor_of(self.origin)._paths
                with suppress(AssertionError):
                    await until(lambda: len(actors()) == 1 and not paths, 2 * longest + 1)
            assert actors() == ["origin"]
            assert await self.count() == (0, 0, 0)
        stop_all()
        await settle()
        assert not actors()
        for peer in self.peers:
            assert not peer.relay.violations, peer.relay.violations


async def follow_up(peer: RawPeer, *, grace: int = 2) -> None:
    """Let the relay's requests arrive and answer the TRACK ones."""
    for _ in range(grace):
        await settle()
        if peer.version >= Version.LITE_05:
            peer.answer_tracks()
    await settle()


async def upstream(peer: RawPeer, number: int = 0) -> tuple[RequestStream, Subscribe]:
    """The relay's subscription `number` at this peer, with its TRACK request answered."""
    await follow_up(peer)
    subscriptions = peer.subscriptions()
    assert len(subscriptions) > number, "the relay has not subscribed"
    return subscriptions[number]


def tally(items: Sequence[Any]) -> dict[str, int]:
    """How many there are of each class."""
    counts: dict[str, int] = defaultdict(int)
    for item in items:
        counts[type(item).__name__] += 1
    return dict(counts)


def pairs() -> list[tuple[Version, Version]]:
    """Every publisher's version with every viewer's."""
    return list(itertools.product(Version, Version))
