"""Selects the state machine of a session, so that the connection actor knows no versions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from relay.model.limits import Limits
from relay.moq.ietf import IetfSession
from relay.moq.lite import LiteSession
from relay.moq.setup import Options
from relay.transport.session import Session
from relay.wire.version import AnyVersion, Draft, Version

ProtocolSession: TypeAlias = LiteSession | IetfSession


def open_session(
    session: Session,
    limits: Limits,
    hop: int,
    versions: Iterable[AnyVersion],
    admitted: bool,  # noqa: FBT001
    options: Options | None = None,
    chosen: Draft | None = None,
) -> ProtocolSession:
    """`versions`: those that SETUP may choose. `chosen`: by `DialectChosen`."""
    version = chosen or session.version
    if isinstance(version, Draft):
        return IetfSession(
            session, limits=limits, hop=hop, version=version, admitted=admitted, options=options
        )
    lite = [version for version in versions if isinstance(version, Version)]
    drafts = [version for version in versions if isinstance(version, Draft)]
    return LiteSession(
        session, limits=limits, hop=hop, versions=lite, drafts=drafts, admitted=admitted, options=options
    )
