"""A WebSocket session request and its session, for the HTTP server and the client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from relay.model.limits import Limits
from relay.transport.websocket.choice import Choice
from relay.transport.websocket.plain import PlainFraming
from relay.transport.websocket.qmux import QmuxFraming
from relay.transport.websocket.session import FramedSession, Opening
from relay.wire.errors import SessionCode


def make_session(
    choice: Choice,
    limits: Limits,
    *,
    remote: str,
    is_client: bool,
    path: str | None,
    query: str,
    clock: Callable[[], float],
) -> FramedSession:
    """A session in the chosen framing."""
    framing = PlainFraming if choice.draft is None else QmuxFraming
    return FramedSession(framing(choice, limits, clock), Opening(remote, is_client, path, query))


class WebSocketRequest:
    """See `relay.transport.session.SessionRequest`."""

    transport = "websocket"

    def __init__(
        self,
        choice: Choice,
        limits: Limits,
        *,
        remote: str,
        path: str,
        query: str,
        offered: Sequence[str],
        clock: Callable[[], float],
    ) -> None:
        self.remote = remote
        self._version = choice.version
        self.path: str | None = path
        self.query = query
        self.offered = tuple(offered)
        self.session: FramedSession | None = None
        self.refusal: tuple[int, str] | None = None  # HTTP status and reason
        self._accepted = partial(
            make_session, choice, limits, remote=remote, is_client=False, path=path, query=query, clock=clock
        )

    def __repr__(self) -> str:
        return f"<WebSocketRequest {self.remote} {self.path}>"

    @property
    def token_may_follow(self) -> bool:
        return self._version is not None and self._version.has_setup_token

    def accept(self) -> FramedSession:
        self.session = self._accepted()
        return self.session

    def reject(self, status: int, reason: str) -> None:
        if self.session is not None:
            self.session.close(SessionCode.UNAUTHORIZED, reason)
        self.refusal = status, reason
