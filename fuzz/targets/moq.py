"""A whole session of moq-lite: peer and owner act in any order, while time passes.

Beyond "only the documented ValueError of a command": events follow the life of their request, which gets at most one
answer; `Closed` is the last event, and nothing is written after it; memory for a peer is bounded; a stream ended by
the peer is ended by us as well; all sent bytes can be parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

from fuzz.source import EDGES, Source
from relay.model.limits import Limits
from relay.model.path import join
from relay.model.route import Route
from relay.model.track import SubscribeParams, TrackProperties
from relay.moq import session as moq
from relay.moq.lite import LiteSession, Options, State
from relay.moq.setup import HELD_BYTES
from relay.transport.session import (
    CONTROL_PRIORITY,
    DatagramReceived,
    Event,
    Pong,
    SessionClosed,
    SessionStats,
    Sink,
    StreamData,
    StreamReset,
    StreamStopped,
)
from relay.wire.announce import (
    AnnounceActive,
    AnnounceEnded,
    AnnounceInit,
    AnnounceOk,
    AnnounceRequest,
    AnnounceUpdate,
)
from relay.wire.control import Fetch, Goaway, Probe, ProbeRequest, SessionInfo, TrackInfo, TrackRequest
from relay.wire.decoder import AnnounceDecoder, RequestDecoder, SubscribeDecoder, TrackInfoDecoder
from relay.wire.errors import MAX_CODE
from relay.wire.frame import (
    Datagram,
    GroupHeader,
    frame_header_plain,
    frame_header_timed,
    group_header,
    open_request,
    setup_stream,
)
from relay.wire.frame_decoder import UniDecoder
from relay.wire.setup import ClientSetup, ServerSetup, Setup, SetupForm
from relay.wire.subscribe import Subscribe, SubscribeDrop, SubscribeEnd, SubscribeOk, SubscribeUpdate
from relay.wire.version import AnyVersion, Version

VERSIONS = tuple(Version)
LIMITS = Limits(message=512, frame=1024, control_rate=50, control_burst=40, cache_groups=4, cache_age=1.0,
                backlog_groups=2, backlog_bytes=2048, backlog_session=8192)  # fmt: skip
"""Small, so that inputs reach them."""

OFFERS = 1024
"""Bytes that one announcement, and each answer to a request, may add to the queue."""

PATHS = ("demo/cam", "demo", "", "demo/cam/low", "other")
TRACKS = ("video/hd", "audio/data", "")
FLOOD = 16_384
"""Bytes of a peer's large packets."""

STREAMS = 128
"""Of each side; a peer's stay within its credit."""

ANSWERS = {"announce": AnnounceDecoder, "subscribe": SubscribeDecoder, "info": TrackInfoDecoder}
"""Our writes on streams of the peer, by its request."""


class FuzzStream:
    """A stream as in `relay.transport.session.Stream`, with a record of both sides."""

    def __init__(self, session: FuzzSession, number: int, *, unidirectional: bool, by_peer: bool) -> None:
        self.id = number
        self.unidirectional = unidirectional
        self.opened_by_peer = by_peer
        self.context: Any = None
        self.session = session
        self.written = b""
        self.unsent = 0
        self.finished = False
        self.over = unidirectional and by_peer
        """Our half has ended."""
        self.peer_over = unidirectional and not by_peer
        """The peer's half has ended."""
        self.stopped = False
        """By us, the peer's half."""
        self.asked = ""
        """The request for which we opened the stream."""
        self.twin: FuzzStream | None = None
        self.moved = 0
        """Bytes given to the twin."""
        self.moved_end = False
        self.reset_code: int | None = None
        self.stop_code: int | None = None

    @property
    def undelivered(self) -> bool:
        return self.unsent > 0

    def write(self, chunks: Sequence[bytes], *, fin: bool = False) -> None:
        self.session.use()
        if self.over:
            return
        for chunk in chunks:
            assert isinstance(chunk, bytes), chunk
            self.written += chunk
            self.unsent += len(chunk)
        self.finished = self.over = fin

    def reset(self, code: int) -> None:
        self.session.use()
        assert 0 <= code <= MAX_CODE
        if not self.over or self.unsent:
            self.over, self.finished, self.unsent = True, False, 0
            self.reset_code = code

    def prioritize(self, priority: int) -> None:
        self.session.use()
        assert 0 <= priority < CONTROL_PRIORITY

    def stop(self, code: int) -> None:
        self.session.use()
        assert 0 <= code <= MAX_CODE
        if not self.stopped:
            self.stopped, self.stop_code = True, code


