"""A peer of moq-transport that a test plays: it writes messages and objects as bytes, in any draft."""

from __future__ import annotations

from typing import Any

from relay.model.group import FrameQueue, Object
from relay.model.limits import Limits
from relay.model.track import SubscribeParams
from relay.moq.ietf_core import PROFILES
from relay.moq.session import Event, GroupData
from relay.transport.session import StreamData, StreamReset
from relay.wire.ietf.control import MessageDecoder, encode
from relay.wire.ietf.data import ObjectHeader, SubgroupHeader
from relay.wire.ietf.messages import Message, Setup, SubscribeOk
from relay.wire.ietf.parameters import NO_PARAMETERS, Parameters
from relay.wire.ietf.streams import object_header, subgroup_header
from relay.wire.ietf.values import Location, Properties
from relay.wire.version import Draft
from tests.moq.support import End, FakeSession, FakeStream

TIMED: Properties = ((0x08, 1000), (0x4321, b"kept"))


class IetfPeer:
    """The client of a server's machine, whose end is `end`."""

    def __init__(
        self,
        draft: Draft,
        *,
        setup: bool = True,
        interest: str | None = "",
        admitted: bool = True,
        limits: Limits | None = None,
        **options: Any,
    ) -> None:
        """`interest`: prefix under which the owner of `end` takes namespaces."""
        self.draft = draft
        self.profile = PROFILES[draft]
        self.session = FakeSession(draft, is_client=False, **options)
        self.end = End(self.session, (draft,), hop=1, admitted=admitted, limits=limits)
        self.end.start()
        self.control = self.session.peer_opens(unidirectional=self.profile.request_streams)
        self._next = 0
        if setup:
            self.set_up()
        if interest is not None:
            self.interest = self.end.moq.requests.request_announcements(interest)
            self.end.poll()

    def set_up(self, **options: Any) -> list[Event]:
        versions = (self.profile.setup_code,) if self.profile.versions_in_setup else ()
        most = None if self.profile.request_streams else 1_000
        return self.say(self.control, Setup(max_request_id=most, versions=versions, **options))

    def say(self, stream: FakeStream, *messages: Message, fin: bool = False) -> list[Event]:
        data = b"".join(encode(message, self.profile) for message in messages)
        return self.write(stream, data, fin=fin)

    def write(self, stream: FakeStream, data: bytes, *, fin: bool = False) -> list[Event]:
        return self.end.receive(StreamData(stream, data, fin))

    def reset(self, stream: FakeStream, code: int = 1) -> list[Event]:
        return self.end.receive(StreamReset(stream, code))

    # --- requests

    def next_id(self) -> int:
        number = self._next
        self._next += 2
        return number

    def ask(self, message: Message) -> FakeStream:
        """Returns the stream of the exchange: with older drafts the control stream."""
        stream = (
            self.session.peer_opens(unidirectional=False) if self.profile.request_streams else self.control
        )
        self.say(stream, message)
        return stream

    def answers(self, stream: FakeStream) -> list[Message]:
        """All messages of the machine on that stream; without SETUP."""
        found = MessageDecoder(self.profile).feed(stream.written)
        return [message for message in found if not isinstance(message, Setup)]

    def asked(self) -> FakeStream:
        """The stream of the machine's last request."""
        if not self.profile.request_streams:
            return self.control
        return [s for s in self.session.streams if not s.unidirectional and not s.opened_by_peer][-1]

    def groups(self) -> list[FakeStream]:
        """Data streams of the machine."""
        own = [s for s in self.session.streams if s.unidirectional and not s.opened_by_peer]
        return own[1:] if self.profile.request_streams else own

    # --- objects

    def subgroup(self, header: SubgroupHeader) -> FakeStream:
        stream = self.session.peer_opens(unidirectional=True)
        self.write(stream, subgroup_header(header, self.profile))
        return stream

    def object(
        self,
        number: int,
        payload: bytes = b"",
        before: int | None = None,
        properties: Properties = (),
        *,
        has_properties: bool = True,
        **status: Any,
    ) -> bytes:
        header = ObjectHeader(number, len(payload), properties, **status)
        return object_header(header, before, self.profile, has_properties=has_properties) + payload


class Publisher(IetfPeer):
    """It has accepted a subscription of the machine, with alias 9."""

    def __init__(self, draft: Draft, largest: Location | None = None, **options: Any) -> None:
        super().__init__(draft, **options)
        self.request = self.end.moq.requests.subscribe("demo/cam", "video", SubscribeParams())
        self.stream = self.asked()
        properties = TIMED if self.profile.track_properties else ()
        ok = SubscribeOk(9, parameters(largest=largest, **self.fixed()), properties, request_id=1)
        self.say(self.stream, ok)

    def fixed(self) -> dict[str, Any]:
        return {"expires": 0} if self.profile.fixed_fields else {}

    def begin(self, group: int, subgroup: int | None = 0, **flags: Any) -> Any:
        header = SubgroupHeader(9, group, subgroup, 128, has_properties=True, **flags)
        return self.subgroup(header)

    def objects(self) -> dict[int, list[tuple[int, int, bytes]]]:
        """Whole objects that came, by group: subgroup, id, payload."""
        queues: dict[int, FrameQueue] = {}
        for event in self.end.of(GroupData):
            for part in event.parts:
                queues.setdefault(part.sequence, FrameQueue()).extend(part.parts)
        found: dict[int, list[tuple[int, int, bytes]]] = {}
        for sequence, queue in queues.items():
            found[sequence] = []
            while queue:
                start, payload = queue.popleft()
                assert isinstance(start, Object)
                found[sequence].append((start.subgroup.number, start.id, payload))
        return found

    def ends(self) -> dict[int, int | None]:
        return {
            part.sequence: part.code
            for event in self.end.of(GroupData)
            for part in event.parts
            if part.fin or part.code is not None
        }


def parameters(**values: Any) -> Parameters:
    return Parameters(**values) if values else NO_PARAMETERS
