"""A whole session of moq-transport: peer and owner act in any order, while time passes.

As in `moq`, but for the writing of messages: no exception, `Closed` is the last event, and nothing is written after it;
events follow the life of their request; tables and unsent objects are bounded; all that was sent can be parsed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from fuzz.source import Source
from fuzz.targets.moq import LIMITS, OWNER, PATHS, TRACKS, FuzzSession, FuzzStream, Play, run
from relay.model.group import Object, Subgroup
from relay.model.limits import Limits
from relay.model.path import join
from relay.model.track import TrackProperties
from relay.moq import session as moq
from relay.moq.core import State
from relay.moq.encoding import encoder_of
from relay.moq.ietf import MOST_PARKED, IetfSession
from relay.moq.ietf_announce import MOST_UPDATES
from relay.moq.ietf_core import PROFILES
from relay.moq.ietf_names import namespace_of
from relay.moq.ietf_requests import EARLY_STREAMS
from relay.moq.session import Offer
from relay.moq.setup import HELD_BYTES, Options
from relay.transport.session import DatagramReceived
from relay.wire.errors import WireError
from relay.wire.frame import FrameHeader
from relay.wire.ietf import messages as wire
from relay.wire.ietf.codes import RequestKind
from relay.wire.ietf.control import MessageDecoder, encode
from relay.wire.ietf.data import (
    FetchObject,
    ObjectDatagram,
    ObjectHeader,
    ObjectStatus,
    SubgroupHeader,
)
from relay.wire.ietf.decoder import UniDecoder
from relay.wire.ietf.parameters import NO_PARAMETERS, Parameters
from relay.wire.ietf.streams import (
    FetchEncoder,
    encode_datagram,
    fetch_header,
    object_header,
    subgroup_header,
)
from relay.wire.ietf.values import (
    AbsoluteRange,
    Filter,
    GroupOrder,
    Location,
    NextObject,
    Properties,
    RelativeGroup,
    Token,
    TokenKind,
    TrackNamespace,
    Unfiltered,
)
from relay.wire.version import Draft

DRAFTS = tuple(Draft)

NAMES: tuple[TrackNamespace, ...] = (
    *(namespace_of(path) for path in PATHS if path),
    (),
    (b"a/b",),
    (b"\xff", b"x"),
)

MESSAGES = 64_000
"""Bytes of answers on request streams that a peer may leave unread: their number has a rate."""


class IetfPlay(Play):
    """A session, its peer and its owner, driven by one input."""

    moq: Any

    def __init__(self, source: Source, session: FuzzSession, draft: Draft, **options: Any) -> None:
        limits: Limits = options.pop("limits", LIMITS)
        super().__init__(source, session, limits, hop=77, versions=(), admitted=True)
        self.moq = IetfSession(session, limits=limits, hop=77, version=draft, **options)
        self.profile = PROFILES[draft]
        self.control: FuzzStream | None = None
        """On which the peer writes."""
        self.next_id = 1 if session.is_client else 0
        self.objects: dict[FuzzStream, int | None] = {}
        """Our own streams of objects, with the last id."""
        self.accepted: set[int] = set()
        self.encoders: dict[tuple[int, int], Any] = {}
        self.offered: dict[int, bool] = {}
        """Requests with a token that wait."""

    # --- checks

    def check(self) -> None:
        for event in self.moq.poll():
            assert not self.told, f"{event} after the end"
            self.on_event(event)
        if self.moq.closed:
            assert self.told, "no event tells of the end"
            assert self.moq.deadline == moq.NEVER
            return
        assert self.moq.setup.held._bytes <= HELD_BYTES + 2 * 16_384
        data = sum(stream.unsent for stream in self.session.streams if stream.unidirectional)
        assert data <= self.allowed, (data, self.allowed)
        assert self.session.unsent - data <= MESSAGES
        self.check_tables()

    def check_tables(self) -> None:
        serving, requests = self.moq.serving, self.moq.requests
        for delivery in serving._asking.values():
            assert serving._deliveries.get(delivery.request) is delivery
        assert set(serving._awaiting) <= set(serving._deliveries)
        assert not any(fetch._over for fetch in serving._fetches.values())
        assert serving._ending <= set(serving._deliveries)
        assert len(self.moq._parked) <= MOST_PARKED
        assert len(requests._early) <= EARLY_STREAMS
        ours = len(self.asked) + len(self.ended)
        assert set(requests._questions) <= set(self.asked)
        assert set(requests._group_fetches) <= set(self.asked)
        assert len(requests._subscriptions) <= ours
        assert not requests.fresh
        for writer in serving._writers.values():
            assert len(getattr(writer, "_updates", ())) <= MOST_UPDATES
        if self.profile.request_streams:
            live = sum(not stream.peer_over or not stream.over for stream in self.session.streams)
            asked = [d for d in serving._deliveries.values() if d.exchange.stream.opened_by_peer]
            assert len(asked) + len(serving._writers) - len(serving._awaiting) <= live
            assert len(self.moq.exchanges._live) <= live

    def on_event(self, event: moq.Event) -> None:
        match event:
            case moq.TokenOffered():
                self.offered[event.request] = True
            case moq.TracksRequested():
                self.theirs[event.request] = event
            case moq.RequestCancelled() | moq.RequestFinished():
                self.theirs.pop(event.request, None)  # some end before our owner hears of them
                self.accepted.discard(event.request)
            case moq.FetchedData():
                assert self.asked[event.request] == "fetch"
                if event.part.fin:
                    del self.asked[event.request]
            case moq.AnnouncementsEnded():
                assert self.asked.pop(event.request) == "announce"
            case moq.RequestRejected():
                if self.asked.pop(event.request) == "subscribe":
                    self.ended.add(event.request)
            case moq.SubscriptionEnded():
                assert self.asked.pop(event.request) == "subscribe"
                self.ended.add(event.request)
            case _:
                super().on_event(event)

    def finish(self) -> None:
        self.flush()
        self.check()
        self.read_all()
        if not self.moq.closed:
            self.moq.close(0, "enough")
            self.check()
        self.moq.receive([DatagramReceived(b"")], self.now)
        self.moq.on_time(self.now + 100.0)
        self.check()

    def read_all(self) -> None:
        for stream in self.session.streams:
            if not stream.unidirectional:
                MessageDecoder(self.profile).feed(stream.written)
            elif stream.written:
                try:
                    self.read(stream, descending=False)
                except WireError:
                    self.read(stream, descending=True)

    def read(self, stream: FuzzStream, *, descending: bool) -> None:
        decoder = UniDecoder(self.profile, 1 << 20, lambda _: descending)
        decoder.feed(stream.written)
        if stream.finished:
            decoder.end()

    # --- the peer

    def known_id(self) -> int:
        return self.source.pick((9, 0, 1, 2, 3, 5, 7, self.source.byte()))

    def own_id(self) -> int:
        if self.source.byte() > 250:
            return self.known_id()
        self.next_id += 2
        return self.next_id - 2

    def peer_set_up(self) -> None:
        source, profile = self.source, self.profile
        if self.control is not None and source.byte() < 250:
            return
        setup = wire.Setup(
            path=source.pick((None, "/demo", "/?jwt=x")),
            tokens=source.pick(((), (Token(b"a.b.c"),))),
            max_request_id=source.pick((100, 1, None)),
            versions=(profile.setup_code,) if profile.versions_in_setup else (),
            from_server=self.session.is_client,
        )
        if profile.request_streams:
            setup = replace(setup, max_request_id=None)
        data = encode(setup, profile)
        if profile.request_streams or not self.session.is_client:
            self.control = self.open(data, unidirectional=profile.request_streams, fin=False)
        else:
            self.control = self.some_stream(lambda each: not each.unidirectional and not each.opened_by_peer)
            if self.control is not None:
                self.send(self.control, data, fin=False)

    def parameters(self) -> Parameters:
        source = self.source
        fixed: dict[str, Any] = {"expires": 0} if self.profile.fixed_fields else {}
        if source.flag():
            return Parameters(**fixed) if fixed else NO_PARAMETERS
        return Parameters(
            **fixed,
            forward=source.pick((None, True, False)),
            priority=source.pick((None, 0, 128, 255)),
            largest=source.pick((None, Location(source.byte() % 8, source.byte() % 8))),
            filter=source.pick((None, self.filter())),
            order=source.pick((None, *GroupOrder)),
            tokens=source.pick(((), (), (), (Token(b"a.b.c"),), (Token(kind=TokenKind.USE_ALIAS, alias=1),))),
            delivery_timeout=source.pick((None, 50)),
            rendezvous_timeout=source.pick((None, 500)) if self.profile.request_streams else None,
            fill=Parameters(filter=self.filter()) if self.profile.has_fill and source.flag() else None,
            prefix=source.pick((None, source.pick(NAMES))) if self.profile.request_streams else None,
        )

    def filter(self) -> Filter:
        source = self.source
        start = Location(source.byte() % 8, source.byte() % 3)
        end = source.pick((None, start.group, start.group + 3))
        last = None if end is None else source.pick((None, 1))
        filters: tuple[Filter, ...] = (
            AbsoluteRange(start, end, last),
            NextObject(),
            RelativeGroup(source.byte() % 4),
            Unfiltered(),
        )
        return source.pick(filters)

    def request(self, kind: int) -> wire.Message:
        source, number = self.source, self.own_id()
        name, track, params = source.pick(NAMES), source.pick(TRACKS).encode(), self.parameters()
        requests: tuple[Callable[[], wire.Message], ...] = (
            lambda: wire.Subscribe(number, name, track, params),
            lambda: wire.SubscribeNamespace(number, name, params, interest=source.pick(tuple(wire.Interest))),
            lambda: wire.Fetch(number, name, track, self.filter(), params),
            lambda: wire.JoiningFetch(number, self.known_id(), source.byte() % 8, source.flag(), params),
            lambda: wire.Publish(number, name, track, source.byte() % 16, params),
            lambda: wire.PublishNamespace(number, name, params),
            lambda: wire.SubscribeTracks(number, name, params),
            lambda: wire.TrackStatus(number, name, track, params),
        )
        return requests[kind % len(requests)]()

    def reply(self, kind: int) -> wire.Message:
        source, number = self.source, self.known_id()
        to = source.pick(tuple(RequestKind))
        replies: tuple[Callable[[], wire.Message], ...] = (
            lambda: wire.SubscribeOk(source.byte() % 16, self.parameters(), request_id=number),
            lambda: wire.RequestOk(self.parameters(), request_id=number, to=to),
            lambda: wire.RequestUpdate(self.own_id(), self.parameters(), number),
            lambda: wire.RequestError(source.byte(), request_id=number, to=to),
            lambda: wire.FetchOk(source.byte(), source.pick((None, 1)), request_id=number),
            lambda: wire.PublishDone(source.byte() % 10, source.number(), request_id=number),
            lambda: wire.Namespace(source.pick(NAMES)),
            lambda: wire.NamespaceDone(source.pick(NAMES)),
            lambda: wire.Unsubscribe(number),
            lambda: wire.FetchCancel(number),
            lambda: wire.PublishNamespaceDone(source.pick(NAMES), number),
            lambda: wire.UnsubscribeNamespace(source.pick(NAMES)),
            lambda: wire.MaxRequestId(source.number()),
            lambda: wire.Goaway(source.pick(("", "x"))),
        )
        return replies[kind % len(replies)]()

    def encoded(self, message: wire.Message) -> bytes | None:
        """`None` if the draft lacks it."""
        try:
            return encode(message, self.profile)
        except ValueError:
            return None

    def peer_asks(self) -> None:
        message = self.request(self.source.byte())
        data, fin = self.encoded(message), self.source.byte() > 240
        if data is None:
            return
        spaces = isinstance(message, wire.SubscribeNamespace) and self.profile.namespace_streams
        if self.profile.request_streams or spaces:
            self.open(data, unidirectional=False, fin=fin)
        elif self.control is not None and not self.control.peer_over:
            self.send(self.control, data, fin=False)

    def peer_replies(self) -> None:
        self.reply_on_some(self.reply(self.source.byte()))

    def peer_turns(self) -> None:
        prefix = self.source.pick(NAMES)
        if self.profile.request_streams:
            self.reply_on_some(wire.RequestUpdate(self.own_id(), Parameters(prefix=prefix)))

    def reply_on_some(self, message: wire.Message) -> None:
        data = self.encoded(message)
        number, fin = self.source.byte(), self.source.byte() > 230
        stream: FuzzStream | None = self.control
        if self.profile.request_streams and not isinstance(message, wire.Goaway):
            found = [each for each in self.session.streams if not each.unidirectional and not each.peer_over]
            stream = found[-1 - number % len(found)] if found else None
        if data is not None and stream is not None and not stream.peer_over:
            self.send(stream, data, fin=fin)

    def written(self, stream: FuzzStream) -> bytes:
        """More objects of a subgroup."""
        source, data = self.source, b""
        for _ in range(source.byte() % 4):
            before = self.objects[stream]
            number = (0 if before is None else before + 1) + source.pick((0, 0, 0, 1, 5))
            payload = source.chunk()
            status = (
                ObjectStatus.NORMAL
                if payload
                else source.pick((ObjectStatus.NORMAL, ObjectStatus.END_OF_GROUP))
            )
            known: tuple[Properties, ...] = (), ((0x10, number),), ((0x3D, b"x"),)
            properties = source.pick(known)
            size = len(payload) + (bool(payload) and source.byte() % 7 == 1)  # or the last byte comes later
            header = ObjectHeader(number, size, properties, status)
            with suppress(ValueError):
                data += object_header(header, before, self.profile, has_properties=True) + payload
                self.objects[stream] = number
        return data

    def peer_group(self) -> None:
        source = self.source
        header = SubgroupHeader(
            source.pick((9, 0, 1, source.byte() % 16)), source.byte() % 16, source.pick((0, 1, None)), 7,
            end_of_group=source.flag(), first_object=source.flag(), has_properties=True,
        )  # fmt: skip
        stream = self.open(subgroup_header(header, self.profile), unidirectional=True, fin=False)
        if stream is not None:
            self.objects[stream] = None
            self.send(stream, self.written(stream), fin=source.flag())

    def peer_goes_on(self) -> None:
        stream = self.some_stream(lambda each: each in self.objects and not each.peer_over)
        if stream is not None:
            self.send(stream, self.written(stream), fin=self.source.flag())

    def peer_fetched(self) -> None:
        source, encoder = self.source, FetchEncoder(self.profile, descending=False)
        data, group = fetch_header(self.known_id(), self.profile), source.byte() % 8
        for number in range(source.byte() % 4):
            payload = source.chunk()
            with suppress(ValueError):
                data += encoder.header(FetchObject(group, 0, number, 7, len(payload), ((0x10, number),)))
                data += payload
        self.open(data, unidirectional=True, fin=source.flag())

    def peer_datagram(self) -> None:
        source = self.source
        data = source.chunk()
        with suppress(ValueError):
            if source.flag():
                numbers = self.known_id(), source.byte() % 16, source.byte() % 2
                data = encode_datagram(ObjectDatagram(*numbers, data), self.profile)
        self.pending.append(DatagramReceived(data))

    # --- the owner

    def ask(self, kind: str, command: Callable[[], int]) -> None:
        if self.moq.state is not State.ESTABLISHED or len(self.session.streams) >= 128:
            return
        try:
            request = command()
        except ValueError:
            assert kind == "probe"
            return
        self.asked[request] = kind

    def own_update(self) -> None:
        request = self.own()
        if request is not None:
            self.moq.requests.update(request, self.params())

    def serve_accept(self) -> None:
        request = self.their(moq.SubscribeRequested)
        if request is not None:
            self.accepted.add(request)
            self.moq.serving.accept(request, self.source.pick((None, (3, 1), (0, 0))))

    def serve_groups(self) -> None:
        source = self.source
        request = self.their(moq.SubscribeRequested)
        if request not in self.accepted:
            return
        sent = self.groups.setdefault(request, {})
        fragments: list[moq.GroupFragment] = []
        for _ in range(1 + source.byte() % 3):
            sequence = source.byte() % 16
            if any(fragment.sequence == sequence for fragment in fragments) or sent.get(sequence) is False:
                continue
            first = sequence not in sent
            key = request, sequence
            if first:
                lanes = [
                    Subgroup(n, source.pick((None, 3)), starts=True, ends_group=source.flag()) for n in (0, 1)
                ]
                lanes[0].ends_group &= not lanes[1].ends_group
                self.encoders[key] = encoder_of(self.moq.encoding), [], lanes if source.flag() else []
            encoder, parts, lanes = self.encoders[key]
            payload, number = bytes(source.byte() * 4), len(parts)
            lane = source.pick(lanes) if lanes else None
            code = source.pick((None, None, None, 0, 3))
            fin = code is None and source.flag()
            if lane is not None:
                if fin:  # the last object is in the subgroup that says so
                    lane = next((each for each in lanes if each.ends_group), lane)
                parts.append(Object(number, len(payload), number, lane, ((0x10, number),)))
            else:
                parts.append(FrameHeader(number, len(payload)))
            if payload:
                parts.append(payload)
            chunks = () if code is not None else tuple(encoder.take(parts))
            fragments.append(moq.GroupFragment(sequence, first, 0, chunks, fin, code))
            sent[sequence] = not fin and code is None
        self.moq.serving.send_group(request, tuple(fragments), self.now)

    def serve_datagram(self) -> None:
        request = self.their(moq.SubscribeRequested)
        if request in self.accepted:
            chunk = self.source.chunk()
            self.moq.serving.send_datagram(request, self.source.byte(), self.source.byte(), chunk)

    def serve_end(self) -> None:
        if self.accepted & set(self.theirs):
            super().serve_end()

    def serve_answer(self) -> None:
        source, serving = self.source, self.moq.serving
        request = self.their(moq.InfoRequested, moq.FetchRequested)
        if request is None:
            return
        if isinstance(self.theirs[request], moq.InfoRequested):
            del self.theirs[request]
            largest = source.pick((None, (3, 1), (0, 0)))
            serving.send_info(request, TrackProperties(source.byte(), ordered=source.flag()), largest)
            return
        fin = source.flag()
        if fin:
            del self.theirs[request]
        payload = bytes(source.byte() * 8)
        parts: list[Any] = [FrameHeader(1, len(payload)), *([payload] if payload else [])]
        serving.send_fetched(request, tuple(parts), fin=fin)

    def serve_announcements(self) -> None:
        source, serving = self.source, self.moq.serving
        request = self.their(moq.AnnounceRequested)
        if request is None:
            return
        prefix = self.theirs[request].prefix
        path = join(prefix, source.pick(("cam", "", "mic/low", "x" * 100)))
        if request not in self.announcing:
            self.announcing.add(request)
            names = ("a", "b", "a")[: source.byte() % 4]
            serving.announce_initial(request, [Offer(join(prefix, name)) for name in names])
        else:
            serving.announce(request, path, Offer(path) if source.flag() else None)

    def serve_tracks(self) -> None:
        source = self.source
        request = self.their(moq.TracksRequested)
        if request is not None:
            path = join(self.theirs[request].prefix, source.pick(("cam", "mic")))
            self.moq.serving.offer_track(request, path, source.pick(TRACKS), offered=source.flag())

    def serve_offer(self) -> None:
        path = self.source.pick(("demo/cam", "other"))
        if self.moq.state is State.ESTABLISHED:
            self.moq.serving.offer(path, Offer(path) if self.source.flag() else None)

    def authorize(self) -> None:
        if self.offered:
            request = self.source.pick(tuple(self.offered))
            del self.offered[request]
            self.moq.authorized(request, granted=self.source.flag())

    def goaway(self) -> None:
        if self.moq.state is State.ESTABLISHED:
            self.moq.requests.goaway("x")


IETF_PEER = (
    IetfPlay.peer_asks, IetfPlay.peer_turns, IetfPlay.peer_replies, IetfPlay.peer_group, IetfPlay.peer_goes_on, IetfPlay.peer_fetched,
    IetfPlay.peer_datagram, IetfPlay.peer_set_up, IetfPlay.peer_raw, IetfPlay.peer_writes, IetfPlay.peer_resets,
    IetfPlay.peer_stops, IetfPlay.peer_pong, IetfPlay.peer_closes, IetfPlay.peer_reads,
)  # fmt: skip
IETF_OWNER = (
    *(getattr(IetfPlay, step.__name__) for step in OWNER),
    *(IetfPlay.serve_tracks, IetfPlay.serve_offer, IetfPlay.authorize),
)
IETF_STEPS: tuple[Callable[[IetfPlay], None], ...] = (*IETF_PEER, *IETF_OWNER)


def sessions(data: bytes) -> None:
    """Either side of a session of every draft."""
    source = Source(data)
    draft, is_client = source.pick(DRAFTS), source.flag()
    transport = source.pick(("webtransport", "quic", "memory"))
    session = FuzzSession(draft, is_client=is_client, transport=transport)
    play = IetfPlay(source, session, draft, admitted=source.flag(), options=Options())
    run(play, source, IETF_PEER, IETF_STEPS)


TARGETS = {"ietf-sessions": sessions}
