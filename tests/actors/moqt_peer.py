"""A peer of moq-transport driven by hand, one message at a time, in any draft, at a relay without sockets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from relay.actors.connection import ConnectionActor
from relay.auth.permissions import Permissions
from relay.model.limits import Limits
from relay.moq.ietf_core import PROFILES
from relay.transport.memory import memory_pair
from relay.transport.session import Event, SessionClosed, Stream, StreamData, StreamReset, StreamStopped
from relay.wire.ietf.control import MessageDecoder, encode
from relay.wire.ietf.data import ObjectHeader, SubgroupHeader
from relay.wire.ietf.messages import (
    Fetch,
    Message,
    Publish,
    PublishNamespace,
    Request,
    RequestError,
    Setup,
    Subscribe,
    SubscribeNamespace,
    SubscribeOk,
    SubscribeTracks,
    TrackStatus,
)
from relay.wire.ietf.messages import (
    Interest as InterestKind,
)
from relay.wire.ietf.parameters import Parameters
from relay.wire.ietf.streams import object_header, subgroup_header
from relay.wire.ietf.values import AbsoluteRange, Location, TrackNamespace
from relay.wire.version import Draft
from tests.actors.raw_peer import PeerStream
from tests.actors.recording import RecordingSession
from tests.actors.world import EVERYTHING, World


def namespace(path: str) -> TrackNamespace:
    return tuple(field.encode() for field in path.split("/")) if path else ()


class Asked:
    """A request of the peer. `messages`: what answers it."""

    def __init__(self, number: int, stream: PeerStream) -> None:
        self.number = number
        self.stream = stream
        self.messages: list[Message] = []

    @property
    def refused(self) -> int | None:
        """The code of REQUEST_ERROR."""
        return next((m.code for m in self.messages if isinstance(m, RequestError)), None)

    @property
    def accepted(self) -> bool:
        return bool(self.messages) and self.refused is None


class MessageStream(PeerStream):
    """A bidirectional stream of either side, or the relay's control stream."""

    def __init__(self, stream: Stream, draft: Draft) -> None:
        super().__init__(stream)
        self._decoder = MessageDecoder(PROFILES[draft])
        self.asked: Asked | None = None
        self.messages: list[Message] = []

    def feed(self, data: bytes) -> list[Message]:
        messages = self._decoder.feed(data)
        self.messages += messages
        return messages


