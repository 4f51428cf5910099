"""Our requests, and the groups that the peer sends for them.

One call of `receive` makes one event of all data of a subscription.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from relay.model.path import is_text
from relay.model.track import SubscribeParams, TrackProperties
from relay.moq.core import IGNORE, AnswerOwner, Handler
from relay.moq.lite_announce import AnnounceReader
from relay.moq.lite_core import LiteCore
from relay.moq.session import (
    NEVER,
    DatagramReceived,
    FetchedData,
    GroupData,
    GroupPart,
    InfoReceived,
    LimitExceeded,
    ProbeReceived,
    RequestFinished,
    RequestRejected,
    StrayGroup,
    SubscriptionDropped,
    SubscriptionEnded,
    SubscriptionStarted,
)
from relay.transport.session import Stream
from relay.wire.announce import AnnounceRequest
from relay.wire.control import Fetch, Goaway, ProbeRequest, TrackRequest
from relay.wire.decoder import ProbeDecoder, SubscribeDecoder, TrackInfoDecoder
from relay.wire.errors import StreamCode, WireError, relay_stream_code
from relay.wire.frame import Datagram, FrameHeader, GroupHeader, Request, open_request
from relay.wire.frame_decoder import FrameDecoder
from relay.wire.subscribe import Subscribe, SubscribeEnd, SubscribeOk, SubscribeUpdate
from relay.wire.varint import MAX_VARINT
from relay.wire.version import Version

_Parts = list[FrameHeader | bytes]

EARLY_GROUPS: Final = 64  # that may precede the answer to a SUBSCRIBE, before the newest counts as its first


class Start:
    """The group to begin with, where max age limits later groups: two subscriptions share it.

    The answer to the first one, which asks for the wanted age, names the group. The second asks for any age from there on.
    """

    __slots__ = ("begun", "first", "group", "params")

    def __init__(self, params: SubscribeParams, group: int | None = None) -> None:
        self.params = params
        self.group = group  # once named
        self.begun: set[int] = set()  # groups of the first that came before its answer, and `group` of either
        self.first: int | None = None  # its id, from its answer on, until its groups have ended


class Subscription(Handler):
    """A subscription of ours, and the streams of its open groups."""

    def __init__(
        self, core: LiteCore, owner: Requests, request: int, message: Subscribe, stream: Stream
    ) -> None:
        self.request = request
        self.message = message
        self.started = False
        self.newest: int | None = None  # group
        self.start: Start | None = None
        self.stream = stream
        self.groups: dict[int, Stream] = {}  # by sequence
        self._core = core
        self._owner = owner
        self._decoder = SubscribeDecoder(core.version, core.limits.message)
        self.sent = b""
        """Our parameters as the peer knows them: the last SUBSCRIBE_UPDATE."""
        self._final: int | None = None
        self._closed = False  # the peer's half
        self._left = False  # our half
        # the groups of this call, by sequence: first frame, parts, fin, code
        self._fresh: dict[int, tuple[int, _Parts, bool, int | None]] = {}

    @property
    def id(self) -> int:
        return self.message.id

    @property
    def replaced(self) -> bool:
        """The second subscription of its request has begun."""
        return self.start is not None and self.start.first == self.message.id

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        core = self._core
        for message in self._decoder.feed(data):
            core.spend()
            if self.replaced:
                continue
            if isinstance(message, SubscribeOk):
                self._accepted(message)
            elif isinstance(message, SubscribeEnd):
                if self._final is None:
                    self._final = message.group
                    self._report_end()
            else:
                core.emit(SubscriptionDropped(self.request, message.start, message.end, message.code))
        if fin:
            self._decoder.end()
            self._closed = True
            if not self.replaced:
                self._report_end()
            self.end_request()
            stream.context = IGNORE

    def _accepted(self, message: SubscribeOk) -> None:
        if self.started:
            return
        self.started, group, start = True, message.group, self.start
        if self.newest is None:
            self.newest = group
        if start is not None and start.group is None and group is not None:
            self._owner.subscribe_from(self, start, group)
        self._core.emit(SubscriptionStarted(self.request, group, message.priority))

    def _report_end(self) -> None:
        self.flush()
        self._core.emit(SubscriptionEnded(self.request, self._final, self._closed))

    def on_reset(self, stream: Stream, code: int) -> None:
        stream.context = IGNORE
        self.end_request()
        self._owner.failed(self, relay_stream_code(code, self._core.version), code)

    def on_fault(self, error: WireError) -> None:
        self._owner.failed(self, error.stream_code, error.stream_code)

    def end_request(self) -> None:
        """End our half of the stream, once."""
        if not self._left:
            self._left = True
            if self._core.version.leaves_by_reset:
                self.stream.reset(self._core.code(StreamCode.CANCELLED))
            else:
                self.stream.write((), fin=True)

    def leave(self, code: int | None) -> None:
        """Leave the subscription: with `code` abort both halves, else read the peer's half to its end."""
        for group in self.groups.values():
            self._core.refuse(group, StreamCode.CANCELLED)
        if code is not None or (self._core.version.leaves_by_reset and not self._left):
            self._core.refuse(self.stream, StreamCode.CANCELLED if code is None else code)
        else:
            self.stream.context = IGNORE
            self.end_request()

    # --- groups

    def group_ended(self, sequence: int) -> None:
        if self.groups.pop(sequence, None) is not None:
            self._owner.look_whether_over(self)

    def add(
        self, sequence: int, first_frame: int, parts: _Parts, *, fin: bool, code: int | None = None
    ) -> None:
        known = self._fresh.get(sequence)
        if known is not None:
            first_frame, former, _, _ = known
            former += parts
            parts = former
        elif not self._fresh:
            self._owner.fresh.append(self)
        self._fresh[sequence] = (first_frame, parts, fin, code)

    def has_ended(self, sequence: int) -> bool:
        """True if the group began and ended within this call."""
        known = self._fresh.get(sequence)
        return known is not None and (known[2] or known[3] is not None)

    def flush(self) -> None:
        if self._fresh:
            fresh, self._fresh = self._fresh, {}
            groups = [
                GroupPart(sequence, first, tuple(parts), fin, code)
                for sequence, (first, parts, fin, code) in fresh.items()
            ]
            self._core.emit(GroupData(self.request, tuple(groups)))


