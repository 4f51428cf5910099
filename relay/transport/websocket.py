"""WebSocket sessions: which framing two peers agree on, the oldest framing itself, and the request for a session.

Owns the choice of the subprotocol and the framing `webtransport` of the 0.9.3 generation, which has neither flow
control nor datagrams. Must never touch a socket: `relay.transport.websocket_pump` does. The HTTP server and the client
create the sessions with `make_session`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from relay.model.limits import Limits
from relay.transport.framed import FramedSession
from relay.transport.framed_stream import FramedStream
from relay.transport.qmux import QmuxSession
from relay.wire.errors import SessionCode
from relay.wire.qmux import Close, Draft, ResetStream, StopSending, StreamFrame
from relay.wire.version import ALPN_VERSIONS, Version, alpns_for
from relay.wire.websocket import decode_plain, plain_close, plain_reset, plain_stop, plain_stream_header

PLAIN = "webtransport"
"""The subprotocol of the oldest framing, spoken also where none was offered."""

SETUP_VERSIONS = frozenset((Version.LITE_01, Version.LITE_02))
"""Versions that are agreed on by SETUP messages, so that a framing without a version is enough."""

UNPAIRED = frozenset(("moql-01",))
"""Names of versions that never stand behind a framing: only raw QUIC knows them."""


class Choice(NamedTuple):
    """What is spoken on a WebSocket."""

    subprotocol: str
    """To be named in the answer; `""` if the peer offered none."""
    draft: Draft | None
    """None is the framing `webtransport`."""
    version: Version | None
    """None leaves it to the SETUP messages."""


def choices(versions: Sequence[Version]) -> list[Choice]:
    """Everything that can be spoken with `versions`, the best first."""
    found = [
        Choice(f"{draft.name_on_wire}.{alpn}", draft, ALPN_VERSIONS[alpn])
        for alpn in alpns_for(versions)
        if alpn not in UNPAIRED
        for draft in sorted(Draft, reverse=True)
    ]
    if SETUP_VERSIONS & set(versions):
        found += [Choice(draft.name_on_wire, draft, None) for draft in sorted(Draft, reverse=True)]
        found.append(Choice(PLAIN, None, None))
    return found


def choose(offered: Sequence[str], versions: Sequence[Version]) -> Choice | None:
    """The best of what a peer offers; `None` if there is nothing to agree on."""
    found = choices(versions)
    if not offered:
        return next((choice._replace(subprotocol="") for choice in found if choice.draft is None), None)
    return next((choice for choice in found if choice.subprotocol in offered), None)


class PlainSession(FramedSession):
    """A session in the framing `webtransport`."""

    def __init__(
        self,
        *,
        remote: str,
        is_client: bool,
        alpn: str = PLAIN,
        version: Version | None = None,
        path: str | None = None,
        query: str = "",
        max_streams: int,
        max_message: int,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(
            remote=remote,
            is_client=is_client,
            alpn=alpn,
            version=version,
            path=path,
            query=query,
            max_streams=max_streams,
            clock=clock,
        )
        self.max_message = max_message

    def _handle(self, message: bytes) -> None:
        match decode_plain(message):
            case StreamFrame() as frame:
                self._on_stream(frame)
            case ResetStream() as frame:
                self._on_reset(frame)
            case StopSending() as frame:
                self._on_stop(frame)
            case Close() as frame:
                self._on_close(frame)

    def _stream_header(self, stream: FramedStream, size: int, *, fin: bool) -> bytes:  # noqa: ARG002
        return plain_stream_header(stream.id, fin=fin)

    def _reset_frame(self, stream: FramedStream, code: int) -> bytes:
        return plain_reset(stream.id, code)

    def _stop_frame(self, stream: FramedStream, code: int) -> bytes:
        return plain_stop(stream.id, code)

    def _close_frame(self, code: int, reason: str, *, application: bool) -> bytes:  # noqa: ARG002
        return plain_close(code, reason)


def make_session(
    choice: Choice,
    limits: Limits,
    *,
    remote: str,
    is_client: bool,
    path: str | None,
    query: str,
    clock: Callable[[], float] = time.monotonic,
) -> FramedSession:
    """Return a session that speaks what was chosen."""
    if choice.draft is None:
        return PlainSession(
            remote=remote,
            is_client=is_client,
            alpn=choice.subprotocol,
            version=choice.version,
            path=path,
            query=query,
            max_streams=limits.websocket_streams,
            max_message=limits.websocket_message,
            clock=clock,
        )
    return QmuxSession(
        choice.draft,
        remote=remote,
        is_client=is_client,
        alpn=choice.subprotocol,
        version=choice.version,
        path=path,
        query=query,
        max_streams=limits.websocket_streams,
        window=limits.websocket_window,
        clock=clock,
    )


class WebSocketRequest:
    """An upgrade that waits for its answer; see `relay.transport.session.SessionRequest`."""

    transport = "websocket"

    def __init__(
        self, choice: Choice, limits: Limits, *, remote: str, path: str, query: str, offered: Sequence[str]
    ) -> None:
        self.remote = remote
        self.path: str | None = path
        self.query = query
        self.offered = tuple(offered)
        self.session: FramedSession | None = None
        """Set by `accept`."""
        self.refusal: tuple[int, str] | None = None
        """HTTP status and reason, set by `reject`."""
        self._choice = choice
        self._limits = limits

    def __repr__(self) -> str:
        return f"<WebSocketRequest {self.remote} {self.path}>"

    def accept(self) -> FramedSession:
        self.session = make_session(
            self._choice,
            self._limits,
            remote=self.remote,
            is_client=False,
            path=self.path,
            query=self.query,
        )
        return self.session

    def reject(self, status: int, reason: str) -> None:
        if self.session is not None:
            self.session.close(SessionCode.UNAUTHORIZED, reason)
        self.refusal = status, reason
