"""Whatever a peer of moq-transport sends: the machine raises nothing, and holds little."""

from __future__ import annotations

import random
from typing import Any

import pytest

from relay.model.limits import Limits
from relay.model.track import SubscribeParams, TrackProperties
from relay.moq.session import (
    AnnounceRequested,
    Closed,
    FetchRequested,
    InfoRequested,
    Offer,
    SubscribeRequested,
    TokenOffered,
)
from relay.transport.session import DatagramReceived, StreamData, StreamReset, StreamStopped
from relay.wire.errors import StreamCode
from relay.wire.frame import FrameHeader
from relay.wire.ietf.control import encode
from relay.wire.ietf.data import ObjectDatagram, ObjectStatus, SubgroupHeader
from relay.wire.ietf.messages import (
    Fetch,
    FetchCancel,
    FetchOk,
    Goaway,
    JoiningFetch,
    MaxRequestId,
    Namespace,
    NamespaceDone,
    Publish,
    PublishDone,
    PublishNamespace,
    PublishNamespaceDone,
    Request,
    RequestError,
    RequestOk,
    RequestUpdate,
    Subscribe,
    SubscribeNamespace,
    SubscribeOk,
    TrackStatus,
    Unsubscribe,
)
from relay.wire.ietf.streams import encode_datagram
from relay.wire.ietf.values import (
    CURRENT_GROUP,
    NEXT_GROUP,
    AbsoluteRange,
    Location,
    NextObject,
    Token,
)
from relay.wire.version import Draft
from tests.moq.ietf_peer import IetfPeer, parameters
from tests.sampling import repeats

drafts = pytest.mark.parametrize("draft", Draft, ids=lambda draft: draft.name_on_wire)

PLAYS = repeats(400)
STEPS = 60


