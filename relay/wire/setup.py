"""SETUP of 05 and 06, and the older exchange for 01 and 02, in its three forms."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Self

from relay.wire.cursor import Cursor, framed, require
from relay.wire.errors import DecodeError, ProtocolViolation
from relay.wire.text import text_of
from relay.wire.varint import encode_varint
from relay.wire.version import Version

MAX_SETUP_PARAMS: Final = 64  # the protocol's limit, here for the older exchange, too

_MAX_U16: Final = 0xFFFF


class _Param(IntEnum):
    PROBE = 1
    PATH = 2
    ROLE = 3
    COST = 4
    ORIGIN = 5


def _read_count(cursor: Cursor) -> int:
    count = cursor.varint()
    if count > MAX_SETUP_PARAMS:
        raise ProtocolViolation(f"SETUP has at most {MAX_SETUP_PARAMS} parameters, not {count}")
    return count


def _read_params(cursor: Cursor, *, even_are_numbers: bool) -> dict[int, int | bytes]:
    params: dict[int, int | bytes] = {}
    for _ in range(_read_count(cursor)):
        key = cursor.varint()
        if key in params:
            raise ProtocolViolation(f"SETUP parameter {key:#x} is repeated")
        params[key] = cursor.varint() if even_are_numbers and key % 2 == 0 else cursor.sized()
    cursor.done()
    return params


def _number(value: bytes, name: str) -> int:
    cursor = Cursor(value)
    try:
        number = cursor.varint()
        cursor.done()
    except DecodeError:
        raise DecodeError(f"SETUP parameter {name} is not one number") from None
    return number


@dataclass(frozen=True, slots=True)
class Setup:
    """05 and 06: the message of each side's Setup stream; None is an absent parameter, unknown ones are dropped.

    `probe` is the level offered (0 none, 1 report, 2 or more increase), `path` the request path with its query
    (clients on raw QUIC), `role` 1 for a peer that only publishes and 2 for one that only subscribes, `cost`
    that of the connection (absent: 1), `origin` the sender's hop id.
    """

    probe: int | None = None
    path: str | None = None
    role: int | None = None
    cost: int | None = None
    origin: int | None = None

    def encode(self, version: Version) -> bytes:
        require(version, Version.LITE_05, "SETUP stream")
        numbers = (
            (_Param.PROBE, self.probe),
            (_Param.ROLE, self.role),
            (_Param.COST, self.cost),
            (_Param.ORIGIN, self.origin),
        )
        values = {key: encode_varint(value) for key, value in numbers if value is not None}
        if self.path is not None:
            values[_Param.PATH] = self.path.encode()
        parts = [encode_varint(key) + framed(value) for key, value in sorted(values.items())]
        return framed(encode_varint(len(parts)), *parts)

    @classmethod
    def decode(cls, body: bytes, version: Version) -> Self:  # noqa: ARG003 - one signature for all messages
        params = _read_params(Cursor(body), even_are_numbers=False)

        def number(key: _Param) -> int | None:
            value = params.get(key)
            return _number(value, key.name.lower()) if isinstance(value, bytes) else None

        path = params.get(_Param.PATH)
        return cls(
            probe=number(_Param.PROBE),
            path=text_of(path) if isinstance(path, bytes) else None,
            role=number(_Param.ROLE),
            cost=number(_Param.COST),
            origin=number(_Param.ORIGIN),
        )


class SetupForm(IntEnum):
    """Forms of the older exchange, by the first number on the client's stream."""

    SESSION = 0x00
    COMPAT = 0x40
    DRAFT14 = 0x20


REPLY_LEAD: Final = {
    SetupForm.SESSION: b"",
    SetupForm.COMPAT: encode_varint(0x41),
    SetupForm.DRAFT14: encode_varint(0x21),
}
"""The first bytes of the server's reply."""

_PATH_KEY: Final = 1


def _encode_params(form: SetupForm, params: dict[int, int | bytes]) -> bytes:
    parts = [encode_varint(len(params))]
    for key, value in params.items():
        number_wanted = form is SetupForm.DRAFT14 and key % 2 == 0
        if isinstance(value, int) != number_wanted:
            wanted = "a number" if number_wanted else "bytes"
            raise ValueError(f"SETUP parameter {key:#x} is {wanted} in the form {form.name}")
        parts.append(encode_varint(key))
        parts.append(encode_varint(value) if isinstance(value, int) else framed(value))
    return b"".join(parts)


def _framed_as(form: SetupForm, body: bytes) -> bytes:
    if form is not SetupForm.DRAFT14:
        return framed(body)
    if len(body) > _MAX_U16:
        raise ValueError(f"SETUP has {len(body)} bytes, its length field holds {_MAX_U16}")
    return len(body).to_bytes(2, "big") + body


@dataclass(frozen=True, slots=True)
class ClientSetup:
    """Versions by setup code, the favourite first.

    Values of parameters are bytes, but numbers under an even key in the form DRAFT14.
    """

    form: SetupForm
    versions: tuple[int, ...]
    params: dict[int, int | bytes] = field(default_factory=dict)

    @property
    def path(self) -> str | None:
        """The path with the query: a client on raw QUIC sends it in the form DRAFT14."""
        value = self.params.get(_PATH_KEY) if self.form is SetupForm.DRAFT14 else None
        return text_of(value) if isinstance(value, bytes) else None

    def encode(self) -> bytes:
        versions = map(encode_varint, self.versions)
        body = b"".join(
            (encode_varint(len(self.versions)), *versions, _encode_params(self.form, self.params))
        )
        return encode_varint(self.form) + _framed_as(self.form, body)

    @classmethod
    def decode(cls, body: bytes, form: SetupForm) -> Self:
        """Read what follows form and length; DecodeError also for a path that is no text."""
        cursor = Cursor(body)
        count = cursor.varint()
        if count > len(cursor):
            raise DecodeError(f"{count} versions cannot fit in {len(cursor)} bytes")
        versions = tuple(cursor.varint() for _ in range(count))
        rest = cursor.rest()
        try:
            params = _read_params(Cursor(rest), even_are_numbers=form is SetupForm.DRAFT14)
        except DecodeError:
            if form is not SetupForm.DRAFT14:
                raise
            # Rust clients of late 2025 (moq-lite 0.9) use the new opening with every parameter length-prefixed.
            params = _read_params(Cursor(rest), even_are_numbers=False)
        setup = cls(form, versions, params)
        _ = setup.path
        return setup


@dataclass(frozen=True, slots=True)
class ServerSetup:
    """The chosen version, by setup code."""

    form: SetupForm
    version: int
    params: dict[int, int | bytes] = field(default_factory=dict)

    def encode(self) -> bytes:
        body = encode_varint(self.version) + _encode_params(self.form, self.params)
        return REPLY_LEAD[self.form] + _framed_as(self.form, body)

    @classmethod
    def decode(cls, body: bytes, form: SetupForm) -> Self:
        cursor = Cursor(body)
        version = cursor.varint()
        return cls(form, version, _read_params(cursor, even_are_numbers=form is SetupForm.DRAFT14))
