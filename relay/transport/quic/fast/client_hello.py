"""Parses common ClientHellos (RFC 8446, 4.1.2) in one pass; leaves others, and alerts, to aioquic."""

from __future__ import annotations

from struct import Struct, error, unpack_from

from aioquic.tls import ClientHello, ExtensionType, HandshakeType

_SHORT = Struct(">H").unpack_from
_PAIR = Struct(">HH").unpack_from

RANDOM = 6  # offset of the random: after message type, length and version
SESSION = RANDOM + 32


class _UnusualError(Exception):
    """Left to aioquic."""


def read_client_hello(data: bytes) -> ClientHello | None:
    """Parse a whole message; `None` for an unusual one, such as one with a pre-shared key."""
    try:
        return _read(data)
    except (_UnusualError, IndexError, error):
        return None


def _read(data: bytes) -> ClientHello:
    end = len(data)
    if data[0] != HandshakeType.CLIENT_HELLO or int.from_bytes(data[1:4], "big") != end - 4:
        raise _UnusualError
    if data[4:RANDOM] != b"\x03\x03":
        raise _UnusualError
    at = SESSION + 1 + data[SESSION]
    session = data[SESSION + 1 : at]
    (size,) = _SHORT(data, at)
    suites = _numbers(data[at : at + 2 + size], 2)
    at += 2 + size
    compressions = list(data[at + 1 : at + 1 + data[at]])
    at += 1 + data[at]
    if at + 2 + _SHORT(data, at)[0] != end:
        raise _UnusualError
    at += 2
    hello = ClientHello(data[RANDOM:SESSION], session, suites, compressions)
    while at < end:
        kind, size = _PAIR(data, at)
        start = at + 4
        at = start + size
        if at > end:
            raise _UnusualError
        _read_extension(hello, kind, data[start:at])
    return hello


def _read_extension(hello: ClientHello, kind: int, body: bytes) -> None:
    if kind == ExtensionType.KEY_SHARE:
        hello.key_share = _shares(body)
    elif kind == ExtensionType.SUPPORTED_VERSIONS:
        hello.supported_versions = _numbers(body, 1)
    elif kind == ExtensionType.SIGNATURE_ALGORITHMS:
        hello.signature_algorithms = _numbers(body, 2)
    elif kind == ExtensionType.SUPPORTED_GROUPS:
        hello.supported_groups = _numbers(body, 2)
    elif kind == ExtensionType.PSK_KEY_EXCHANGE_MODES:
        if body[0] != len(body) - 1:
            raise _UnusualError
        hello.psk_key_exchange_modes = list(body[1:])
    elif kind == ExtensionType.SERVER_NAME:
        name = body[5:]
        if (
            _SHORT(body, 0)[0] != len(body) - 2
            or body[2]
            or _SHORT(body, 3)[0] != len(name)
            or not name.isascii()
        ):
            raise _UnusualError
        hello.server_name = name.decode("ascii")
    elif kind == ExtensionType.ALPN:
        hello.alpn_protocols = _protocols(body)
    elif kind in (ExtensionType.PRE_SHARED_KEY, ExtensionType.EARLY_DATA):
        raise _UnusualError
    else:
        hello.other_extensions.append((kind, body))


def _numbers(body: bytes, prefix: int) -> list[int]:
    """A list of 16-bit numbers after its length in `prefix` bytes."""
    size = len(body) - prefix
    if size < 0 or size & 1 or int.from_bytes(body[:prefix], "big") != size:
        raise _UnusualError
    return list(unpack_from(f">{size // 2}H", body, prefix))


def _shares(body: bytes) -> list[tuple[int, bytes]]:
    end = len(body)
    if _SHORT(body, 0)[0] != end - 2:
        raise _UnusualError
    shares = []
    at = 2
    while at < end:
        group, size = _PAIR(body, at)
        at += 4 + size
        if at > end:
            raise _UnusualError
        shares.append((group, body[at - size : at]))
    return shares


def _protocols(body: bytes) -> list[str]:
    end = len(body)
    if _SHORT(body, 0)[0] != end - 2:
        raise _UnusualError
    names = []
    at = 2
    while at < end:
        start = at + 1
        at = start + body[at]
        if at > end:
            raise _UnusualError
        name = body[start:at]
        if name.isascii():  # others are reserved values (GREASE)
            names.append(name.decode("ascii"))
    return names
