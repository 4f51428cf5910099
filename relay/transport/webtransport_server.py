"""The server side of WebTransport.

Owns the CONNECT request's check, the subprotocol, all answers.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from http import HTTPStatus

from aioquic.h3.events import Headers

from relay.model.incompatible import IncompatiblePeers
from relay.quic.driver import Driver
from relay.quic.streams import Stream
from relay.transport import http3
from relay.transport.refusal import challenge
from relay.transport.session import SessionRequest
from relay.transport.webtransport import Role, WebTransportSession
from relay.wire.version import ALPN_VERSIONS, AnyVersion, alpns_for
from relay.wire.webtransport import parse_protocol_list, quote_protocol

ALREADY_IN_USE = 409  # to a second CONNECT: a connection carries one session
FAMILIAR_OFFER = 512  # characters of a cached offer; real ones are shorter
SHUTTING_DOWN = 503  # to unanswered CONNECT requests


def _offered(header: str) -> tuple[str, ...]:
    """Raises ValueError."""
    return _parsed(header) if len(header) <= FAMILIAR_OFFER else tuple(parse_protocol_list(header))


@functools.lru_cache(maxsize=64)
def _parsed(header: str) -> tuple[str, ...]:
    """Cached: clients of one kind send the same offer."""
    return tuple(parse_protocol_list(header))


class WebTransportServerSession(WebTransportSession):
    """The server's session, which is also its `SessionRequest`."""

    def __init__(
        self,
        driver: Driver,
        *,
        versions: tuple[AnyVersion, ...],
        on_request: Callable[[SessionRequest], None],
        incompatible: IncompatiblePeers | None = None,
    ) -> None:
        super().__init__(driver, is_client=False)
        self._versions = versions
        self._on_request = on_request
        self._incompatible = incompatible
        self._accepted = False
        self.offered: tuple[str, ...] = ()
        self._h3 = http3.Http3(self.connection)

    def close(self, code: int = 0, reason: str = "") -> None:
        if self._session_id is not None and not self._accepted:
            self.reject(SHUTTING_DOWN, reason)  # a capsule would have to follow an answer
        else:
            super().close(code, reason)

    def _on_headers(self, stream: Stream, headers: Headers) -> None:
        fields = {name.decode("ascii", "replace"): value.decode("latin-1") for name, value in headers}
        if fields.get(":method") != "CONNECT" or ":protocol" not in fields:
            self._answer(stream, 404 if fields.get(":method") in ("GET", "HEAD") else 405)
        elif fields[":protocol"] != "webtransport" or not fields.get(":path", "").startswith("/"):
            self._answer(stream, 400)
        elif self._session_id is not None:
            self._answer(stream, ALREADY_IN_USE)
        else:
            self._on_connect(stream, fields)

    def _on_connect(self, stream: Stream, fields: dict[str, str]) -> None:
        # Invalid text stays recognisable for whatever decides on the path.
        target = fields[":path"].encode("latin-1").decode("utf-8", "surrogateescape")
        self.path, _, self.query = target.partition("?")
        self.driver.setup_deadline = None
        self._begin_session(stream)
        if self.ended:
            return
        try:
            self.offered = _offered(fields.get("wt-available-protocols", ""))
        except ValueError:
            self.reject(400)
            return
        supported = alpns_for(self._versions)
        chosen = next((name for name in self.offered if name in supported), None)
        if chosen is not None:
            self.alpn = chosen
            self.version = ALPN_VERSIONS[chosen]
        elif not any(version.has_setup_exchange for version in self._versions):
            # Without a subprotocol, SETUP messages negotiate one of the two oldest versions.
            if self._incompatible is not None:
                self._incompatible.met(self.remote, "webtransport", self.offered)
            self.reject(400)
            return
        self._on_request(self)

    @property
    def token_may_follow(self) -> bool:
        return self.version is not None and self.version.has_setup_token

    def accept(self) -> WebTransportServerSession:
        """Answer the CONNECT request with 200."""
        if self.ended or self._accepted:
            return self
        self._accepted = True
        headers = [(b":status", b"200"), (b"sec-webtransport-http3-draft", b"draft02")]
        if self.alpn:
            headers.append((b"wt-protocol", quote_protocol(self.alpn).encode()))
        self._respond(headers, end=False)
        return self

    def reject(self, status: int, reason: str = "") -> None:
        """Answer the CONNECT request with `status`, and close the connection soon after."""
        if self.ended or self._accepted:
            return
        headers = [(b":status", str(status).encode())]
        if status == HTTPStatus.UNAUTHORIZED:
            headers.append((b"www-authenticate", challenge(reason).encode()))
        self._respond(headers, end=True)
        self.end(None, reason or f"rejected with {status}", by_peer=False)
        self.driver.close_later(http3.H3_NO_ERROR)

    def _respond(self, headers: Headers, *, end: bool) -> None:
        assert self._h3 is not None
        assert self._session_id is not None
        with contextlib.suppress(RuntimeError):  # the peer has aborted it; the event follows
            self._h3.send_headers(self._session_id, headers, end_stream=end)
        self._h3.forget(self._session_id)

    def _answer(self, stream: Stream, status: int) -> None:
        """Reject a request that is not served here, and ignore its rest."""
        assert self._h3 is not None
        self._requests.pop(stream.id, None)
        stream.context = Role.IGNORED
        with contextlib.suppress(RuntimeError):  # the peer has aborted it
            self._h3.send_headers(stream.id, [(b":status", str(status).encode())], end_stream=True)
        stream.cancel(http3.H3_NO_ERROR)
        self._h3.forget(stream.id)
