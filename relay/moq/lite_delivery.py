"""Messages of one subscription of a moq-lite peer."""

from __future__ import annotations

from collections.abc import Iterable

from relay.model.backlog import Ranks, send_priority
from relay.model.group import Object
from relay.model.ranges import Range
from relay.model.track import SubscribeParams
from relay.moq.core import RequestOwner
from relay.moq.delivery import Delivery, GroupStream
from relay.moq.lite_core import LiteCore
from relay.moq.session import GroupFragment, Location, SubscribeUpdated
from relay.transport.session import Stream
from relay.wire.errors import StreamCode, WireError
from relay.wire.frame import Datagram, GroupHeader, group_header
from relay.wire.subscribe import Subscribe, SubscribeDrop, SubscribeEnd, SubscribeOk, SubscribeUpdate
from relay.wire.version import Version


def params_of(request: Subscribe | SubscribeUpdate, version: Version) -> SubscribeParams:
    """`max_latency` is history on 06, lateness before."""
    return SubscribeParams(
        priority=request.priority,
        ordered=request.ordered,
        latency_ms=request.max_latency,
        history_ms=request.max_latency if version.latency_is_history else 0,
        start_group=request.start_group,
        start_is_floor=version.latency_is_history,
        end_group=request.end_group,
        start_frame=request.start_frame,
        end_frame=request.end_frame,
    )


class LiteDelivery(Delivery):
    """A subscription of the peer, until `over`."""

    def __init__(
        self,
        core: LiteCore,
        owner: RequestOwner,
        request: int,
        message: Subscribe,
        stream: Stream,
        ranks: Ranks,
    ) -> None:
        super().__init__(core, owner, request, stream, params_of(message, core.version), ranks)
        self.id = message.id
        self._version = core.version
        self._priority = message.priority
        self._accepted = False

    # --- the peer

    def on_update(self, message: SubscribeUpdate) -> None:
        if self.over:
            return
        params = params_of(message, self._version)
        self._priority = params.priority
        self._prefer(params)
        self._core.emit(SubscribeUpdated(self.request, params))

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:  # noqa: ARG002 - the request's decoder reads
        if fin and not self.over:
            self.unsubscribe(None)
            stream.write((), fin=True)

    def on_reset(self, stream: Stream, code: int) -> None:
        if not self.over:
            self.unsubscribe(code)
            stream.reset(self._core.code(StreamCode.CANCELLED))

    def on_stopped(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        if not self.over:
            self.unsubscribe(code)

    def on_fault(self, error: WireError) -> None:
        self.on_stopped(self.stream, error.stream_code)

    # --- messages

    def accept(self, largest: Location | None) -> None:  # noqa: ARG002 - it has no field for that
        """Accept at once (01 to 04), or with the first group (05 and 06)."""
        if not self._accepted and self._version.accepts_at_once:
            self._accepted = True
            self.stream.write((SubscribeOk(priority=self._priority).encode(self._version),))

    def _open(self, fragment: GroupFragment, rank: int) -> tuple[Stream, int]:
        version = self._version
        if not self._accepted:
            self._accepted = True
            self.stream.write((SubscribeOk(self._priority, group=fragment.sequence).encode(version),))
        stream = self._core.session.open_uni(send_priority(self.backlog.priority, rank))
        stream.context = GroupStream(self, fragment.sequence)
        header = group_header(version, GroupHeader(self.id, fragment.sequence, fragment.start_frame))
        stream.write((header, *fragment.chunks), fin=fragment.fin)
        return stream, len(header)

    def send_datagram(self, sequence: int, timestamp: int, payload: bytes, start: Object | None) -> bool:
        if not self._version.has_timestamps or (start is not None and start.id):
            return False  # a group has one frame here
        session = self._core.session
        data = Datagram(self.id, sequence, timestamp, payload).encode(self._version)
        if len(data) > session.datagram_limit:
            return False
        session.send_datagram(data)
        return True

    def drop(self, missing: Iterable[Range]) -> None:
        if self._version.has_updates:
            for start, end in missing:
                drop = SubscribeDrop(start, end, StreamCode.DELIVERY_TIMEOUT)
                self.stream.write((drop.encode(self._version),))

    def _end(self, final: int) -> None:
        version = self._version
        end = SubscribeEnd(final).encode(version) if version.has_subscribe_end else b""
        self.stream.write((end,), fin=True)

    def refuse(self, code: int) -> None:
        self._core.refuse(self.stream, code)