class IncomingGroup(Handler):
    """A group stream of the peer, after its header."""

    __slots__ = ("_core", "_decoder", "_sequence", "_start", "_subscription")

    def __init__(
        self, core: LiteCore, subscription: Subscription, header: GroupHeader, decoder: FrameDecoder
    ) -> None:
        self._core = core
        self._subscription = subscription
        self._decoder = decoder
        self._sequence = header.sequence
        self._start = header.frame_start

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:  # noqa: ARG002
        decoder = self._decoder
        decoder.arrival = self._core.now
        self.add(decoder.feed(data), fin=fin)

    def add(self, parts: _Parts, *, fin: bool) -> None:
        if fin:
            self._decoder.end()
            self._subscription.group_ended(self._sequence)
        self._subscription.add(self._sequence, self._start, parts, fin=fin)

    def on_reset(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        self._abort(relay_stream_code(code, self._core.version))

    def on_fault(self, error: WireError) -> None:
        self._abort(error.stream_code)

    def _abort(self, code: int) -> None:
        self._subscription.group_ended(self._sequence)
        self._subscription.add(self._sequence, self._start, [], fin=False, code=code)


class Question(Handler):
    """A stream of ours for one request other than a subscription."""

    def __init__(self, core: LiteCore, owner: Requests, request: int, stream: Stream) -> None:
        self.stream = stream
        self._core = core
        self._owner = owner
        self._request = request

    def on_reset(self, stream: Stream, code: int) -> None:
        stream.context = IGNORE
        self._reject(relay_stream_code(code, self._core.version), code)

    def on_fault(self, error: WireError) -> None:
        self._reject(error.stream_code, error.stream_code)

    def _finish(self) -> None:
        self.stream.write((), fin=True)
        self._owner.finished(self._request)

    def _reject(self, code: int, received: int) -> None:
        if self._owner.is_open(self._request):
            self._finish()
            self._core.emit(RequestRejected(self._request, code, received))


class InfoStream(Question):
    """A TRACK stream."""

    def __init__(self, core: LiteCore, owner: Requests, request: int, stream: Stream) -> None:
        super().__init__(core, owner, request, stream)
        self._decoder = TrackInfoDecoder(core.version, core.limits.message)

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        for info in self._decoder.feed(data):
            properties = TrackProperties(info.priority, info.ordered, info.max_latency, info.timescale)
            self._core.emit(InfoReceived(self._request, properties))
            self._finish()
        if fin:
            self._decoder.end()
            stream.context = IGNORE
            self._reject(StreamCode.NOT_FOUND, StreamCode.NOT_FOUND)


class FetchStream(Question):
    """A FETCH stream, which answers with bare frames."""

    def __init__(self, core: LiteCore, owner: Requests, request: int, stream: Stream, fetch: Fetch) -> None:
        super().__init__(core, owner, request, stream)
        self._fetch = fetch
        self._decoder = FrameDecoder(core.version, core.limits.frame)

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        parts = tuple(self._decoder.feed(data))
        if fin:
            self._decoder.end()
            stream.context = IGNORE
            self._finish()
        part = GroupPart(self._fetch.group, self._fetch.start_frame, parts, fin, None)
        self._core.emit(FetchedData(self._request, part))


class ProbeStream(Question):
    """A PROBE stream."""

    def __init__(self, core: LiteCore, owner: Requests, request: int, stream: Stream) -> None:
        super().__init__(core, owner, request, stream)
        self._decoder = ProbeDecoder(core.version, core.limits.message)

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        for probe in self._decoder.feed(data):
            self._core.spend()
            self._core.emit(ProbeReceived(self._request, probe.bitrate, probe.rtt))
        if fin:
            self._decoder.end()
            stream.context = IGNORE
            self._finish()
            self._core.emit(RequestFinished(self._request))


class Requests(AnswerOwner):
    """The requests of our side.

    Size: a method for each command, and for each step of a subscription, which may take two requests on 06.
    """

    def __init__(self, core: LiteCore) -> None:
        self.fresh: list[Subscription] = []  # with data in this call
        self._core = core
        self._next_id = 0
        self._subscriptions: dict[int, Subscription] = {}  # by request
        self._by_id: dict[int, Subscription] = {}  # by the id on the wire
        self._others: dict[int, AnnounceReader | Question] = {}

    @property
    def deadline(self) -> float:
        return NEVER

    def on_time(self, now: float) -> None:
        """Requests of moq-lite have no deadlines."""

    def unlink(self) -> None:
        for subscription in self._subscriptions.values():
            subscription.groups.clear()
        for handler in (*self._subscriptions.values(), *self._others.values()):
            handler.stream.context = IGNORE
        self._subscriptions.clear()
        self._by_id.clear()
        self._others.clear()

    def flush(self) -> None:
        """One event per subscription."""
        fresh, self.fresh = self.fresh, []
        for subscription in fresh:
            subscription.flush()

    # --- commands

    def _ask(self, message: Request, handler: Callable[[int, Stream], AnnounceReader | Question]) -> int:
        """A FIN before the answer would cancel the request."""
        core = self._core
        opening = open_request(core.version, message)
        stream = core.session.open_bidi()
        request = core.new_request()
        stream.context = self._others[request] = handler(request, stream)
        stream.write((opening,))
        return request

    def request_announcements(self, prefix: str) -> int:
        core = self._core
        message = AnnounceRequest(prefix, exclude_hop=core.hop)
        return self._ask(message, lambda number, stream: AnnounceReader(core, self, number, prefix, stream))

    def subscribe(self, broadcast: str, track: str, params: SubscribeParams) -> int:
        """Subscribe, without fields that the version lacks.

        06: max age brings history, and limits later groups; see `Start`.
        """
        if rejected := self._rejected(broadcast):
            return rejected
        request = self._core.new_request()
        start = Start(params) if _is_late(params, self._core.version) and params.start_group is None else None
        self._open(request, broadcast, track, params, start)
        return request

    def _rejected(self, broadcast: str) -> int:
        """The request for a name that moq-lite cannot express; else 0."""
        if is_text(broadcast):
            return 0
        request = self._core.new_request()
        self._core.emit(RequestRejected(request, StreamCode.NOT_FOUND, StreamCode.NOT_FOUND))
        return request

    def subscribe_from(self, first: Subscription, start: Start, group: int) -> None:
        """The answer to `first` has named the group."""
        start.first, start.group = first.id, group
        named = first.message
        self._open(first.request, named.broadcast, named.track, start.params, start).started = True
        last = start.params._replace(end_group=_fitting(max({group, *start.begun})))
        first.stream.write((_update(last, start, self._core.version).encode(self._core.version),))
        self.look_whether_over(first)

    def _open(
        self, request: int, broadcast: str, track: str, params: SubscribeParams, start: Start | None
    ) -> Subscription:
        core = self._core
        wanted = _update(params, start, core.version)
        message = Subscribe(
            self._next_id,
            broadcast,
            track,
            wanted.priority,
            wanted.ordered,
            wanted.max_latency,
            wanted.start_group,
            wanted.end_group,
            wanted.start_frame,
            wanted.end_frame,
        )
        opening = open_request(core.version, message)
        self._next_id += 1
        stream = core.session.open_bidi()
        subscription = Subscription(core, self, request, message, stream)
        subscription.start = start
        stream.context = subscription
        if core.version.has_updates:
            subscription.sent = wanted.encode(core.version)
        stream.write((opening,))
        self._subscriptions[request] = self._by_id[message.id] = subscription
        return subscription

    def update(self, request: int, params: SubscribeParams) -> None:
        """ValueError where the version has no updates."""
        core = self._core
        subscription = self._subscriptions.get(request)
        if subscription is None:
            return  # over
        start = subscription.start
        if start is not None:
            start.params = params
        elif _is_late(params, self._core.version):
            start = subscription.start = Start(params, subscription.newest)
        update = _update(params, start, core.version).encode(core.version)
        if update == subscription.sent:
            return  # the version lacks the field
        queued = subscription.stream.unsent
        if queued > core.limits.message:
            # viewers may change their parameters without end, while this peer reads no update
            core.emit(LimitExceeded("message", {"request": request, "queued_bytes": queued}))
            core.refuse(subscription.stream, StreamCode.CANCELLED)
            self.failed(subscription, StreamCode.CONTROL_TIMEOUT, StreamCode.CONTROL_TIMEOUT)
            return
        subscription.sent = update
        subscription.stream.write((update,))

    def request_info(self, broadcast: str, track: str) -> int:
        """ValueError where the version has no such request."""
        asked = TrackRequest(broadcast, track)
        return self._rejected(broadcast) or self._ask(asked, partial(InfoStream, self._core, self))

    def fetch(
        self,
        broadcast: str,
        track: str,
        group: int,
        *,
        priority: int = 0,
        start_frame: int = 0,
        end_frame: int | None = None,
    ) -> int:
        """ValueError where the version has no such request."""
        fetch = Fetch(broadcast, track, priority, group, start_frame, end_frame)
        return self._rejected(broadcast) or self._ask(
            fetch, partial(FetchStream, self._core, self, fetch=fetch)
        )

    def probe(self) -> int:
        """ValueError where the version has no such request."""
        return self._ask(ProbeRequest(), partial(ProbeStream, self._core, self))

    def goaway(self, uri: str = "") -> bool:
        """False if the version has no GOAWAY."""
        core = self._core
        if not core.version.has_goaway:
            return False
        opening = open_request(core.version, Goaway(uri))
        stream = core.session.open_bidi()
        stream.context = IGNORE
        stream.write((opening,), fin=True)
        return True

    def cancel(self, request: int, code: int | None = None) -> None:
        """No event of the request follows."""
        subscription = self._subscriptions.get(request)
        if subscription is not None:
            self._forget(subscription)
            subscription.leave(code)
            self._leave_first(subscription, code)
            return
        other = self._others.pop(request, None)
        if isinstance(other, AnnounceReader):
            other.close()
        elif isinstance(other, ProbeStream) and code is None:
            other.stream.context = IGNORE
            other.stream.write((), fin=True)
        elif other is not None:
            self._core.refuse(other.stream, StreamCode.CANCELLED if code is None else code)

    def stop_group(self, request: int, sequence: int, code: int) -> None:
        subscription = self._subscriptions.get(request)
        if subscription is not None and sequence not in subscription.groups:
            subscription = self._first(subscription)
        stream = None if subscription is None else subscription.groups.pop(sequence, None)
        if subscription is not None and stream is not None:
            self._core.refuse(stream, code)
            self.look_whether_over(subscription)

    # --- for the streams

    def is_open(self, request: int) -> bool:
        return request in self._others

    def finished(self, request: int) -> None:
        self._others.pop(request, None)

    def failed(self, subscription: Subscription, code: int, received: int) -> None:
        """Open groups continue until the owner cancels the request."""
        if subscription.replaced:
            return  # the second one goes on
        if self._by_id.pop(subscription.id, None) is not None:
            subscription.flush()
            self._leave_first(subscription, None)
            self.look_whether_over(subscription)
            self._core.emit(RequestRejected(subscription.request, code, received))

    def look_whether_over(self, subscription: Subscription) -> None:
        """Forget a rejected or replaced subscription after its last group."""
        if subscription.groups:
            return
        start = subscription.start
        if start is not None and start.first == subscription.id:
            if start.group in start.begun:
                self._by_id.pop(subscription.id, None)
                subscription.leave(None)
                start.first = None
        elif subscription.id not in self._by_id:
            self._subscriptions.pop(subscription.request, None)

    def _first(self, subscription: Subscription) -> Subscription | None:
        start = subscription.start
        return None if start is None or start.first is None else self._by_id.get(start.first)

    def _leave_first(self, subscription: Subscription, code: int | None) -> None:
        first = self._first(subscription)
        if first is not None:
            del self._by_id[first.id]
            first.leave(code)

    def _forget(self, subscription: Subscription) -> None:
        del self._subscriptions[subscription.request]
        self._by_id.pop(subscription.id, None)

    def begin_group(self, stream: Stream, header: GroupHeader, decoder: FrameDecoder) -> IncomingGroup | None:
        """`None` if the group stream was refused."""
        subscription = self._by_id.get(header.subscribe_id)
        if subscription is None:
            # the subscription may be cancelled while the group is in flight
            self._core.emit(StrayGroup(header.subscribe_id, header.sequence))
            self._core.refuse(stream, StreamCode.CANCELLED)
            return None
        sequence, start = header.sequence, subscription.start
        refused = sequence in subscription.groups or subscription.has_ended(sequence)
        if start is not None and not refused:
            later = start.first == subscription.id and sequence != start.group
            refused = later or sequence in start.begun
        if refused:
            self._core.refuse(stream, StreamCode.OLD)
            return None
        subscription.newest = max(sequence, subscription.newest or 0)
        subscription.groups[sequence] = stream
        group = IncomingGroup(self._core, subscription, header, decoder)
        stream.context = group
        if start is not None and start.group in (None, sequence):
            start.begun.add(sequence)
            first = self._first(subscription)
            if first is not None:
                self.look_whether_over(first)
            elif start.group is None and len(start.begun) > EARLY_GROUPS:
                start.group = subscription.newest
                self.update(subscription.request, start.params)
        subscription.add(header.sequence, header.frame_start, [], fin=False)
        return group

    def on_datagram(self, data: bytes) -> None:
        """Drops unreadable datagrams, and those without a subscription."""
        core = self._core
        if not core.version.has_timestamps:
            return
        try:
            datagram = Datagram.decode(data, core.version)
        except WireError:
            return
        subscription = self._by_id.get(datagram.subscribe_id)
        if subscription is not None:
            subscription.flush()
            core.emit(
                DatagramReceived(
                    subscription.request, datagram.sequence, datagram.timestamp, datagram.payload
                )
            )


def _is_late(params: SubscribeParams, version: Version) -> bool:
    """True if groups after the start may be older than those before it, where one field limits both."""
    return version.latency_is_history and params.any_age and params.history_ms < params.latency_ms


def _update(params: SubscribeParams, start: Start | None, version: Version) -> SubscribeUpdate:
    group, age = params.start_group, params.latency_ms
    if start is not None and start.group is not None and _is_late(params, version):
        group = start.group
    elif version.latency_is_history:
        age = params.history_ms
    return SubscribeUpdate(
        params.priority,
        params.ordered,
        age,
        _fitting(group),
        params.end_group,
        params.start_frame,
        params.end_frame,
    )


def _fitting(group: int | None) -> int | None:
    """The nearest group number that fits on the wire, where it is stored as value + 1."""
    return None if group is None else min(group, MAX_VARINT - 1)
