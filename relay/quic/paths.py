"""Network paths of a connection: validation and the anti-amplification limit (RFC 9000, 8 and 9)."""

from __future__ import annotations

from typing import Final

AMPLIFICATION: Final = 3  # bytes sent for each one received from an unvalidated address
TRIES: Final = 3  # until the validation has failed
MOST_PATHS: Final = 4  # addresses of one peer at a time
MOST_RESPONSES: Final = 4  # on one path; a busy peer loses the oldest
NEVER: Final = -1.0


class Path:
    """Told apart by the peer's address."""

    __slots__ = (
        *("address", "challenge", "challenge_due", "cid", "due", "number"),
        *("received", "responses", "sent", "tries", "validated"),
    )

    def __init__(self, address: tuple[object, ...], cid: bytes, number: int, *, validated: bool) -> None:
        self.address = address
        self.cid = cid  # the peer's, which our packets carry here, and its sequence number
        self.number = number
        self.validated = validated
        self.received = 0  # bytes, counted while it is not validated
        self.sent = 0
        self.challenge = b""  # the data of our last PATH_CHALLENGE, empty before one
        self.challenge_due = False
        self.tries = 0
        self.due = NEVER  # when to send another, or to give up
        self.responses: list[bytes] = []  # data to be sent

    @property
    def has_frames(self) -> bool:
        """Frames are due that must travel on this path."""
        return self.challenge_due or bool(self.responses)

    @property
    def credit(self) -> int:
        """Bytes that may be sent to an address not yet validated."""
        return AMPLIFICATION * self.received - self.sent
