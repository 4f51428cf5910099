"""Version negotiation: first packets of future QUIC versions get a usable answer."""

from __future__ import annotations

import pytest
from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic.packet import pull_quic_header

from relay.quic.negotiation import answer

SUPPORTED = (0x00000001, 0x6B3343CF)


def first_packet(version: int, destination: bytes, source: bytes, size: int = 1200) -> bytes:
    head = (
        b"\xc0",
        version.to_bytes(4, "big"),
        bytes((len(destination),)),
        destination,
        bytes((len(source),)),
        source,
    )
    return b"".join(head).ljust(size, b"\0")


@pytest.mark.parametrize("sizes", [(0, 0), (8, 0), (20, 20), (21, 8), (8, 255), (255, 255)], ids=str)
def test_connection_ids_of_any_length_are_answered(sizes: tuple[int, int]) -> None:
    """RFC 8999, 5.1: in future versions they have up to 255 bytes."""
    destination, source = (bytes(range(size)) for size in sizes)
    packet = answer(first_packet(0x1A2A3A4A, destination, source), SUPPORTED)
    assert packet is not None
    assert packet[0] & 0xC0 == 0xC0
    assert packet[1:5] == bytes(4)
    rest = packet[5:]
    assert rest[: 2 + len(source) + len(destination)] == b"".join(
        (bytes((len(source),)), source, bytes((len(destination),)), destination)
    )
    assert len(packet) < 1200


def test_the_list_has_a_reserved_version_that_was_not_tried() -> None:
    """Clients skip unknown versions, and drop a list with the version they tried (RFC 9000, 6.2 and 15)."""
    tried = [0x0A0A0A0A | high << 28 | high << 20 | high << 12 | high << 4 for high in range(16)]
    seen = set()
    for _ in range(100):
        for version in tried:
            packet = answer(first_packet(version, bytes(8), bytes(8)), SUPPORTED)
            assert packet is not None
            header = pull_quic_header(Buffer(data=packet))
            reserved = [each for each in header.supported_versions if each & 0x0F0F0F0F == 0x0A0A0A0A]
            assert len(reserved) == 1
            assert version not in header.supported_versions
            assert [each for each in header.supported_versions if each not in reserved] == list(SUPPORTED)
            seen.update(reserved)
    assert len(seen) > 100


@pytest.mark.parametrize(
    "packet",
    [
        first_packet(0, bytes(8), bytes(8)),
        first_packet(2, bytes(255), b"")[:200],
        first_packet(2, bytes(8), bytes(255))[:100],
        b"\xc0\x00\x00\x00\x02",
        b"\xc0",
    ],
    ids=["negotiation", "cut in the first id", "cut in the second", "no ids", "no version"],
)
def test_what_gets_no_answer(packet: bytes) -> None:
    """Two servers must not answer each other for ever."""
    assert answer(packet, SUPPORTED) is None
