"""`Core` of a moq-lite session."""

from __future__ import annotations

from relay.model.limits import Limits
from relay.moq.machine import Machine
from relay.transport.session import Session
from relay.wire.errors import stream_code_for
from relay.wire.version import Version


class LiteCore(Machine):
    """The common part of one moq-lite session, with its version."""

    def __init__(self, session: Session, limits: Limits, hop: int) -> None:
        super().__init__(session, limits, hop)
        version = session.version
        self.version = version if isinstance(version, Version) else Version.LITE_01

    def code(self, code: int) -> int:
        return stream_code_for(self.version, code)
