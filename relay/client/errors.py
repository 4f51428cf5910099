"""Exceptions of a client.

Wrong use (a frame longer than announced, a message the version lacks) is ValueError.
"""

# ruff: noqa: N818 - each name says what happened; the tree says that it is an error

from __future__ import annotations

from typing import ClassVar


class ClientError(Exception):
    """The base of all."""


class SessionEnded(ClientError):
    """`code` is the session code, None if the transport failed or timed out.

    `by_peer` tells who closed it; `fault` is the fault of the peer for which we closed it.
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


class RequestError(ClientError):
    """The peer ended a stream early. `code` is the number as received, in the peer's own table."""

    what: ClassVar[str] = "request refused"

    def __init__(self, code: int) -> None:
        super().__init__(f"{self.what}, code {code}")
        self.code = code


class AnnounceError(RequestError):
    """The peer sends no announcements (any more)."""

    what = "announcements ended"


class SubscribeError(RequestError):
    """The peer refused a subscription, or aborted it."""

    what = "subscription refused or aborted"


class TrackInfoError(RequestError):
    """The peer does not describe this track."""

    what = "track not described"


class FetchError(RequestError):
    """The peer does not send this group."""

    what = "group not fetched"


class GroupAborted(RequestError):
    """The rest of this group will not come."""

    what = "group aborted"
