"""What a client raises.

    ClientError
    +- SessionEnded        the session is over, by whomever
    +- RequestError        the peer ended one stream with a code
       +- AnnounceError    it stopped telling announcements
       +- SubscribeError   it refused or aborted a subscription
       +- TrackInfoError   it knows no such track
       +- FetchError       it has no such group
       +- GroupAborted     it gave up a group

Wrong use (a frame that is longer than announced, a message the version lacks) is ValueError. Owns the tree, and two
faults of a peer that only whoever counts announcements can see. Must never hold state. All parts of the client raise
these, callers catch them.
"""

# ruff: noqa: N818 - each name says what happened; the tree says that it is an error

from __future__ import annotations

from typing import ClassVar

from relay.wire.errors import OldCode, ProtocolViolation


class ClientError(Exception):
    """Everything that can go wrong without the caller's doing."""


class SessionEnded(ClientError):
    """The session is over. `code` is the session code, None if the transport failed or timed out.

    `by_peer` tells who closed it; `fault` is what the peer did wrong, if that is why we closed it.
    """

    def __init__(
        self, code: int | None, reason: str, *, by_peer: bool, fault: Exception | None = None
    ) -> None:
        who = "the peer" if by_peer else "this side"
        what = "the transport failed" if code is None else f"{who} closed the session with code {code}"
        super().__init__(f"{what}: {reason}" if reason else what)
        self.code = code
        self.reason = reason
        self.by_peer = by_peer
        self.fault = fault

    def again(self) -> SessionEnded:
        """Return the same news as a fresh exception: each who waits raises one of his own."""
        copy = SessionEnded(self.code, self.reason, by_peer=self.by_peer, fault=self.fault)
        copy.__cause__ = self.fault
        return copy


class RequestError(ClientError):
    """The peer ended a stream early. `code` is the number as it was received, in the peer's own table."""

    what: ClassVar[str] = "request refused"

    def __init__(self, code: int) -> None:
        super().__init__(f"{self.what}, code {code}")
        self.code = code


class AnnounceError(RequestError):
    """The peer tells no announcements (any more)."""

    what = "announcements ended"


class SubscribeError(RequestError):
    """The peer refused a subscription, or aborted it."""

    what = "subscription refused or aborted"


class TrackInfoError(RequestError):
    """The peer does not describe this track."""

    what = "track not described"


class FetchError(RequestError):
    """The peer does not hand out this group."""

    what = "group not fetched"


class GroupAborted(RequestError):
    """The rest of this group will not come."""

    what = "group aborted"


class DuplicateAnnounce(ProtocolViolation):
    """A path is announced that is live already, in a version where that means nothing else."""

    code_name = "duplicate_announce"
    old_code = OldCode.DUPLICATE


class UnknownAnnounce(ProtocolViolation):
    """An announcement ends, or changes, that is not live."""

    code_name = "unknown_announce"
    old_code = OldCode.NOT_FOUND