class FuzzSession:
    """A transport session without a network."""

    remote = "peer:1"

    def __init__(
        self,
        version: AnyVersion | None,
        *,
        is_client: bool,
        transport: str = "webtransport",
        alpn: str = "moql",
        datagram_limit: int = 1160,
    ) -> None:
        """`alpn` is for versions that SETUP negotiates."""
        self.version = None if version is None or version.has_setup_exchange else version
        self.is_client = is_client
        self.transport = transport
        self.path = "/" if transport == "webtransport" or is_client else None
        self.query = ""
        self.alpn = self.version.name_on_wire if self.version else alpn
        self.datagram_limit = datagram_limit
        self.datagrams: list[bytes] = []
        self.streams: list[FuzzStream] = []
        self.closed = False
        self.quiet = False
        """The machine has seen the end and must not use the transport any more."""

    def use(self) -> None:
        """Record a call of the transport."""
        assert not self.quiet, "the transport is used after the end"

    def start(self, sink: Sink) -> None:
        raise NotImplementedError

    def open_bidi(self, priority: int = CONTROL_PRIORITY) -> FuzzStream:
        return self._open(priority, unidirectional=False)

    def open_uni(self, priority: int = CONTROL_PRIORITY) -> FuzzStream:
        return self._open(priority, unidirectional=True)

    def _open(self, priority: int, *, unidirectional: bool) -> FuzzStream:
        self.use()
        assert 0 <= priority <= CONTROL_PRIORITY
        return self.add(unidirectional=unidirectional, by_peer=False)

    def add(self, *, unidirectional: bool, by_peer: bool) -> FuzzStream:
        stream = FuzzStream(self, len(self.streams), unidirectional=unidirectional, by_peer=by_peer)
        self.streams.append(stream)
        return stream

    def send_datagram(self, data: bytes) -> None:
        self.use()
        assert len(data) <= self.datagram_limit
        self.datagrams.append(data)

    def ping(self) -> None:
        self.use()

    def probe_timeout(self) -> float:
        return 0.25

    def trust(self) -> None:
        self.use()

    def close(self, code: int = 0, reason: str = "") -> None:
        self.use()
        assert 0 <= code <= MAX_CODE, code
        assert isinstance(reason, str)
        self.closed = self.quiet = True

    def stats(self) -> SessionStats:
        return SessionStats()

    @property
    def unsent(self) -> int:
        return sum(stream.unsent for stream in self.streams)

    @property
    def undelivered(self) -> bool:
        return self.unsent > 0


