"""Stateless reset (RFC 9000, 10.3): ends connections that we know nothing of any more, after a restart.

Must never keep state per connection.
"""

from __future__ import annotations

import hashlib
import hmac
import random

TOKEN = 16  # bytes
SHORTEST = 21  # bytes: below, no receiver takes it for one
LONGEST = 43  # bytes of ours: looks like a short packet with the longest connection id


class ResetTokens:
    """The stateless reset tokens that belong to a secret."""

    __slots__ = ("_random", "_secret")

    def __init__(self, secret: bytes, source: random.Random) -> None:
        """`secret` has at least 16 bytes; the same one after a restart makes the same tokens."""
        if len(secret) < TOKEN:
            raise ValueError("a secret of at least 16 bytes is needed")
        self._secret = secret
        self._random = source

    def token_of(self, cid: bytes) -> bytes:
        """The token of a connection id of ours."""
        return hmac.digest(self._secret, cid, hashlib.sha256)[:TOKEN]

    def answer(self, datagram: bytes, cid_size: int) -> bytes | None:
        """The reset that answers a packet of an unknown connection; `None` if none may be sent.

        It is smaller than the packet, so two ends without state do not answer each other for ever.
        """
        size = min(len(datagram) - 1, LONGEST)
        if size < SHORTEST or datagram[0] & 0x80 or len(datagram) < 1 + cid_size:
            return None
        noise = bytearray(self._random.randbytes(size - TOKEN))
        noise[0] = noise[0] & 0x3F | 0x40
        return bytes(noise) + self.token_of(datagram[1 : 1 + cid_size])