class MoqtEnd:
    """The client's end of a session. `control`: the stream of its control messages."""

    def __init__(self, session: Any, draft: Draft, *, setup: bool = True) -> None:
        self.draft, self.profile = draft, PROFILES[draft]
        self.session = session
        self.closed: list[SessionClosed] = []
        self.requests: list[tuple[MessageStream, Request]] = []  # of the relay
        self.groups: list[PeerStream] = []  # data streams of the relay
        self.by_id: dict[int, Asked] = {}
        self._next = 0
        self.session.start(self._on_events)
        new = self.profile.request_streams
        self.control = MessageStream(self.session.open_uni() if new else self.session.open_bidi(), draft)
        if setup:
            self.set_up()

    def set_up(self, **options: Any) -> None:
        versions = (self.profile.setup_code,) if self.profile.versions_in_setup else ()
        most = None if self.profile.request_streams else 1_000_000
        self.control.write(self.encode(Setup(max_request_id=most, versions=versions, **options)))

    def close(self) -> None:
        self.session.close(0, "")

    # --- events

    def _on_events(self, events: tuple[Event, ...]) -> None:
        for event in events:
            match event:
                case StreamData():
                    stream = event.stream.context or self._accept(event.stream)
                    stream.data += event.data
                    stream.fins += event.fin
                    if isinstance(stream, MessageStream):
                        for message in stream.feed(event.data):
                            self._on_message(stream, message)
                case StreamReset():
                    if event.stream.context is not None:
                        event.stream.context.resets.append(event.code)
                case StreamStopped():
                    if event.stream.context is not None:
                        event.stream.context.stops.append(event.code)
                case SessionClosed():
                    self.closed.append(event)

    def _accept(self, stream: Stream) -> PeerStream:
        if not stream.unidirectional:
            return MessageStream(stream, self.draft)
        found = PeerStream(stream)
        self.groups.append(found)  # the first one is the relay's control stream, where that is unidirectional
        return found

    def _on_message(self, stream: MessageStream, message: Message) -> None:
        if isinstance(message, Request):
            self.requests.append((stream, message))
        elif stream.asked is not None:
            stream.asked.messages.append(message)
        elif (asked := self.by_id.get(getattr(message, "request_id", None) or 0)) is not None:
            asked.messages.append(message)

    # --- requests

    def encode(self, *messages: Message) -> bytes:
        return b"".join(encode(message, self.profile) for message in messages)

    def next_id(self) -> int:
        number = self._next
        self._next += 2
        return number

    def ask(self, message: Request) -> Asked:
        streams = self.profile.request_streams or (
            self.profile.namespace_streams and isinstance(message, SubscribeNamespace)
        )
        stream = MessageStream(self.session.open_bidi(), self.draft) if streams else self.control
        asked = self.by_id[message.request_id] = Asked(message.request_id, stream)
        if streams:
            stream.asked = asked
        stream.write(self.encode(message))
        return asked

    def subscribe(self, path: str, track: str = "video", **params: Any) -> Asked:
        return self.ask(Subscribe(self.next_id(), namespace(path), track.encode(), Parameters(**params)))

    def status(self, path: str, track: str = "video") -> Asked:
        return self.ask(TrackStatus(self.next_id(), namespace(path), track.encode()))

    def fetch(self, path: str, group: int, track: str = "video") -> Asked:
        where = AbsoluteRange(Location(group, 0), group, None)
        return self.ask(Fetch(self.next_id(), namespace(path), track.encode(), where))

    def watch(self, prefix: str) -> Asked:
        return self.ask(SubscribeNamespace(self.next_id(), namespace(prefix)))

    def watch_tracks(self, prefix: str) -> Asked:
        """From draft 16 on."""
        number, fields = self.next_id(), namespace(prefix)
        if self.profile.request_streams:
            return self.ask(SubscribeTracks(number, fields))
        return self.ask(SubscribeNamespace(number, fields, interest=InterestKind.TRACKS))

    def publish(self, path: str) -> Asked:
        return self.ask(PublishNamespace(self.next_id(), namespace(path)))

    def offer(self, path: str, track: str, alias: int) -> Asked:
        return self.ask(Publish(self.next_id(), namespace(path), track.encode(), alias))

    # --- what the relay asks

    def subscriptions(self) -> list[tuple[MessageStream, Subscribe]]:
        return [(s, m) for s, m in self.requests if isinstance(m, Subscribe)]

    def accept(self, alias: int, turn: int = 0, **params: Any) -> None:
        stream, request = self.subscriptions()[turn]
        stream.write(self.encode(SubscribeOk(alias, Parameters(**params), request_id=request.request_id)))

    def group(self, alias: int, sequence: int, *payloads: bytes, fin: bool = True) -> PeerStream:
        header = SubgroupHeader(alias, sequence, 0, 128, has_properties=False, end_of_group=True)
        stream = PeerStream(self.session.open_uni())
        stream.write(subgroup_header(header, self.profile))
        for number, payload in enumerate(payloads):
            self.object(stream, number, len(payload), payload)
        if fin:
            stream.write(fin=True)
        return stream

    def object(self, stream: PeerStream, number: int, size: int, payload: bytes = b"") -> None:
        """Announces `size` bytes, and sends `payload`."""
        before = number - 1 if number else None
        header = object_header(ObjectHeader(number, size, ()), before, self.profile, has_properties=False)
        stream.write(header + payload)


class MoqtPeer(MoqtEnd):
    """At a relay without sockets."""

    def __init__(
        self,
        world: World,
        draft: Draft,
        *,
        permissions: Permissions | None = EVERYTHING,
        path: str | None = "/",
        query: str = "",
        setup: bool = True,
        limits: Limits | None = None,
    ) -> None:
        session, server = memory_pair(draft, path=path, query=query)
        self.relay = RecordingSession(server)
        world._numbers += 1
        environment = replace(world.environment, limits=limits) if limits else world.environment
        self.ref = ConnectionActor.start(
            session=self.relay,
            number=world._numbers,
            environment=environment,
            permissions=permissions,
            gate=world.gate.ref,
        )
        world.peers.append(self)  # type: ignore[arg-type]
        super().__init__(session, draft, setup=setup)