class Play:
    """A session, its peer and its owner, driven by one input."""

    def __init__(self, source: Source, session: FuzzSession, limits: Limits = LIMITS, **options: Any) -> None:
        self.source = source
        self.session = session
        self.now = 0.0
        self.moq = LiteSession(session, limits=limits, **options)
        self.pending: list[Event] = []
        self.asked: dict[int, str] = {}
        """Our pending requests, with their kind."""
        self.ended: set[int] = set()
        """Our accepted subscriptions; groups may still follow."""
        self.started: set[int] = set()
        self.theirs: dict[int, Any] = {}
        """Open requests of the peer, with their events."""
        self.groups: dict[int, dict[int, bool]] = {}
        """Sent groups that may continue, by request and sequence."""
        self.announcing: set[int] = set()
        self.allowed = LIMITS.backlog_session
        """Bytes that may be unsent."""
        self.introduced = self.established = self.leaving = self.told = False
        self.joined = False
        """The peer is one of our sessions, whose owner keeps the rules."""

    # --- checks

    def check(self) -> None:
        """Take the events; check all bounds."""
        for event in self.moq.poll():
            assert not self.told, f"{event} after the end"
            self.on_event(event)
        if self.moq.closed:
            assert self.told, "no event tells of the end"
            assert self.moq.deadline == moq.NEVER
        assert self.moq.setup.held._bytes <= HELD_BYTES + 2 * FLOOD
        assert self.session.unsent <= self.allowed, (self.session.unsent, self.allowed)
        if not self.moq.closed:
            self.check_tables()

    def check_tables(self) -> None:
        """Tables of a live session are bounded by its open streams."""
        live = sum(not stream.peer_over or not stream.over for stream in self.session.streams)
        serving, requests = self.moq.serving, self.moq.requests
        assert len(serving._deliveries) + len(serving._answers) + len(serving._writers) <= live
        assert len(serving._ids) == len(serving._deliveries)
        for delivery in serving._deliveries.values():
            unsent = sum(sending.stream.unsent for sending in delivery.backlog)
            assert unsent <= LIMITS.backlog_bytes
        assert serving._ending <= set(serving._deliveries)
        assert len(requests._subscriptions) + len(requests._others) <= len(self.asked) + len(self.ended)
        assert not requests.fresh

    def on_event(self, event: moq.Event) -> None:  # noqa: PLR0915 - one branch per kind of event
        match event:
            case moq.Introduced():
                self.introduced = True
            case moq.Fault():
                assert not self.joined, event
            case moq.Established():
                self.established = True
            case moq.Closed():
                self.told = self.session.quiet = True
            case (
                moq.AnnounceRequested()
                | moq.SubscribeRequested()
                | moq.InfoRequested()
                | moq.FetchRequested()
            ):
                assert self.established
                assert event.request not in self.theirs
                self.theirs[event.request] = event
                self.allowed += OFFERS
            case moq.SubscribeUpdated() | moq.GroupStopped() | moq.GroupSkipped():
                assert isinstance(self.theirs[event.request], moq.SubscribeRequested)
            case moq.RequestCancelled():
                del self.theirs[event.request]
            case moq.RequestFinished() if event.request in self.theirs:
                del self.theirs[event.request]
            case moq.RequestFinished():
                assert self.asked.pop(event.request) == "probe"
            case moq.RequestRejected():
                assert 0 <= event.code <= MAX_CODE
                kind = self.asked.pop(event.request)
                assert kind != "announce"
                if kind == "subscribe":
                    self.ended.add(event.request)
            case moq.SubscriptionStarted():
                assert event.request not in self.started, "started twice"
                assert self.asked[event.request] == "subscribe"
                self.started.add(event.request)
            case moq.SubscriptionEnded() | moq.SubscriptionDropped():
                assert self.asked[event.request] == "subscribe"
                if isinstance(event, moq.SubscriptionEnded) and event.closed:
                    del self.asked[event.request]
                    self.ended.add(event.request)
            case moq.GroupData():
                assert self.asked.get(event.request) == "subscribe" or event.request in self.ended
                assert len({part.sequence for part in event.parts}) == len(event.parts)
            case moq.DatagramReceived():
                assert self.asked.get(event.request) == "subscribe" or event.request in self.ended
            case moq.InfoReceived():
                assert self.asked.pop(event.request) == "info"
            case moq.FetchedData():
                assert self.asked[event.request] == "fetch"
                if event.part.fin:
                    del self.asked[event.request]
            case moq.ProbeReceived():
                assert self.asked[event.request] == "probe"
            case moq.AnnouncementsEnded():
                assert self.asked.pop(event.request) == "announce"
            case (
                moq.Announced() | moq.Unannounced() | moq.AnnouncementsStarted() | moq.AnnouncementsComplete()
            ):
                assert self.asked[event.request] == "announce"

    def flush(self) -> None:
        """Hand the events of one turn to the session."""
        pending, self.pending = self.pending, []
        if pending:
            self.moq.receive(pending, self.now)

    def finish(self) -> None:
        self.flush()
        self.check()
        if self.moq.state is State.ESTABLISHED:
            serving = self.moq.serving
            waiting = [answer.stream for answer in serving._answers.values()]
            for stream in self.session.streams:
                if stream.peer_over and not stream.unidirectional and stream not in waiting:
                    assert stream.over, (
                        f"stream {stream.id} of {stream.asked or 'the peer'} is left half open"
                    )
            self.read_all()
            self.moq.close(0, "enough")
            self.check()
        if self.told:
            self.moq.receive([Pong(), DatagramReceived(b""), SessionClosed(0, "", by_peer=True)], self.now)
            self.moq.on_time(self.now + 100.0)
            self.check()

    def read_all(self) -> None:
        """Parse the writes as a peer does."""
        version = self.moq.version
        for stream in self.session.streams:
            if not stream.written:
                continue
            decoder: Any
            if stream.unidirectional:
                decoder = UniDecoder(version, 1 << 20, 1 << 16)
            elif not stream.opened_by_peer:
                decoder = RequestDecoder(version, 1 << 16) if stream.asked else None
            else:
                make = ANSWERS.get(stream.asked)
                decoder = None if make is None else make(version, 1 << 20)
            if decoder is not None:
                decoder.feed(stream.written)
                if stream.finished:
                    decoder.end()

    # --- the peer

    def some_stream(self, suits: Callable[[FuzzStream], bool]) -> FuzzStream | None:
        found = [stream for stream in self.session.streams if suits(stream)]
        return found[-1 - self.source.byte() % len(found)] if found else None

    def send(self, stream: FuzzStream, data: bytes, *, fin: bool) -> None:
        stream.peer_over = fin
        if (data or fin) and not stream.stopped:
            self.pending.append(StreamData(stream, data, fin))

    def open(self, data: bytes, *, unidirectional: bool, fin: bool, asked: str = "") -> FuzzStream | None:
        if len(self.session.streams) >= STREAMS:
            return None
        stream = self.session.add(unidirectional=unidirectional, by_peer=True)
        stream.asked = asked
        self.send(stream, data or b"\0", fin=fin)
        return stream

    def peer_raw(self) -> None:
        source = self.source
        self.open(source.chunk(), unidirectional=source.flag(), fin=source.flag())

    def peer_floods(self) -> None:
        self.open(self.source.chunk() + bytes(FLOOD), unidirectional=self.source.flag(), fin=False)

    def peer_writes(self) -> None:
        stream = self.some_stream(lambda each: not each.peer_over)
        if stream is not None:
            data = self.source.chunk()
            self.send(stream, data, fin=self.source.flag())

    def peer_resets(self) -> None:
        stream = self.some_stream(lambda each: not each.peer_over)
        if stream is not None:
            stream.peer_over = True
            self.pending.append(StreamReset(stream, self.code()))

    def peer_stops(self) -> None:
        stream = self.some_stream(lambda each: not each.over or each.unsent > 0)
        if stream is not None:
            stream.over, stream.finished, stream.unsent = True, False, 0
            self.pending.append(StreamStopped(stream, self.code()))

    def peer_datagram(self) -> None:
        data = self.source.chunk()
        with suppress(ValueError):
            if self.source.flag():
                numbers = self.known_id(), self.source.number(), self.source.number()
                data = Datagram(*numbers, data).encode(Version.LITE_05)
        self.pending.append(DatagramReceived(data))

    def peer_pong(self) -> None:
        self.pending.append(Pong())

    def peer_closes(self) -> None:
        self.session.closed = True
        code = self.source.pick((0, 70, None))
        self.pending.append(SessionClosed(code, "", by_peer=self.source.flag()))

    def peer_reads(self) -> None:
        for stream in self.session.streams:
            stream.unsent = 0
        serving = self.moq.serving
        self.allowed = LIMITS.backlog_session + OFFERS * (
            1 + len(serving._deliveries) + len(serving._answers) + len(serving._writers)
        )

    def peer_set_up(self) -> None:
        source, version = self.source, self.moq.version
        form = source.pick(tuple(SetupForm))
        with suppress(ValueError):
            if version.has_setup_stream:
                path = source.pick((None, "/demo", "/?jwt=x"))
                setup = Setup(source.pick((None, 1)), path, None, None, source.pick((5, 0, 77, None)))
                self.open(setup_stream(version, setup), unidirectional=True, fin=source.flag())
            elif not self.session.is_client:
                codes = tuple(Version(each).setup_code for each in source.pick(((1,), (2, 1), (5, 2))))
                self.open(
                    ClientSetup(form, codes, {}).encode(), unidirectional=False, fin=False, asked="setup"
                )
            else:
                stream = self.some_stream(lambda each: not each.opened_by_peer and not each.peer_over)
                if stream is not None:
                    code = source.pick((Version.LITE_01, Version.LITE_02)).setup_code
                    self.send(stream, ServerSetup(form, code, {}).encode(), fin=source.flag())

    def peer_bitrate(self) -> None:
        stream = self.some_stream(lambda each: not each.unidirectional and not each.peer_over)
        if stream is not None:
            with suppress(ValueError):
                self.send(stream, SessionInfo(self.source.number()).encode(self.moq.version), fin=False)

    def bounds(self) -> dict[str, Any]:
        source = self.source
        if source.flag():
            return {}
        return {
            "priority": source.byte(),
            "ordered": source.flag(),
            "max_latency": source.pick((0, 50, 2**40)),
            "start_group": source.pick((None, 0, 1, 9)),
            "end_group": source.pick((None, 3, 9)),
            "end_frame": source.pick((None, 0, 2)),
            "start_frame": source.pick((0, 1)),
        }

    def peer_asks(self) -> None:
        source = self.source
        path, track = source.pick(PATHS), source.pick(TRACKS)
        kind = source.pick(("subscribe", "announce", "info", "fetch", "probe", "goaway"))
        message: Any
        match kind:
            case "subscribe":
                message = Subscribe(source.byte() % 8, path, track, **self.bounds())
            case "announce":
                message = AnnounceRequest(path, exclude_hop=source.byte())
            case "info":
                message = TrackRequest(path, track)
            case "fetch":
                message = Fetch(path, track, source.byte(), source.number())
            case "probe":
                message = ProbeRequest()
            case _:
                message = Goaway(source.text(20))
        with suppress(ValueError):
            data = open_request(self.moq.version, message)
            self.open(data, unidirectional=False, fin=source.flag(), asked=kind)

    def peer_updates(self) -> None:
        stream = self.some_stream(lambda each: each.asked == "subscribe" and not each.peer_over)
        if stream is not None and stream.opened_by_peer:
            with suppress(ValueError):
                update = SubscribeUpdate(**self.bounds()).encode(self.moq.version)
                self.send(stream, update, fin=self.source.flag())

    def known_id(self) -> int:
        known = tuple(self.moq.requests._by_id)
        return self.source.pick(known) if known and self.source.byte() < 200 else self.source.number()

    def frames(self) -> bytes:
        source, timed = self.source, self.moq.version.has_timestamps
        data = b""
        for _ in range(source.byte() % 4):
            payload = source.chunk()
            size = len(payload) + (source.byte() % 3 == 1)  # sometimes the last byte comes later, or never
            data += frame_header_timed(source.byte(), size) if timed else frame_header_plain(size)
            data += payload
        return data

    def peer_group(self) -> None:
        source, version = self.source, self.moq.version
        header = GroupHeader(self.known_id(), source.byte() % 16, source.byte() % 2)
        data = group_header(version, header) + self.frames()
        self.open(data, unidirectional=True, fin=source.flag())

    def peer_goes_on(self) -> None:
        stream = self.some_stream(lambda each: each.unidirectional and not each.peer_over)
        if stream is not None:
            self.send(stream, self.frames(), fin=self.source.flag())

    def peer_answers(self) -> None:
        stream = self.some_stream(
            lambda each: bool(each.asked) and not each.opened_by_peer and not each.peer_over
        )
        if stream is None:
            return
        source = self.source
        number, path = source.number(), source.pick(PATHS)
        hops = tuple(range(source.byte() % 5))
        answers: dict[str, Sequence[Any]] = {
            "subscribe": (SubscribeOk(group=number), SubscribeEnd(number), SubscribeDrop(number, number, 1)),
            "announce": (
                AnnounceInit((path, "x")),
                AnnounceOk(number, source.byte() % 4),
                AnnounceActive(path, hops, len(hops), number, number),
                AnnounceActive(path, hops, len(hops), restart=True),
                AnnounceEnded(path, number),
                AnnounceUpdate(number, hops),
            ),
            "info": (TrackInfo(1, ordered=False, max_latency=number, timescale=1000),),
            "probe": (Probe(number, 1),),
        }
        with suppress(ValueError):
            if stream.asked == "fetch":
                data = self.frames()
            else:
                data = source.pick(answers[stream.asked]).encode(self.moq.version)
            self.send(stream, data, fin=source.flag())

    def code(self) -> int:
        return self.source.pick((0, *EDGES)) & MAX_CODE

    # --- the owner

    def ask(self, kind: str, command: Callable[[], int]) -> None:
        """ValueError if the version lacks the request."""
        if self.moq.state not in (State.OPEN, State.ESTABLISHED) or len(self.session.streams) >= STREAMS:
            return
        count = len(self.session.streams)
        try:
            request = command()
        except ValueError:
            assert kind in ("info", "fetch", "probe"), kind
            assert len(self.session.streams) == count, "a stream was opened in vain"
            return
        self.asked[request] = kind
        (stream,) = self.session.streams[count:]
        stream.asked = kind
        self.allowed += OFFERS

    def own_requests(self) -> None:
        source, requests = self.source, self.moq.requests
        path, track = source.pick(PATHS), source.pick(TRACKS)
        kind = source.pick(("subscribe", "announce", "info", "fetch", "probe"))
        self.ask(
            kind,
            {
                "subscribe": lambda: requests.subscribe(path, track, self.params()),
                "announce": lambda: requests.request_announcements(path),
                "info": lambda: requests.request_info(path, track),
                "fetch": lambda: requests.fetch(path, track, source.byte(), start_frame=source.byte() % 2),
                "probe": requests.probe,
            }[kind],
        )

    def params(self) -> SubscribeParams:
        source = self.source
        if source.flag():
            return SubscribeParams()
        end = source.pick((None, 5))
        return SubscribeParams(
            source.byte(),
            ordered=source.flag(),
            latency_ms=source.pick((0, 100)),
            history_ms=source.pick((0, 100)),
            start_group=source.pick((None, 0, 4)),
            end_group=end,
            start_frame=source.byte() % 2,
            end_frame=None if end is None else source.pick((None, 3)),
        )

    def own(self) -> int | None:
        known = [*self.asked, *self.ended]
        return self.source.pick(known) if known else None

    def own_update(self) -> None:
        request = self.own()
        if request is not None:
            try:
                self.moq.requests.update(request, self.params())
            except ValueError:
                assert not self.moq.version.has_updates
            self.allowed += LIMITS.message

    def own_cancel(self) -> None:
        request = self.own()
        if request is not None:
            self.moq.requests.cancel(request, self.source.pick((None, 0, 70)))
            self.asked.pop(request, None)
            self.ended.discard(request)

    def own_stop_group(self) -> None:
        request = self.own()
        if request is not None:
            self.moq.requests.stop_group(request, self.source.byte() % 16, self.code())

    def their(self, *kinds: type[Any]) -> int | None:
        found = [request for request, event in self.theirs.items() if isinstance(event, kinds)]
        return self.source.pick(found) if found else None

    def offer(self, path: str) -> moq.Offer:
        source = self.source
        return moq.Offer(
            path, Route(tuple(range(1, 1 + source.byte() % 34)), source.byte()), source.byte() % 3
        )

    def serve_announcements(self) -> None:
        source, serving = self.source, self.moq.serving
        request = self.their(moq.AnnounceRequested)
        if request is None:
            return
        prefix = self.theirs[request].prefix
        path = join(prefix, source.pick(("cam", "", "mic/low", "x" * 100)))
        if request not in self.announcing:
            self.announcing.add(request)
            self.allowed += OFFERS * 3
            serving.announce_initial(
                request, [self.offer(join(prefix, name)) for name in ("a", "b", "a")[: source.byte() % 4]]
            )
        else:
            serving.announce(request, path, self.offer(path) if source.flag() else None)

    def serve_accept(self) -> None:
        request = self.their(moq.SubscribeRequested)
        if request is not None:
            self.moq.serving.accept(request)

    def frame(self, payload: bytes) -> bytes:
        timed = self.moq.version.has_timestamps
        return (frame_header_timed(1, len(payload)) if timed else frame_header_plain(len(payload))) + payload

    def serve_groups(self) -> None:
        source = self.source
        request = self.their(moq.SubscribeRequested)
        if request is None:
            return
        sent = self.groups.setdefault(request, {})
        fragments: list[moq.GroupFragment] = []
        for _ in range(1 + source.byte() % 3):
            sequence = source.byte() % 16
            if any(fragment.sequence == sequence for fragment in fragments) or sent.get(sequence) is False:
                continue
            frame = self.frame(bytes(source.byte() * 4))
            code = source.pick((None, None, None, 0, 3))
            fin = code is None and source.flag()
            chunks = () if code is not None else (frame,)
            fragments.append(moq.GroupFragment(sequence, sequence not in sent, 0, chunks, fin, code))
            sent[sequence] = not fin and code is None
        self.moq.serving.send_group(request, tuple(fragments), self.now)

    def serve_datagram(self) -> None:
        request = self.their(moq.SubscribeRequested)
        if request is not None:
            self.moq.serving.send_datagram(
                request, self.source.byte(), self.source.byte(), self.source.chunk()
            )

    def serve_end(self) -> None:
        request = self.their(moq.SubscribeRequested)
        if request is not None and -1 not in self.groups.get(request, {}):
            # nothing can be written after it: the sequences are used up
            self.groups[request] = dict.fromkeys(range(-1, 16), False)
            self.moq.serving.end_track(request, self.source.number() & 0xFFFF, self.now, [(1, 2)])

    def serve_answer(self) -> None:
        source, serving = self.source, self.moq.serving
        request = self.their(moq.InfoRequested, moq.FetchRequested)
        if request is None:
            return
        if isinstance(self.theirs[request], moq.InfoRequested):
            serving.send_info(
                request, TrackProperties(source.byte(), ordered=False, max_latency_ms=1, timescale=9)
            )
            del self.theirs[request]
            return
        fin = source.flag()
        if fin:
            del self.theirs[request]  # may be cancelled within the call, without an event
        before = set(self.theirs)
        serving.send_fetched(request, (self.frame(bytes(source.byte() * 8)),), fin=fin)
        assert before <= set(self.theirs)

    def serve_rejection(self) -> None:
        request = self.their(object)
        if request is not None:
            del self.theirs[request]
            self.moq.serving.reject(request, self.code())

    def admit(self) -> None:
        if self.introduced:
            self.moq.setup.admit(self.now)

    def check_alive(self) -> None:
        if not self.moq.closed:
            self.moq.alive.begin(self.now)

    def goaway(self) -> None:
        if self.moq.state is State.ESTABLISHED and not self.leaving:
            self.leaving = True
            assert self.moq.requests.goaway("x") == self.moq.version.has_goaway
            self.allowed += OFFERS

    def close(self) -> None:
        if self.source.byte() % 4 == 0:
            self.moq.close(self.code(), self.source.text(20))

    def time(self) -> None:
        self.now += self.source.byte() / 32
        self.moq.on_time(self.now)
        self.moq.on_time(self.now)  # the first check of an end may be due at once, no later one
        assert self.moq.deadline > self.now

    def time_to_deadline(self) -> None:
        if self.moq.deadline < moq.NEVER:
            self.now = max(self.now, self.moq.deadline)
            self.moq.on_time(self.now)


