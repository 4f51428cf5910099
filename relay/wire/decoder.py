"""One decoder per stream direction, which knows the messages there and their order, by version.

All raise WireError (see `Incremental`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from relay.wire.announce import (
    AnnounceActive,
    AnnounceEnded,
    AnnounceInit,
    AnnounceOk,
    AnnounceRequest,
    AnnounceUpdate,
    decode_announce,
)
from relay.wire.control import Fetch, Goaway, Probe, ProbeRequest, SessionInfo, TrackInfo, TrackRequest
from relay.wire.cursor import Cursor, require
from relay.wire.errors import DecodeError, ProtocolViolation, UnknownStreamType
from relay.wire.frame import FIRST_VERSION, Request, StreamType
from relay.wire.incremental import MAX_MESSAGE, Incremental, Item
from relay.wire.setup import REPLY_LEAD, ClientSetup, ServerSetup, SetupForm
from relay.wire.subscribe import Subscribe, SubscribeDrop, SubscribeEnd, SubscribeOk, SubscribeUpdate
from relay.wire.varint import decode_varint
from relay.wire.version import Version

RequestItem = Request | SubscribeUpdate | Probe
AnnounceItem = AnnounceInit | AnnounceOk | AnnounceActive | AnnounceEnded | AnnounceUpdate
SubscribeItem = SubscribeOk | SubscribeEnd | SubscribeDrop

_REQUESTS: Final[dict[StreamType, type[AnnounceRequest | Subscribe | Fetch | Goaway | TrackRequest]]] = {
    StreamType.ANNOUNCE: AnnounceRequest,
    StreamType.SUBSCRIBE: Subscribe,
    StreamType.FETCH: Fetch,
    StreamType.GOAWAY: Goaway,
    StreamType.TRACK: TrackRequest,
}


class _Versioned(Incremental[Item]):
    __slots__ = ("_opened", "version")

    def __init__(self, version: Version, max_message: int = MAX_MESSAGE) -> None:
        super().__init__(max_message)
        self.version = version
        self._opened = False  # a special first message has been read

    def _read(self, decode: Callable[[Cursor, Version], Item]) -> Item | None:
        """DecodeError if bytes are left over."""
        body = self._message()
        if body is None:
            return None
        cursor = Cursor(body)
        message = decode(cursor, self.version)
        cursor.done()
        return message

    def _refuse_more(self) -> None:
        if self._waiting():
            raise DecodeError("bytes after the last message of the stream")


class RequestDecoder(_Versioned[RequestItem]):
    """A bidi stream that the peer opened on an established session.

    Its type and request come first; then SubscribeUpdate on Subscribe streams of 03 and newer, Probe on Probe
    streams of 05 and 06. UnknownStreamType: refuse this stream alone.
    """

    __slots__ = ("stream_type",)

    def __init__(self, version: Version, max_message: int = MAX_MESSAGE) -> None:
        super().__init__(version, max_message)
        self.stream_type: StreamType | None = None  # known before the request is complete

    def _inside(self) -> bool:
        return self.stream_type is not None and not self._opened

    def _next(self) -> RequestItem | None:
        if not self._opened:
            return self._request()
        if self.stream_type is StreamType.SUBSCRIBE and self.version >= Version.LITE_03:
            return self._read(SubscribeUpdate.decode)
        if self.stream_type is StreamType.PROBE and self.version >= Version.LITE_05:
            return self._read(Probe.decode)
        self._refuse_more()
        return None

    def _request(self) -> RequestItem | None:
        if self.stream_type is None:
            value = self._varint()
            if value is None:
                return None
            self.stream_type = self._known_type(value)
        probe = self.stream_type is StreamType.PROBE
        request = ProbeRequest() if probe else self._read(_REQUESTS[self.stream_type].decode)
        self._opened = request is not None
        return request

    def _known_type(self, value: int) -> StreamType:
        for kind, first in FIRST_VERSION.items():
            if value == kind and self.version >= first:
                return kind
        raise UnknownStreamType(f"{self.version.name_on_wire} has no stream of type {value:#x}")


class _Typed(_Versioned[Item]):
    """Replies whose type precedes their length."""

    __slots__ = ("_kind",)

    def __init__(self, version: Version, max_message: int = MAX_MESSAGE) -> None:
        super().__init__(version, max_message)
        self._kind: int | None = None

    def _inside(self) -> bool:
        return self._kind is not None

    def _typed(self, what: str, *decoders: Callable[[Cursor, Version], Item]) -> Item | None:
        """Types are the positions in `decoders`."""
        if self._kind is None:
            self._kind = self._varint()
            if self._kind is None:
                return None
            if self._kind >= len(decoders):
                raise DecodeError(f"unknown {what} type {self._kind}")
        message = self._read(decoders[self._kind])
        if message is not None:
            self._kind = None
        return message


class AnnounceDecoder(_Typed[AnnounceItem]):
    """Replies on an Announce stream: AnnounceInit (01, 02) or AnnounceOk (05, 06), then changes."""

    __slots__ = ()

    def __init__(self, version: Version, max_message: int = MAX_MESSAGE) -> None:
        super().__init__(version, max_message)
        self._opened = version in (Version.LITE_03, Version.LITE_04)

    def _next(self) -> AnnounceItem | None:
        if not self._opened:
            first = self._read(AnnounceInit.decode if self.version <= Version.LITE_02 else AnnounceOk.decode)
            self._opened = first is not None
            return first
        if self.version < Version.LITE_06:
            return self._read(decode_announce)
        return self._typed(
            "announcement", AnnounceActive.decode_start, AnnounceEnded.decode_end, AnnounceUpdate.decode
        )


class SubscribeDecoder(_Typed[SubscribeItem]):
    """Replies on a Subscribe stream: 01 and 02 have exactly one, a SubscribeOk."""

    __slots__ = ()

    def _next(self) -> SubscribeItem | None:
        if self.version >= Version.LITE_03:
            end = (SubscribeEnd.decode,) if self.version >= Version.LITE_05 else ()
            return self._typed("subscribe reply", SubscribeOk.decode, *end, SubscribeDrop.decode)
        if self._opened:
            self._refuse_more()
            return None
        ok = self._read(SubscribeOk.decode)
        self._opened = ok is not None
        return ok


class TrackInfoDecoder(_Versioned[TrackInfo]):
    """The reply on a Track stream (05, 06)."""

    __slots__ = ()

    def __init__(self, version: Version, max_message: int = MAX_MESSAGE) -> None:
        require(version, Version.LITE_05, "Track stream")
        super().__init__(version, max_message)

    def _next(self) -> TrackInfo | None:
        if self._opened:
            self._refuse_more()
            return None
        info = self._read(TrackInfo.decode)
        self._opened = info is not None
        return info


class ProbeDecoder(_Versioned[Probe]):
    """Estimates on a Probe stream (03 and newer)."""

    __slots__ = ()

    def __init__(self, version: Version, max_message: int = MAX_MESSAGE) -> None:
        require(version, Version.LITE_03, "Probe stream")
        super().__init__(version, max_message)

    def _next(self) -> Probe | None:
        return self._read(Probe.decode)


class _SetupStream(Incremental[Item]):
    """One setup in some form, then session information."""

    __slots__ = ("_done", "_form")

    def __init__(self, max_message: int = MAX_MESSAGE) -> None:
        super().__init__(max_message)
        self._form: SetupForm | None = None
        self._done = False

    def _inside(self) -> bool:
        return self._form is not None and not self._done

    def _setup_body(self, form: SetupForm) -> bytes | None:
        if form is not SetupForm.DRAFT14:
            return self._message()
        start = self._offset + 2
        if start > len(self._buffer):
            return None
        return self._body(int.from_bytes(self._buffer[self._offset : start], "big"), start)

    def _info(self) -> SessionInfo | None:
        body = self._message()
        return None if body is None else SessionInfo.decode(body)


class SetupDecoder(_SetupStream[ClientSetup | SessionInfo]):
    """Server side, 01 and 02: the client's first bidi stream.

    With `pauses` the slice that completes ClientSetup gives that alone: it may choose another protocol for what follows.
    The next call gives the rest, and `feed(b"")` does if there is no more data.
    """

    __slots__ = ("_pauses",)

    def __init__(self, max_message: int = MAX_MESSAGE, *, pauses: bool = False) -> None:
        super().__init__(max_message)
        self._pauses = pauses

    def _next(self) -> ClientSetup | SessionInfo | None:
        if self._done:
            if self._pauses:
                self._pauses = False
                return None
            return self._info()
        if self._form is None:
            value = self._varint()
            if value is None:
                return None
            if value not in REPLY_LEAD:
                raise ProtocolViolation(f"the first stream must be a setup, not of type {value:#x}")
            self._form = SetupForm(value)
        body = self._setup_body(self._form)
        if body is None:
            return None
        self._done = True
        return ClientSetup.decode(body, self._form)


class ServerSetupDecoder(_SetupStream[ServerSetup | SessionInfo]):
    """Client side, 01 and 02: the reply to a setup sent in `form`."""

    __slots__ = ("_expected",)

    def __init__(self, form: SetupForm, max_message: int = MAX_MESSAGE) -> None:
        super().__init__(max_message)
        self._expected = form

    def _next(self) -> ServerSetup | SessionInfo | None:
        if self._done:
            return self._info()
        if self._form is None:
            if not self._waiting():
                return None
            lead = REPLY_LEAD[self._expected]
            if lead:
                value = self._varint()
                if value is None:
                    return None
                if decode_varint(lead) != (value, len(lead)):
                    raise ProtocolViolation(
                        f"the reply to {self._expected.name} cannot start with {value:#x}"
                    )
            self._form = self._expected
        body = self._setup_body(self._form)
        if body is None:
            return None
        self._done = True
        return ServerSetup.decode(body, self._form)
