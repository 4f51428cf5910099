"""A peer driven by hand, one wire message at a time, in any version."""

from __future__ import annotations

from typing import Any

from relay.actors.runtime import Ref
from relay.transport.memory import MemorySession
from relay.transport.session import (
    DatagramReceived,
    Event,
    SessionClosed,
    Stream,
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
from relay.wire.control import Fetch, TrackInfo, TrackRequest
from relay.wire.decoder import AnnounceDecoder, RequestDecoder, SubscribeDecoder
from relay.wire.frame import FrameHeader, GroupHeader, Request, group_header, open_request, setup_stream
from relay.wire.frame_decoder import UniDecoder
from relay.wire.setup import ClientSetup, Setup, SetupForm
from relay.wire.subscribe import Subscribe, SubscribeEnd, SubscribeOk
from relay.wire.version import Version
from tests.actors.fakes import plain, timed
from tests.actors.recording import RecordingSession
from tests.clock import settle


class PeerStream:
    """One stream as the peer sees it."""

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
    def __init__(self, stream: Stream, version: Version) -> None:
        super().__init__(stream)
        self.version = version
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
                self.frames.append((item.timestamp if self.version.has_timestamps else None, b""))
            else:
                timestamp, payload = self.frames[-1]
                self.frames[-1] = (timestamp, payload + item)

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, payload in self.frames]


class RequestStream(PeerStream):
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
    """An Announce stream of the peer; fails if announcements do not alternate."""

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
    """It answers nothing by itself."""

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

    # commands of the peer

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
        """SETUP of the version; nothing on 03 and 04."""
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

    # the publishing side

    def announce_streams(self) -> list[RequestStream]:
        return [stream for stream in self.requests if isinstance(stream.request, AnnounceRequest)]

    def announcing(self, *, origin: int = 0) -> PeerStream:
        """The relay's Announce stream, after the version's first reply."""
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
        """Each TRACK request once."""
        reply = info or TrackInfo(127, ordered=False, max_latency=5000, timescale=1_000_000)
        for stream, _ in self.track_requests():
            if not stream.fins and not stream.resets and not getattr(stream, "answered", False):
                stream.answered = True  # type: ignore[attr-defined]
                stream.write(reply.encode(self.version), fin=True)

    def accept(self, stream: PeerStream, group: int = 0) -> None:
        """SUBSCRIBE_OK of the version."""
        stream.write(SubscribeOk(group=group).encode(self.version))

    def end_track(self, stream: PeerStream, final: int) -> None:
        """END where the version has one, and FIN."""
        end = SubscribeEnd(final).encode(self.version) if self.version >= Version.LITE_05 else b""
        stream.write(end, fin=True)

    def frames(self, *frames: bytes | tuple[int, bytes]) -> bytes:
        """Frames of this version; default times 0, 1, 2..."""
        pairs = [f if isinstance(f, tuple) else (n, f) for n, f in enumerate(frames)]
        if self.version >= Version.LITE_05:
            return timed(*pairs)
        return plain(*(payload for _, payload in pairs))

    def group(
        self, subscription: int, sequence: int, *frames: bytes | tuple[int, bytes], fin: bool = True
    ) -> PeerStream:
        header = group_header(self.version, GroupHeader(subscription, sequence))
        return self.uni(header + self.frames(*frames), fin=fin)

    # the consuming side

    def groups(self, subscription: int) -> list[GroupStream]:
        """By sequence: newer groups are sent first."""
        found = [g for g in self.incoming if g.header is not None and g.header.subscribe_id == subscription]
        return sorted(found, key=lambda group: group.header.sequence if group.header else 0)

    def replies(self, stream: PeerStream) -> list[Any]:
        """Received on a Subscribe stream of ours."""
        return list(SubscribeDecoder(self.version).feed(stream.data))

    def close(self, code: int = 0) -> None:
        self.session.close(code)


class SilentPeer(RawPeer):
    """It never sends a byte."""


async def follow_up(peer: RawPeer, *, grace: int = 2) -> None:
    """Answer the relay's TRACK requests as they arrive."""
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
