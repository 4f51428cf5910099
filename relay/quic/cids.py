"""Connection ids of both ends (RFC 9000, 5.1)."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from relay.quic import errors
from relay.quic.errors import QuicError
from relay.quic.ranges import Ranges
from relay.quic.varint import varint

OURS: Final = 4  # that the peer may use at a time, if it wants as many
THEIRS: Final = 8  # the active_connection_id_limit that we announced
MOST_RETIRED: Final = 64  # ids of the peer at a time; more is an attack (RFC 9000, 5.1.2)
TOKEN: Final = 16  # bytes of a stateless reset token
LONGEST: Final = 20  # bytes of an id


class HostCids:
    """Ours: the peer's packets carry them."""

    __slots__ = ("_by_number", "_next", "_random", "_size", "_token_of", "_wanted", "added", "removed")

    def __init__(
        self, first: bytes, wanted: int, source: random.Random, token_of: Callable[[bytes], bytes]
    ) -> None:
        """`wanted`: the peer's active_connection_id_limit. `token_of`: the stateless reset token of an id."""
        self._by_number = {0: first}
        self._next = 1
        self._size = len(first)
        self._wanted = min(wanted, OURS) if first else 0  # an empty one is the only one
        self._random = source
        self._token_of = token_of
        self.added: list[bytes] = []  # for the endpoint's routes, since its last look
        self.removed: list[bytes] = []

    def all(self) -> list[bytes]:
        return list(self._by_number.values())

    def knows(self, number: int) -> bool:
        return number in self._by_number

    def issue(self) -> list[tuple[int, bytes]]:
        """Returns sequence numbers and NEW_CONNECTION_ID frames of the missing ids."""
        found = []
        while len(self._by_number) < self._wanted:
            number = self._next
            self._next += 1
            cid = self._random.randbytes(self._size)
            self._by_number[number] = cid
            self.added.append(cid)
            size = bytes((len(cid),))
            found.append((number, b"".join((b"\x18", varint(number), b"\0", size, cid, self._token_of(cid)))))
        return found

    def retire(self, number: int, used: bytes) -> None:
        """The peer retires an id; its packet came to the id `used`. Raises QuicError."""
        kind = errors.RETIRE_CONNECTION_ID
        if number >= self._next:
            raise QuicError(errors.PROTOCOL_VIOLATION, kind, "retired connection id was never issued")
        cid = self._by_number.get(number)
        if cid is None:
            return
        if cid == used:
            raise QuicError(errors.PROTOCOL_VIOLATION, kind, "retired connection id is in use")
        del self._by_number[number]
        self.removed.append(cid)


class PeerCids:
    """Each path uses one of the peer's ids."""

    __slots__ = ("_empty", "_free", "_gone", "_known", "prior", "retired", "retiring", "tokens")

    def __init__(self, first: bytes, token: bytes) -> None:
        self._empty = not first
        self._known: dict[int, tuple[bytes, bytes]] = {0: (first, token)}  # ids and tokens, not retired
        self._gone = Ranges()  # sequence numbers
        self._free: list[int] = []  # sequence numbers, ascending
        self.prior = 0  # all below are to be retired
        self.retired: list[int] = []  # sequence numbers to be told to the peer, since the last look
        self.retiring: set[int] = set()  # sequence numbers that the peer may not know to be retired
        self.tokens: set[bytes] = {token} if token else set()
        """Stateless reset tokens of ids that were used and are not retired."""

    def add(self, number: int, prior: int, cid: bytes, token: bytes) -> None:
        """NEW_CONNECTION_ID (RFC 9000, 19.15); `retire_old` follows. Raises QuicError."""
        kind = errors.NEW_CONNECTION_ID
        if self._empty:
            raise QuicError(errors.PROTOCOL_VIOLATION, kind, "new connection id beside an empty one")
        if not 1 <= len(cid) <= LONGEST:
            raise QuicError(errors.FRAME_ENCODING_ERROR, kind, "connection id must have 1 to 20 bytes")
        if prior > number:
            raise QuicError(errors.FRAME_ENCODING_ERROR, kind, "retire_prior_to is above the sequence number")
        known = self._known.get(number)
        if known is not None:
            if known != (cid, token):
                raise QuicError(errors.PROTOCOL_VIOLATION, kind, "sequence number of another connection id")
        elif number < self.prior or number in self._gone:
            self._retire(number)
        else:
            if any(cid == each for each, _ in self._known.values()):
                raise QuicError(errors.PROTOCOL_VIOLATION, kind, "connection id of another sequence number")
            self._known[number] = (cid, token)
            self._free.append(number)
            self._free.sort()
        self.prior = max(self.prior, prior)
        if len([each for each in self._known if each >= self.prior]) > THEIRS:
            raise QuicError(errors.CONNECTION_ID_LIMIT_ERROR, kind, "too many connection ids")
        if len(self.retiring) > MOST_RETIRED:
            raise QuicError(errors.CONNECTION_ID_LIMIT_ERROR, kind, "too many retired connection ids")

    def take(self) -> tuple[int, bytes]:
        """Sequence number and id that no path has used; -1 and empty if there is none."""
        while self._free:
            number = self._free.pop(0)
            if number >= self.prior:
                cid, token = self._known[number]
                self.tokens.add(token)
                return number, cid
        return -1, b""

    def retire_old(self, used: list[int]) -> None:
        """All that have been used and are not in `used` any more, or are to be retired."""
        for number in list(self._known):
            if number not in used and (number < self.prior or number not in self._free):
                _, token = self._known.pop(number)
                if number in self._free:
                    self._free.remove(number)
                self.tokens.discard(token)
                self._retire(number)
                self._gone.add(number, number + 1)
        self._gone.remove_below(self.prior)

    def _retire(self, number: int) -> None:
        if number not in self.retiring:
            self.retiring.add(number)
            self.retired.append(number)