class Player:
    """A peer that sends what fits and what does not, and an owner that answers at random."""

    def __init__(self, draft: Draft, seed: int) -> None:
        self.dice = random.Random(seed)
        self.peer = IetfPeer(draft, limits=Limits())
        self.profile = self.peer.profile
        self.peer.end.moq.requests.subscribe("demo/cam", "video", SubscribeParams())
        self.streams: list[Any] = [self.peer.asked(), self.peer.control]
        self.now = 0.0

    def play(self) -> None:
        for _ in range(STEPS):
            if self.peer.end.of(Closed):
                return
            self.dice.choice(
                (
                    self.message,
                    self.message,
                    self.message,
                    self.group,
                    self.data,
                    self.ends,
                    self.owner,
                    self.time,
                )
            )()

    def small(self) -> int:
        return self.dice.choice((0, 1, 2, 3, 9, self.peer.next_id(), 1 << 40))

    def params(self) -> Any:
        dice = self.dice
        values: dict[str, Any] = {}
        if dice.random() < 0.3:
            values["forward"] = dice.random() < 0.5
        if dice.random() < 0.3:
            values["priority"] = dice.choice((0, 128, 255))
        if dice.random() < 0.3:
            values["largest"] = Location(self.small(), self.small())
        if dice.random() < 0.3:
            where = AbsoluteRange(Location(self.small(), 0), None)
            filters = [NextObject(), NEXT_GROUP, where]
            values["filter"] = dice.choice([*filters, CURRENT_GROUP] if self.profile.has_fill else filters)
        if dice.random() < 0.1:
            values["tokens"] = (Token(dice.choice((b"a.b.c", b"\xff", b""))),)
        return parameters(**values)

    def any_message(self) -> Any:
        dice, small = self.dice, self.small
        name = dice.choice(((b"demo", b"cam"), (b"a",), (b"a/b",), (b"\xff", b"x")))
        number = self.peer.next_id() if dice.random() < 0.99 else small()
        where = AbsoluteRange(Location(small(), small()), small() + 1 + (1 << 40))
        return dice.choice(
            (
                Subscribe(number, name, b"video", self.params()),
                Publish(number, name, b"video", small(), self.params()),
                Fetch(number, name, b"video", where, self.params()),
                JoiningFetch(number, small(), small()),
                TrackStatus(number, name, b"video"),
                PublishNamespace(number, name),
                SubscribeNamespace(number, name),
                RequestUpdate(number, self.params(), small()),
                SubscribeOk(small(), self.params(), request_id=small()),
                FetchOk(small(), small(), request_id=small()),
                RequestOk(self.params(), request_id=small()),
                RequestError(dice.randrange(64), request_id=small()),
                PublishDone(dice.randrange(10), small(), request_id=small()),
                Namespace(name),
                NamespaceDone(name),
                Unsubscribe(small()),
                FetchCancel(small()),
                PublishNamespaceDone(name, small()),
                MaxRequestId(small()),
                Goaway("https://x" if dice.random() < 0.1 else ""),
            )
        )

    def message(self) -> None:
        message = self.any_message()
        try:
            data = encode(message, self.profile)
        except ValueError:
            return  # the draft lacks it
        if self.dice.random() < 0.005:
            place = self.dice.randrange(len(data))
            data = data[:place] + bytes((self.dice.randrange(256),)) + data[place + 1 :]
        stream = self.place(message)
        if stream is not None:
            self.write(stream, data)

    def place(self, message: Any) -> Any:
        """Mostly a stream on which such a message may come."""
        if self.dice.random() < 0.01:
            return self.dice.choice(self.streams)
        namespaces = isinstance(message, SubscribeNamespace) and self.profile.namespace_streams
        if isinstance(message, Goaway) or not (self.profile.request_streams or namespaces):
            return None if isinstance(message, Namespace | NamespaceDone) else self.peer.control
        ours = [s for s in self.peer.session.streams if not s.unidirectional and not s.opened_by_peer]
        if isinstance(message, Request):
            self.streams.append(self.peer.session.peer_opens(unidirectional=False))
            return self.streams[-1]
        if isinstance(message, RequestUpdate):
            return None
        if isinstance(message, SubscribeOk | PublishDone | RequestError | RequestOk) and ours:
            return self.dice.choice(ours)
        return None

    def write(self, stream: Any, data: bytes, *, fin: bool = False) -> None:
        place = self.dice.randrange(len(data) + 1)
        self.peer.end.receive(StreamData(stream, data[:place], False))
        self.peer.end.receive(StreamData(stream, data[place:], fin))

    def group(self) -> None:
        dice = self.dice
        header = SubgroupHeader(
            dice.choice((0, 1, 9)), self.small(), dice.choice((0, 1, None)), 7,
            end_of_group=dice.random() < 0.5, first_object=dice.random() < 0.5, has_properties=True,
        )  # fmt: skip
        stream = self.peer.subgroup(header)
        self.streams.append(stream)
        before = None
        for number in sorted(dice.sample(range(8), dice.randrange(4))):
            if dice.random() < 0.2:
                data = self.peer.object(number, b"", before, status=ObjectStatus.END_OF_GROUP)
            else:
                data = self.peer.object(number, dice.choice((b"", b"abc")), before, ((0x10, number),))
            self.write(stream, data)
            before = number
        if dice.random() < 0.5:
            self.peer.end.receive(StreamData(stream, b"", True))

    def data(self) -> None:
        dice = self.dice
        datagram = ObjectDatagram(dice.choice((0, 9)), self.small(), dice.randrange(2), b"tick")
        data = encode_datagram(datagram, self.profile) if dice.random() < 0.7 else dice.randbytes(9)
        self.peer.end.receive(DatagramReceived(data))
        self.write(self.peer.session.peer_opens(unidirectional=True), dice.randbytes(dice.randrange(1, 20)))

    def ends(self) -> None:
        stream = self.dice.choice(self.streams)
        if stream is self.peer.control and self.dice.random() < 0.99:
            return
        kind = self.dice.choice((StreamReset, StreamStopped, None))
        if kind is None:
            self.peer.end.receive(StreamData(stream, b"", True))
        else:
            self.peer.end.receive(kind(stream, self.dice.randrange(20)))

    def owner(self) -> None:  # noqa: C901 - one line per event
        dice, moq = self.dice, self.peer.end.moq
        for event in self.peer.end.events[-6:]:
            match event:
                case InfoRequested() if dice.random() < 0.7:
                    moq.serving.send_info(event.request, TrackProperties())
                case SubscribeRequested() if dice.random() < 0.7:
                    moq.serving.accept(event.request, dice.choice((None, (3, 1))))
                case FetchRequested() if dice.random() < 0.5:
                    moq.serving.send_fetched(
                        event.request, (FrameHeader(1, 2), b"ab"), fin=dice.random() < 0.5
                    )
                case AnnounceRequested():
                    moq.serving.announce_initial(event.request, [Offer("demo/cam")])
                    moq.serving.announce(event.request, "demo/cam", None)
                case TokenOffered():
                    moq.authorized(event.request, granted=dice.random() < 0.5)
                case InfoRequested() | SubscribeRequested() | FetchRequested():
                    moq.serving.reject(event.request, StreamCode.NOT_FOUND)
        if dice.random() < 0.3:
            request = moq.requests.subscribe("demo/cam", dice.choice(("video", "audio")), SubscribeParams())
            moq.requests.update(request, SubscribeParams(priority=9))
            if dice.random() < 0.5:
                moq.requests.cancel(request)
        if dice.random() < 0.2:
            moq.requests.cancel(moq.requests.fetch("demo/cam", "video", 3))
            moq.requests.request_info("demo/cam", "video")
        self.peer.end.poll()

    def time(self) -> None:
        self.now += self.dice.choice((0.01, 1.0, 5.0))
        self.peer.end.on_time(self.now)


@drafts
def test_random_plays(draft: Draft) -> None:
    closed = 0
    for seed in range(PLAYS):
        player = Player(draft, seed)
        try:
            player.play()
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
        closed += bool(player.peer.end.of(Closed))
    assert 0 < closed < PLAYS  # some plays are legal


@drafts
def test_random_bytes(draft: Draft) -> None:
    dice = random.Random(1)
    for _ in range(PLAYS):
        peer = IetfPeer(draft, setup=dice.random() < 0.5)
        for unidirectional in (True, False, True):
            stream = peer.session.peer_opens(unidirectional=unidirectional)
            peer.write(stream, dice.randbytes(dice.randrange(40)), fin=dice.random() < 0.3)
            peer.write(peer.control, dice.randbytes(3)) if dice.random() < 0.2 else None
