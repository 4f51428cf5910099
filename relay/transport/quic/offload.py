"""What the kernel does for UDP: many datagrams in one call, where Linux has it, and none of them cut apart on the way.

Owns the socket options and the packing of their control messages. Must never keep a socket. The UDP socket asks
what the kernel can do, once, and falls back to one call per datagram where it cannot.
"""

from __future__ import annotations

import array
import errno
import functools
import socket
import sys

SOL_UDP = 17
UDP_SEGMENT = 103
UDP_GRO = 104

MAX_SEGMENTS = 64
"""Datagrams that the kernel cuts from one buffer at most."""

MAX_BYTES = 65_000
"""Bytes of one buffer at most: an IP packet holds 65,535."""

REFUSALS = frozenset((errno.EINVAL, errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP))
"""How kernels and network cards that cannot segment say so."""

CONTROL_SPACE = socket.CMSG_SPACE(4) if hasattr(socket, "CMSG_SPACE") else 0


def can_segment(sock: socket.socket) -> bool:
    """Whether the kernel knows UDP_SEGMENT. A network card may still refuse it."""
    if sys.platform != "linux":
        return False
    try:
        sock.getsockopt(SOL_UDP, UDP_SEGMENT)
    except OSError:
        return False
    return True


_WHOLE = {
    # IP_MTU_DISCOVER and IPV6_MTU_DISCOVER to PMTUDISC_PROBE: "don't fragment", whatever the kernel thinks of the path.
    ("linux", socket.AF_INET): ((socket.IPPROTO_IP, 10, 3),),
    ("linux", socket.AF_INET6): ((socket.IPPROTO_IP, 10, 3), (socket.IPPROTO_IPV6, 23, 3)),
    # IP_DONTFRAG and IPV6_DONTFRAG.
    ("darwin", socket.AF_INET): ((socket.IPPROTO_IP, 28, 1),),
    ("darwin", socket.AF_INET6): ((socket.IPPROTO_IPV6, 62, 1),),
}


def forbid_fragments(sock: socket.socket) -> bool:
    """Have datagrams that are too large for the path dropped. Returns whether they will be."""
    options = _WHOLE.get((sys.platform, sock.family), ())
    try:
        for option in options:
            sock.setsockopt(*option)
    except OSError:
        return False
    return bool(options)


def receive_merged(sock: socket.socket) -> bool:
    """Ask for datagrams of one sender to be merged (UDP_GRO). Returns whether they will be."""
    if sys.platform != "linux":
        return False
    try:
        sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    except OSError:
        return False
    return True


@functools.cache
def segment_message(size: int) -> list[tuple[int, int, bytes]]:
    """The control message that has a buffer cut every `size` bytes."""
    return [(SOL_UDP, UDP_SEGMENT, array.array("H", (size,)).tobytes())]


def segment_size(messages: list[tuple[int, int, bytes]]) -> int:
    """At how many bytes a received buffer is to be cut, 0 if it is one datagram."""
    for level, kind, data in messages:
        if level == SOL_UDP and kind == UDP_GRO:
            return int.from_bytes(data[:4], sys.byteorder)
    return 0


def batches(buffers: list[bytes], size: int) -> list[list[bytes]]:
    """Runs of buffers that one call can send: cut every `size` bytes they are the datagrams meant.

    Each buffer is no larger than one call can send.
    """
    most = min(MAX_SEGMENTS * size, MAX_BYTES)
    found: list[list[bytes]] = []
    total = most
    for buffer in buffers:
        length = len(buffer)
        if total % size or total + length > most:
            found.append([buffer])
            total = length
        else:
            found[-1].append(buffer)
            total += length
    return found
