"""The server's side of WebTransport: waits for a CONNECT request, then is the session it asked for.

Owns the checks of the request, the choice of the subprotocol, and the answers, also to requests for anything else.
Must never decide who may come in: `on_request` does. The QUIC endpoint creates one per HTTP/3 connection.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from http import HTTPStatus

from aioquic.h3.events import Headers

from relay.model.strangers import Strangers
from relay.transport import http3
from relay.transport.quic import compat
from relay.transport.quic.link import Link
from relay.transport.refusal import challenge
from relay.transport.session import SessionRequest
from relay.transport.webtransport import WebTransportSession
from relay.wire.version import ALPN_VERSIONS, Version, alpns_for
from relay.wire.webtransport import parse_protocol_list, quote_protocol

SETUP_VERSIONS = frozenset((Version.LITE_01, Version.LITE_02))
"""Versions that a session without a subprotocol can still agree on, by SETUP messages."""

ALREADY_IN_USE = 409
"""Answer to a second CONNECT: a connection carries one session."""

FAMILIAR_OFFER = 512
"""Characters of an offer of subprotocols that is remembered; those of real clients are a tenth of that."""

SHUTTING_DOWN = 503
"""Answer to a CONNECT request that a closing server has not answered yet."""


def _offered(header: str) -> tuple[str, ...]:
    """The subprotocols offered. Raises ValueError."""
    return _parsed(header) if len(header) <= FAMILIAR_OFFER else tuple(parse_protocol_list(header))


@functools.lru_cache(maxsize=64)
def _parsed(header: str) -> tuple[str, ...]:
    """Clients of one kind all offer the same."""
    return tuple(parse_protocol_list(header))


class WebTransportServerSession(WebTransportSession):
    """The server's side: waits for a CONNECT request, then is the session it asked for."""

    def __init__(
        self,
        link: Link,
        *,
        versions: tuple[Version, ...],
        on_request: Callable[[SessionRequest], None],
        strangers: Strangers | None = None,
    ) -> None:
        super().__init__(link, is_client=False)
        self._versions = versions
        self._on_request = on_request
        self._strangers = strangers
        self._accepted = False
        # Our settings go out with the handshake, so that clients that wait for them need no round trip more.
        self._h3 = compat.RelayH3Connection(link.quic)

    def close(self, code: int = 0, reason: str = "") -> None:
        if self._session_id is not None and not self._accepted:
            self.reject(SHUTTING_DOWN, reason)  # a capsule would have to follow an answer
        else:
            super().close(code, reason)

    def _on_headers(self, stream_id: int, headers: Headers) -> None:
        fields = {name.decode("ascii", "replace"): value.decode("latin-1") for name, value in headers}
        if fields.get(":method") != "CONNECT" or ":protocol" not in fields:
            self._answer(stream_id, 404 if fields.get(":method") in ("GET", "HEAD") else 405)
        elif fields[":protocol"] != "webtransport" or not fields.get(":path", "").startswith("/"):
            self._answer(stream_id, 400)
        elif self._session_id is not None:
            self._answer(stream_id, ALREADY_IN_USE)
        else:
            self._on_connect(stream_id, fields)

    def _on_connect(self, stream_id: int, fields: dict[str, str]) -> None:
        # What is no text stays recognisable as such, for whoever decides on the path.
        target = fields[":path"].encode("latin-1").decode("utf-8", "surrogateescape")
        self.path, _, self.query = target.partition("?")
        self.link.setup_deadline = None
        self._begin_session(stream_id)
        if self.ended:
            return
        try:
            offered = _offered(fields.get("wt-available-protocols", ""))
        except ValueError:
            self.reject(400)
            return
        supported = alpns_for(self._versions)
        chosen = next((name for name in offered if name in supported), None)
        if chosen is not None:
            self.alpn = chosen
            self.version = ALPN_VERSIONS[chosen]
        elif not SETUP_VERSIONS & set(self._versions):
            # Without a subprotocol only the SETUP messages of the two oldest versions are left.
            if self._strangers is not None:
                self._strangers.met(self.remote, "webtransport", offered)
            self.reject(400)
            return
        self._on_request(WebTransportRequest(self, offered))

    def accept(self) -> None:
        """Answer the CONNECT request with 200."""
        if self.ended or self._accepted:
            return
        self._accepted = self.may_write = True
        headers = [(b":status", b"200"), (b"sec-webtransport-http3-draft", b"draft02")]
        if self.alpn:
            headers.append((b"wt-protocol", quote_protocol(self.alpn).encode()))
        self._respond(headers, end=False)

    def reject(self, status: int, reason: str = "") -> None:
        """Answer the CONNECT request with `status` and close the connection soon after."""
        if self.ended or self._accepted:
            return
        headers = [(b":status", str(status).encode())]
        if status == HTTPStatus.UNAUTHORIZED:
            headers.append((b"www-authenticate", challenge(reason).encode()))
        self._respond(headers, end=True)
        self.end(None, reason or f"rejected with {status}", by_peer=False)
        self.link.close_later(http3.H3_NO_ERROR)

    def _respond(self, headers: Headers, *, end: bool) -> None:
        assert self._h3 is not None
        assert self._session_id is not None
        # Both errors: the peer has given the stream up, and the event that says so is on its way.
        with contextlib.suppress(RuntimeError, ValueError):
            self._h3.send_headers(self._session_id, headers, end_stream=end)
        self._h3.forget(self._session_id)
        self.link.touch()

    def _answer(self, stream_id: int, status: int) -> None:
        """Answer a request that is not ours to serve, and read no more of it."""
        assert self._h3 is not None
        self._requests.pop(stream_id, None)
        self._ignored.add(stream_id)
        # Both errors: the peer has given the stream up already.
        with contextlib.suppress(RuntimeError, ValueError):
            self._h3.send_headers(stream_id, [(b":status", str(status).encode())], end_stream=True)
            self.link.quic.stop_stream(stream_id, http3.H3_NO_ERROR)
        self._h3.forget(stream_id)


class WebTransportRequest:
    """A CONNECT request that waits for its answer."""

    transport = "webtransport"

    def __init__(self, session: WebTransportServerSession, offered: tuple[str, ...]) -> None:
        self.remote = session.remote
        self.path: str | None = session.path
        self.query = session.query
        self.offered = offered
        self._session = session

    def __repr__(self) -> str:
        return f"<WebTransportRequest {self.remote} {self.path}>"

    def accept(self) -> WebTransportServerSession:
        self._session.accept()
        return self._session

    def reject(self, status: int, reason: str) -> None:
        self._session.reject(status, reason)