PEER = (
    Play.peer_raw, Play.peer_writes, Play.peer_resets, Play.peer_stops, Play.peer_datagram, Play.peer_pong,
    Play.peer_closes, Play.peer_reads, Play.peer_set_up, Play.peer_bitrate, Play.peer_asks, Play.peer_updates,
    Play.peer_floods, Play.peer_group, Play.peer_goes_on, Play.peer_answers,
)  # fmt: skip
OWNER = (
    Play.own_requests, Play.own_update, Play.own_cancel, Play.own_stop_group, Play.serve_announcements,
    Play.serve_accept, Play.serve_groups, Play.serve_datagram, Play.serve_end, Play.serve_answer,
    Play.serve_rejection, Play.admit, Play.check_alive, Play.goaway, Play.close, Play.time, Play.time_to_deadline,
)  # fmt: skip
STEPS = (*PEER, *OWNER)
MOST_STEPS = 400

P = TypeVar("P", bound=Play)


def sessions(data: bytes) -> None:
    """Either side of a session of every version."""
    source = Source(data)
    version, is_client = source.pick((*VERSIONS, None)), source.flag()
    transport = source.pick(("webtransport", "quic", "memory"))
    by_setup = version is None or version.has_setup_exchange
    session = FuzzSession(
        version,
        is_client=is_client,
        transport=transport,
        alpn=source.pick(("moql", "moql-01", "")) if by_setup else "",
        datagram_limit=source.pick((1160, 0)),
    )
    play = Play(
        source,
        session,
        hop=source.pick((77, 78, 0)),
        versions=source.pick((VERSIONS, (Version.LITE_01,), (Version.LITE_02, Version.LITE_06))),
        admitted=source.flag(),
        options=Options(probe=source.pick((None, 1)), waits_for_setup=source.flag()),
    )
    run(play, source, PEER, STEPS)


