"""UDP features of the kernel: segmentation, merged receives, no fragmentation, destination addresses.

`UdpSocket` can do without each.
"""

from __future__ import annotations

import array
import errno
import functools
import ipaddress
import socket
import struct
import sys
from typing import TypeAlias

SOL_UDP = 17
UDP_SEGMENT = 103
UDP_GRO = 104

MAX_SEGMENTS = 64  # that the kernel cuts from one buffer
MAX_BYTES = 65_000  # of one buffer: an IP packet holds 65,535
REFUSALS = frozenset((errno.EINVAL, errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP))
"""Errors of kernels and network cards that cannot segment."""

CONTROL_SPACE = socket.CMSG_SPACE(4) + socket.CMSG_SPACE(20) if hasattr(socket, "CMSG_SPACE") else 0
"""Bytes of received control messages: UDP_GRO and `in6_pktinfo`, the larger address."""

ControlMessage: TypeAlias = tuple[int, int, bytes]

Source: TypeAlias = tuple[ControlMessage, ...]
"""The source of an outgoing datagram, as control messages of `sendmsg`; empty leaves it to the kernel."""

MOST_SOURCES = 1024  # cached: a host may have a whole IPv6 network of them
_IPV4_OPTION, _IPV4_INFO, _IPV6_OPTION, _IPV6_INFO = {
    # IP_PKTINFO twice, IPV6_RECVPKTINFO, IPV6_PKTINFO (RFC 3542, 6.1): Python lacks some.
    "linux": (8, 8, 49, 50),
    "darwin": (26, 26, 61, 46),
}.get(sys.platform, (0, 0, 0, 0))


SO_MEMINFO = 55  # Linux; Python has no name for it
_DROPS = 8  # place of the dropped datagrams among its 32-bit numbers (SK_MEMINFO_DROPS)


def receive_drops(sock: socket.socket) -> int | None:
    """Datagrams that the kernel dropped on arrival, as the socket's buffer was full. None if it does not say."""
    if sys.platform != "linux":
        return None
    size = 4 * (_DROPS + 1)
    try:
        found = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, size)
    except OSError:
        return None
    return struct.unpack_from("=I", found, 4 * _DROPS)[0] if len(found) == size else None


def can_segment(sock: socket.socket) -> bool:
    """The kernel knows UDP_SEGMENT. A network card may still refuse it."""
    if sys.platform != "linux":
        return False
    try:
        sock.getsockopt(SOL_UDP, UDP_SEGMENT)
    except OSError:
        return False
    return True


_WHOLE = {
    # IP_MTU_DISCOVER, IPV6_MTU_DISCOVER to PMTUDISC_PROBE: don't fragment, ignore the kernel's path MTU.
    ("linux", socket.AF_INET): ((socket.IPPROTO_IP, 10, 3),),
    ("linux", socket.AF_INET6): ((socket.IPPROTO_IP, 10, 3), (socket.IPPROTO_IPV6, 23, 3)),
    ("darwin", socket.AF_INET): ((socket.IPPROTO_IP, 28, 1),),  # IP_DONTFRAG and IPV6_DONTFRAG
    ("darwin", socket.AF_INET6): ((socket.IPPROTO_IPV6, 62, 1),),
}


def forbid_fragments(sock: socket.socket) -> bool:
    """Drop datagrams larger than the path MTU. Returns whether the kernel does."""
    options = _WHOLE.get((sys.platform, sock.family), ())
    try:
        for option in options:
            sock.setsockopt(*option)
    except OSError:
        return False
    return bool(options)


def receive_merged(sock: socket.socket) -> bool:
    """Datagrams of one sender (UDP_GRO). Returns whether the kernel does."""
    if sys.platform != "linux":
        return False
    try:
        sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    except OSError:
        return False
    return True


def receive_destinations(sock: socket.socket) -> bool:
    """Each datagram's destination on a wildcard socket. Returns whether the kernel reports it.

    On a dual-stack socket the IPv6 option covers IPv4 as well.
    """
    if not _IPV4_OPTION or not ipaddress.ip_address(sock.getsockname()[0]).is_unspecified:
        return False
    ipv6 = sock.family == socket.AF_INET6
    option = (socket.IPPROTO_IPV6, _IPV6_OPTION) if ipv6 else (socket.IPPROTO_IP, _IPV4_OPTION)
    try:
        sock.setsockopt(*option, 1)
    except OSError:
        return False
    return True


@functools.cache
def segment_message(size: int) -> Source:
    """Cuts a buffer every `size` bytes."""
    return ((SOL_UDP, UDP_SEGMENT, array.array("H", (size,)).tobytes()),)


_sources: dict[bytes, Source] = {}  # of the answer, by the received control message


def read_messages(messages: list[ControlMessage]) -> tuple[int, Source]:
    """Segment size of a received buffer (0 for one datagram), and the source of its answer."""
    each = 0
    source: Source = ()
    for level, kind, data in messages:
        if level == SOL_UDP and kind == UDP_GRO:
            each = int.from_bytes(data[:4], sys.byteorder)
        elif (known := _sources.get(data)) is not None:
            source = known
        else:
            source = _source(level, kind, data)
            if len(_sources) >= MOST_SOURCES:
                _sources.clear()
            _sources[data] = source
    return each, source


def _source(level: int, kind: int, data: bytes) -> Source:
    """The source of the answer to a pktinfo message. Only link-local addresses fix the interface."""
    if level == socket.IPPROTO_IP and kind == _IPV4_INFO:
        # `ipi_spec_dst` is an address of ours even if the datagram was broadcast.
        _, local, _ = struct.unpack("=i4s4s", data)
        return _ipv4_source(local)
    if level != socket.IPPROTO_IPV6 or kind != _IPV6_INFO:
        return ()
    packed, interface = struct.unpack("=16sI", data)
    address = ipaddress.IPv6Address(packed)
    if address.is_multicast:
        return ()
    if address.ipv4_mapped is not None and sys.platform == "darwin":
        # For IPv4 destinations the kernel reads the IPv4 message only.
        return _ipv4_source(address.ipv4_mapped.packed)
    return ((level, kind, struct.pack("=16sI", packed, interface if address.is_link_local else 0)),)


def _ipv4_source(local: bytes) -> Source:
    if not any(local):
        return ()
    return ((socket.IPPROTO_IP, _IPV4_INFO, struct.pack("=i4s4s", 0, local, bytes(4))),)


def batches(buffers: list[bytes], size: int) -> list[list[bytes]]:
    """Group buffers for one call each: cut every `size` bytes they are the datagrams."""
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
