"""Raw QUIC: moq streams are QUIC streams, the ALPN names the version, and close codes are plain."""

from __future__ import annotations

from collections.abc import Callable

from relay.quic.driver import Driver
from relay.transport.quic_session import QuicSession
from relay.transport.session import SessionRequest
from relay.wire.errors import FIRST_APP_CODE, MAX_CODE, SessionCode, from_http3
from relay.wire.version import ALPN_VERSIONS

OLDEST_ALPN = "moql-01"  # the 0.9.3 generation, which closes with the bare HTTP status


class RawSession(QuicSession):
    """A session with a connection of its own. On a server it is also the `SessionRequest`."""

    transport = "quic"

    def __init__(
        self,
        driver: Driver,
        *,
        alpn: str,
        is_client: bool,
        on_request: Callable[[SessionRequest], None] | None = None,
    ) -> None:
        super().__init__(driver, is_client=is_client, alpn=alpn, version=ALPN_VERSIONS.get(alpn))
        self.offered: tuple[str, ...] = (alpn,)
        self._on_request = on_request
        self._maps_codes = self.version is None or self.version.maps_codes

    def established(self) -> None:
        self.driver.setup_deadline = None
        if self._on_request is not None:
            self._on_request(self)
        if self.opened is not None and not self.opened.done():
            self.opened.set_result(None)

    def close(self, code: int = 0, reason: str = "") -> None:
        if not self.ended:
            self.end(code, reason, by_peer=False)
            self.driver.close(code, reason)

    def wire_code(self, code: int) -> int:
        return super().wire_code(code) if self._maps_codes else code if 0 <= code <= MAX_CODE else 0

    def plain_code(self, code: int) -> int:
        # some peers map codes in every version
        mapped = from_http3(code)
        if mapped is None and not self._maps_codes and code <= MAX_CODE:
            return code
        return mapped or 0

    # -- SessionRequest: path and token follow inside the session, if at all

    @property
    def token_may_follow(self) -> bool:
        return True

    def accept(self) -> RawSession:
        return self

    def reject(self, status: int, reason: str) -> None:
        if self.alpn == OLDEST_ALPN:
            self.close(status, str(status))
        elif status in (401, 403):
            self.close(SessionCode.UNAUTHORIZED, reason)
        else:
            self.close(FIRST_APP_CODE + status, reason)