def run(
    play: P, source: Source, peer: Sequence[Callable[[P], None]], steps: Sequence[Callable[[P], None]]
) -> None:
    """Take `steps`, as the input says; those of the `peer` may share a turn."""
    play.moq.start(play.now)
    play.check()
    for _ in range(MOST_STEPS):
        if not source:
            break
        number = source.byte()
        step = steps[number % 128 % len(steps)]
        if step in peer and number < 128:
            if not play.session.closed:
                step(play)  # further events of the same turn
            continue
        play.flush()
        play.check()
        if not play.session.closed:
            step(play)
            play.flush()
            play.check()
    play.finish()


class Pair(Generic[P]):
    """Two joined sessions: bytes arrive late, in slices, at a different pace per stream."""

    def __init__(self, source: Source, plays: tuple[P, P]) -> None:
        self.source = source
        self.plays = plays
        for play in self.plays:
            play.joined = True
            play.moq.start(0.0)
            play.check()

    def move(self, number: int, size: int) -> bool:
        """At most `size` bytes of each stream of one side. False if there were none."""
        here, there = self.plays[number], self.plays[1 - number]
        if there.told:
            return False
        before = len(there.pending)
        for stream in here.session.streams:
            self.move_stream(stream, there, size)
        there.pending += map(DatagramReceived, here.session.datagrams)
        here.session.datagrams.clear()
        if here.told and not there.session.closed:
            there.session.closed = True
            there.pending.append(SessionClosed(0, "", by_peer=True))
        moved = len(there.pending) > before
        there.flush()
        there.check()
        return moved

    def move_stream(self, stream: FuzzStream, there: P, size: int) -> None:
        if stream.stop_code is not None and stream.twin is not None:
            code, stream.stop_code = stream.stop_code, None
            twin = stream.twin
            if not twin.over or twin.unsent:
                twin.over, twin.finished, twin.unsent, twin.moved = True, False, 0, len(twin.written)
                there.pending.append(StreamStopped(twin, code))
        data = stream.written[stream.moved : stream.moved + size] if stream.reset_code is None else b""
        fin = stream.finished and stream.moved + len(data) == len(stream.written) and not stream.moved_end
        if stream.twin is None and (data or fin):
            stream.twin = there.session.add(unidirectional=stream.unidirectional, by_peer=True)
            stream.twin.twin, stream.twin.asked = stream, stream.asked
        stream.moved += len(data)
        stream.unsent = max(0, stream.unsent - len(data))
        stream.moved_end |= fin
        if stream.twin is not None and not stream.twin.peer_over:
            there.send(stream.twin, data, fin=fin)
            if stream.reset_code is not None:
                stream.twin.peer_over = True
                there.pending.append(StreamReset(stream.twin, stream.reset_code))

    def move_all(self) -> None:
        while any([self.move(0, 1 << 20), self.move(1, 1 << 20)]):
            pass

    def finish(self) -> None:
        """Deliver everything; no session may have found a fault."""
        self.move_all()
        for play in self.plays:
            play.finish()


