"""Requests of a moq-lite peer, one stream each."""

from __future__ import annotations

from relay.model.track import TrackProperties
from relay.moq.core import IGNORE, Handler, PeerRequest
from relay.moq.lite_announce import AnnounceWriter
from relay.moq.lite_core import LiteCore
from relay.moq.lite_delivery import LiteDelivery, params_of
from relay.moq.serving import Serving
from relay.moq.session import (
    AnnounceRequested,
    FetchRequested,
    InfoRequested,
    Location,
    PeerLeaving,
    ProbeRequested,
    SubscribeRequested,
)
from relay.transport.session import Stream
from relay.wire.announce import AnnounceRequest
from relay.wire.control import Fetch, Goaway, ProbeRequest, TrackInfo, TrackRequest
from relay.wire.decoder import RequestDecoder
from relay.wire.errors import DecodeError, ProtocolViolation, StreamCode, WireError
from relay.wire.subscribe import Subscribe, SubscribeUpdate


class SilentStream(Handler):
    """Stays open without an answer: some clients end their session when it closes."""

    def __init__(self, core: LiteCore) -> None:
        self._core = core

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:  # noqa: ARG002
        if fin:
            stream.write((), fin=True)

    def on_reset(self, stream: Stream, code: int) -> None:
        stream.reset(self._core.code(code))


class IncomingRequest(Handler):
    """A bidirectional stream of the peer: reads its request, and passes on the rest."""

    def __init__(self, core: LiteCore, owner: LiteServing) -> None:
        self._core = core
        self._owner = owner
        self._decoder = RequestDecoder(core.version, core.limits.message)
        self._answer: Handler | None = None
        self._asked = False

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        try:
            messages = self._decoder.feed(data)
            if fin:
                self._decoder.end()
        except DecodeError as error:
            # an unreadable request costs the peer this stream alone
            self._core.refuse_for(stream, error)
            self.on_fault(error)
            return
        for message in messages:
            if self._asked:
                self._core.spend()  # the stream was counted with its first message
                if isinstance(message, SubscribeUpdate) and isinstance(self._answer, LiteDelivery):
                    self._answer.on_update(message)
            else:
                self._asked = True
                self._answer = self._owner.open(stream, message)
        if fin:
            if self._answer is not None:
                self._answer.on_data(stream, b"", fin=True)
            elif stream.context is self:
                stream.write((), fin=True)  # without a request

    def on_reset(self, stream: Stream, code: int) -> None:
        if self._answer is None:
            stream.reset(self._core.code(StreamCode.CANCELLED))
        else:
            self._answer.on_reset(stream, code)

    def on_stopped(self, stream: Stream, code: int) -> None:
        if self._answer is not None:
            self._answer.on_stopped(stream, code)

    def on_fault(self, error: WireError) -> None:
        if self._answer is not None:
            self._answer.on_fault(error)


class LiteServing(Serving[LiteDelivery, AnnounceWriter]):
    """All requests of the peer.

    Size: those of every dialect (`Serving`), and how moq-lite asks.
    """

    def __init__(self, core: LiteCore, *, offers_probe: bool) -> None:
        super().__init__(core)
        self._lite = core
        self._offers_probe = offers_probe
        self._ids: set[int] = set()  # in use, on the wire
        self._leaving = False  # the peer has sent GOAWAY

    # --- requests of the peer

    def open(self, stream: Stream, message: object) -> Handler | None:
        """`None` if the stream was refused."""
        core = self._lite
        match message:
            case Subscribe():
                return self._on_subscribe(stream, message)
            case AnnounceRequest():
                request = core.new_request()
                writer = AnnounceWriter(core, self, request, message.prefix, stream)
                self._writers[request] = writer
                core.emit(AnnounceRequested(request, message.prefix, message.exclude_hop))
                return writer
            case TrackRequest():
                answer = self._answer(stream)
                core.emit(InfoRequested(answer.request, message.broadcast, message.track))
                return answer
            case Fetch():
                answer = self._answer(stream)
                core.emit(
                    FetchRequested(
                        answer.request,
                        message.broadcast,
                        message.track,
                        message.group,
                        message.priority,
                        message.start_frame,
                        message.end_frame,
                    )
                )
                return answer
            case ProbeRequest():
                core.emit(ProbeRequested(core.new_request()))
                if core.version.has_setup_stream and not self._offers_probe:
                    core.refuse(stream, StreamCode.CANCELLED)  # our SETUP does not offer it
                    return None
            case Goaway():
                if self._leaving:
                    raise ProtocolViolation("second GOAWAY")
                self._leaving = True
                core.emit(PeerLeaving(message.uri))
        return SilentStream(core)

    def cancelled(self, request: int, code: int | None) -> None:
        owner = self._writers.get(request) or self._answers.get(request)
        super().cancelled(request, code)
        if owner is not None:
            owner.stream.context = IGNORE

    def _on_subscribe(self, stream: Stream, message: Subscribe) -> Handler | None:
        core = self._lite
        if message.id in self._ids:
            core.note(ProtocolViolation(f"subscribe id {message.id} is in use"))
            core.refuse(stream, StreamCode.CANCELLED)
            return None
        request = core.new_request()
        self._ids.add(message.id)
        delivery = self._deliveries[request] = LiteDelivery(core, self, request, message, stream, self._ranks)
        params = params_of(message, core.version)
        core.emit(SubscribeRequested(request, message.broadcast, message.track, params))
        return delivery

    def _answer(self, stream: Stream) -> PeerRequest:
        request = self._core.new_request()
        answer = self._answers[request] = PeerRequest(self._core, self, request, stream)
        return answer

    def send_info(
        self,
        request: int,
        properties: TrackProperties,
        largest: Location | None = None,  # noqa: ARG002 - TRACK_INFO has no place for it
    ) -> None:
        answer = self._answers.pop(request, None)
        if answer is not None:
            info = TrackInfo(*properties[:4])
            answer.stream.write((info.encode(self._lite.version),), fin=True)
            answer.stream.context = IGNORE

    def _forget(self, delivery: LiteDelivery) -> None:
        super()._forget(delivery)
        self._ids.discard(delivery.id)
        delivery.stream.context = IGNORE
