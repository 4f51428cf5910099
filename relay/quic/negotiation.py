"""Version negotiation: the answer to a first packet of an unsupported QUIC version (RFC 8999).

Must never keep state: addresses may be forged.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

VERSION_NEGOTIATION = 0

FIXED_BIT = 0x40  # so that demultiplexers recognise QUIC (RFC 9000, 17.2.1)
RESERVED = 0x0A0A0A0A  # clients must ignore it (RFC 9000, 15)
LONG_HEADER = 0x80


def answer(data: bytes, supported: Sequence[int]) -> bytes | None:
    """The Version Negotiation packet that answers a long-header packet; `None` if it gets none."""
    version = int.from_bytes(data[1:5], "big")
    if version == VERSION_NEGOTIATION:
        return None  # two servers must not answer each other for ever
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
        reserved ^= 0x10000000  # clients discard a list that contains the version they tried
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
