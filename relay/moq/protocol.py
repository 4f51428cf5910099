"""Selects the state machine of a session, so that the connection actor knows no versions."""

from __future__ import annotations

from typing import TypeAlias

from relay.model.limits import Limits
from relay.moq.lite import LiteSession
from relay.transport.session import Session
from relay.wire.version import AnyVersion

ProtocolSession: TypeAlias = LiteSession


def open_session(
    session: Session,
    limits: Limits,
    hop: int,
    versions: tuple[AnyVersion, ...],
    admitted: bool,  # noqa: FBT001
) -> ProtocolSession:
    """`versions`: those that SETUP may choose."""
    return LiteSession(session, limits=limits, hop=hop, versions=versions, admitted=admitted)