AMPLE = Limits(cache_groups=4, cache_age=1.0, backlog_groups=2, backlog_bytes=2048, backlog_session=8192)
"""Parser limits that no owner reaches."""

SLICES = (1, 7, 100, 1 << 20)


def pairs(data: bytes) -> None:
    """If both owners keep the rules, neither session finds a fault."""
    source = Source(data)
    version = source.pick(VERSIONS)
    plays = [
        Play(
            source,
            FuzzSession(version, is_client=is_client),
            AMPLE,
            hop=hop,
            versions=(version,),
            admitted=True,
        )
        for is_client, hop in ((True, 77), (False, 78))
    ]
    pair = Pair(source, (plays[0], plays[1]))
    act(pair, OWNER)
    pair.finish()


def act(pair: Pair[P], owner: Sequence[Callable[[P], None]]) -> None:
    """Take steps of either owner, and move bytes, as the input says."""
    source = pair.source
    for _ in range(MOST_STEPS):
        if not source:
            break
        number = source.byte()
        side = number & 1
        step = number // 2 % (len(owner) + 8)
        if step >= len(owner):
            pair.move(side, SLICES[step % len(SLICES)])
            continue
        play = pair.plays[side]
        if not play.session.closed:
            owner[step](play)
            play.flush()
            play.check()


TARGETS = {"moq-sessions": sessions, "moq-pairs": pairs}
