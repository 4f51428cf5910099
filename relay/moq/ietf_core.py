"""`Core` of a moq-transport session."""

from __future__ import annotations

from typing import ClassVar, Final

from relay.model.limits import Limits
from relay.moq.machine import EXPIRED, Machine
from relay.transport.session import Session, Stream
from relay.wire.errors import FIRST_APP_CODE, ProtocolViolation, SessionCode, StreamCode, WireError
from relay.wire.ietf.codes import DoneStatus, Refusal, RequestKind, ResetCode
from relay.wire.ietf.codes import SessionCode as IetfCode
from relay.wire.ietf.control import encode
from relay.wire.ietf.messages import Message
from relay.wire.ietf.profile import (
    DRAFT_14,
    DRAFT_16,
    DRAFT_18,
    DRAFT_20,
    DRAFT_22,
    DraftProfile,
    done_code,
    done_of,
    refusal_code,
    refusal_of,
    reset_code,
    reset_of,
)
from relay.wire.version import Draft

PROFILES: Final = {
    Draft.DRAFT_14: DRAFT_14,
    Draft.DRAFT_16: DRAFT_16,
    Draft.DRAFT_18: DRAFT_18,
    Draft.DRAFT_20: DRAFT_20,
    Draft.DRAFT_22: DRAFT_22,
}

MISSING: Final = frozenset((StreamCode.NOT_FOUND, StreamCode.UNROUTABLE, StreamCode.EVICTED, StreamCode.OLD))

REFUSALS: Final = {
    **dict.fromkeys(MISSING, Refusal.DOES_NOT_EXIST),
    StreamCode.UNAUTHORIZED: Refusal.UNAUTHORIZED,
    StreamCode.DELIVERY_TIMEOUT: Refusal.TIMEOUT,
    StreamCode.CONTROL_TIMEOUT: Refusal.TIMEOUT,
    StreamCode.GOING_AWAY: Refusal.GOING_AWAY,
    StreamCode.SESSION_CLOSED: Refusal.GOING_AWAY,
    StreamCode.NO_CAPACITY: Refusal.EXCESSIVE_LOAD,
    StreamCode.MALFORMED_TRACK: Refusal.MALFORMED_TRACK,
}
"""By code of the current stream registry; others are internal errors."""

REFUSED: Final = {
    Refusal.UNAUTHORIZED: StreamCode.UNAUTHORIZED,
    Refusal.BAD_TOKEN: StreamCode.UNAUTHORIZED,
    Refusal.EXPIRED_TOKEN: StreamCode.UNAUTHORIZED,
    Refusal.TIMEOUT: StreamCode.CONTROL_TIMEOUT,
    Refusal.DOES_NOT_EXIST: StreamCode.NOT_FOUND,
    Refusal.INVALID_RANGE: StreamCode.NOT_FOUND,
    Refusal.MALFORMED_TRACK: StreamCode.MALFORMED_TRACK,
    Refusal.GOING_AWAY: StreamCode.GOING_AWAY,
    Refusal.EXCESSIVE_LOAD: StreamCode.NO_CAPACITY,
}

DONE: Final = {
    StreamCode.UNAUTHORIZED: DoneStatus.UNAUTHORIZED,
    StreamCode.GOING_AWAY: DoneStatus.GOING_AWAY,
    StreamCode.SESSION_CLOSED: DoneStatus.GOING_AWAY,
    StreamCode.TOO_FAR_BEHIND: DoneStatus.TOO_FAR_BEHIND,
    StreamCode.MALFORMED_TRACK: DoneStatus.MALFORMED_TRACK,
    StreamCode.NO_CAPACITY: DoneStatus.EXCESSIVE_LOAD,
}

ENDED: Final = {
    DoneStatus.UNAUTHORIZED: StreamCode.UNAUTHORIZED,
    DoneStatus.GOING_AWAY: StreamCode.GOING_AWAY,
    DoneStatus.EXPIRED: StreamCode.GOING_AWAY,
    DoneStatus.TOO_FAR_BEHIND: StreamCode.TOO_FAR_BEHIND,
    DoneStatus.MALFORMED_TRACK: StreamCode.MALFORMED_TRACK,
    DoneStatus.EXCESSIVE_LOAD: StreamCode.NO_CAPACITY,
}
"""Our codes for ends that are no end of the track."""

RESETS: Final = {
    **{StreamCode(code): ResetCode(code) for code in (0, 1, 2, 3, 4, 5, 18)},
    StreamCode.NO_CAPACITY: ResetCode.EXCESSIVE_LOAD,
    StreamCode.EVICTED: ResetCode.TOO_FAR_BEHIND,
    StreamCode.OLD: ResetCode.CANCELLED,
}
"""By code of the current stream registry; others are internal errors."""

RESET: Final = {
    reset: code for code, reset in RESETS.items() if code not in (StreamCode.EVICTED, StreamCode.OLD)
}


class SessionFault(ProtocolViolation):
    """A violation with a session code that moq-lite lacks."""

    ietf_code: ClassVar[int]


class IetfCore(Machine):
    """The common part of one moq-transport session."""

    def __init__(self, session: Session, limits: Limits, hop: int, version: Draft) -> None:
        super().__init__(session, limits, hop)
        self.version = version
        self.profile: DraftProfile = PROFILES[version]

    def encoded(self, message: Message) -> bytes:
        return encode(message, self.profile)

    # --- codes: from and to the current stream registry

    def code(self, code: int) -> int:
        return reset_code(RESETS.get(_known(code), ResetCode.INTERNAL), self.profile)

    @staticmethod
    def received(code: int) -> int:
        """Our code for a reset or stop by the peer."""
        return RESET.get(reset_of(code), StreamCode.INTERNAL)

    def refusal(self, code: int) -> int:
        """The code on the wire for REQUEST_ERROR."""
        return refusal_code(REFUSALS.get(_known(code), Refusal.INTERNAL), self.profile)

    def refused(self, code: int, to: RequestKind) -> int:
        """Our code for a REQUEST_ERROR of the peer."""
        return REFUSED.get(refusal_of(code, self.profile, to), StreamCode.INTERNAL)

    def done(self, code: int) -> int:
        """The status on the wire for PUBLISH_DONE."""
        return done_code(DONE.get(_known(code), DoneStatus.INTERNAL), self.profile)

    def ended(self, status: int) -> int | None:
        """Our code for a PUBLISH_DONE; `None` for the end of the track, or of what we asked for."""
        found = done_of(status, self.profile)
        if found in (DoneStatus.TRACK_ENDED, DoneStatus.SUBSCRIPTION_ENDED):
            return None
        return ENDED.get(found, StreamCode.INTERNAL)

    # --- the end

    def close(self, code: int, reason: str) -> None:
        if code >= FIRST_APP_CODE:
            forbidden = code - FIRST_APP_CODE in (401, 403)
            code = SessionCode.UNAUTHORIZED if forbidden else SessionCode.INTERNAL
        self._close(code, reason)

    def expire(self, reason: str = EXPIRED) -> None:
        self._close(IetfCode.EXPIRED_TOKEN, reason)

    def close_code(self, error: WireError) -> int:
        return int(error.ietf_code if isinstance(error, SessionFault) else error.session_code)

    def cancel(self, stream: Stream) -> None:
        """Leave a stream of either side."""
        self.refuse(stream, StreamCode.CANCELLED)


def _known(code: int) -> StreamCode:
    try:
        return StreamCode(code)
    except ValueError:
        return StreamCode.INTERNAL
