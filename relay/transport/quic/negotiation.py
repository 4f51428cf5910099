"""Version negotiation: the answer to a first packet of a QUIC version that we do not speak.

Owns the reading and writing of what all versions have in common (RFC 8999), connection ids of up to 255 bytes included.
Must never keep state: source addresses may be forged. The server's endpoint calls it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

VERSION_NEGOTIATION = 0
"""What such a packet has in place of a version."""

FIXED_BIT = 0x40
"""Set, so that what looks at the first byte takes the packet for one of QUIC (RFC 9000, 17.2.1)."""

RESERVED = 0x0A0A0A0A
"""Versions like this one, with any upper half of each byte, mean nothing: clients have to skip what they do not know
(RFC 9000, 15)."""

LONG_HEADER = 0x80
"""The first bit of all packets with a version."""


def answer(data: bytes, supported: Sequence[int]) -> bytes | None:
    """Return a Version Negotiation packet for a packet with a version; `None` for one that gets none."""
    version = int.from_bytes(data[1:5], "big")
    if version == VERSION_NEGOTIATION:
        return None  # two servers could be played against each other without end
    try:
        size = data[5]
        source_at = 6 + size
        source_end = source_at + 1 + data[source_at]
    except IndexError:
        return None
    destination, source = data[6:source_at], data[source_at + 1 : source_end]
    if source_end > len(data):
        return None
    noise = os.urandom(5)
    reserved = int.from_bytes(noise[:4], "big") & 0xF0F0F0F0 | RESERVED
    if reserved == version:
        reserved ^= 0x10000000  # a client drops a list with the version that it has tried
    return b"".join(
        (
            bytes((LONG_HEADER | FIXED_BIT | noise[4] & 0x3F,)),
            VERSION_NEGOTIATION.to_bytes(4, "big"),
            bytes((len(source),)),
            source,
            bytes((len(destination),)),
            destination,
            *(each.to_bytes(4, "big") for each in (reserved, *supported)),
        )
    )
