"""The set-up of 01 and 02: one exchange on the client's first bidirectional stream, in three historical forms.

Owns that stream. Must never choose for the application: what it may speak is given. `Client` makes one, on either
end of a session; from 03 on there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from relay.client.peer import Noted
from relay.wire.decoder import ServerSetupDecoder, SetupDecoder
from relay.wire.errors import OldCode, ProtocolViolation, WireError
from relay.wire.messages import ClientSetup, ServerSetup, SessionInfo, SetupForm
from relay.wire.version import Version, version_from_setup_code

if TYPE_CHECKING:
    from relay.client.peer import Peer
    from relay.transport.session import Stream

OldSetup: TypeAlias = ClientSetup | ServerSetup
Chosen: TypeAlias = Callable[[Version, OldSetup], None]


class NoCommonVersion(ProtocolViolation):
    """Neither side speaks what the other offers."""

    code_name = "no_common_version"
    old_code = OldCode.VERSION


class SetupStream:
    """Handler of the set-up stream, which lives as long as the session."""

    def __init__(self, peer: Peer, stream: Stream, versions: Sequence[Version], chosen: Chosen) -> None:
        self.bitrates: list[int] = Noted()
        """Every SESSION_INFO of the peer."""
        self._peer = peer
        self._stream = stream
        self._versions = versions
        self._chosen = chosen
        self._decoder: SetupDecoder | ServerSetupDecoder = SetupDecoder()

    def open(self, form: SetupForm, params: dict[int, int | bytes]) -> None:
        """Client side: introduce ourselves."""
        if not self._versions:
            raise NoCommonVersion(
                "the transport left the version to the SETUP exchange, which offers only 01 and 02"
            )
        self._decoder = ServerSetupDecoder(form)
        codes = tuple(version.setup_code for version in self._versions)
        self._stream.write([ClientSetup(form, codes, params).encode()])

    def on_data(self, data: bytes, *, fin: bool) -> None:
        for item in self._decoder.feed(data):
            if isinstance(item, SessionInfo):
                self.bitrates.append(item.bitrate)
            elif isinstance(item, ClientSetup):
                self._answer(item)
            else:
                version = version_from_setup_code(item.version)
                if version is None or version not in self._versions:
                    raise NoCommonVersion(f"the peer chose version {item.version:#x}, which was not offered")
                self._chosen(version, item)
        if fin:
            # The session lives as long as this stream.
            self._peer.session.close(OldCode.CANCEL, "")

    def on_reset(self, code: int) -> None:  # noqa: ARG002 - however it ends
        self._peer.session.close(OldCode.CANCEL, "")

    def on_stop(self, code: int) -> None:  # noqa: ARG002 - however it ends
        self._peer.session.close(OldCode.CANCEL, "")

    def on_fault(self, error: WireError) -> None:
        self._peer.session.close(error.close_code(Version.LITE_01), str(error))

    def _answer(self, setup: ClientSetup) -> None:
        offered = [version_from_setup_code(code) for code in setup.versions]
        for version in offered:
            if version is not None and version in self._versions:
                self._stream.write([ServerSetup(setup.form, version.setup_code).encode()])
                self._chosen(version, setup)
                return
        raise NoCommonVersion("the peer offers no version that is spoken here")
