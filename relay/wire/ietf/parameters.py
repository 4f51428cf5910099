"""Message parameters: typed attributes, however the draft writes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from relay.wire.errors import DecodeError
from relay.wire.ietf.cursor import Reader, Writer, as_flag
from relay.wire.ietf.filters import read_filter, write_filter
from relay.wire.ietf.profile import DraftProfile, FilterForm
from relay.wire.ietf.values import Filter, GroupOrder, Location, Token, TokenKind, TrackNamespace


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of one message; None is absent. They hold the fixed fields of a draft, too (14).

    The codec does not check in which message a parameter may be: the draft of the peer says that. On 14 absent
    fields are written as: priority 128, order of the publisher, forward, next object.
    """

    delivery_timeout: int | None = None  # ms
    tokens: tuple[Token, ...] = ()
    max_cache_duration: int | None = None  # ms; 14 only
    rendezvous_timeout: int | None = None  # ms
    """How long a subscriber waits for a publisher."""
    subgroup_delivery_timeout: int | None = None  # ms
    expires: int | None = None  # ms; 0 is never
    largest: Location | None = None
    """The newest object; absent if there is none yet."""
    fill_timeout: int | None = None  # ms
    forward: bool | None = None
    """Absent is true in a request, unchanged in an update."""
    priority: int | None = None
    """0 to 255; lower is more urgent. Absent is 128 in a request."""
    filter: Filter | None = None
    order: GroupOrder | None = None
    fill: Parameters | None = None
    """Asks for objects before the subscription's start: its `filter` says which."""
    range_filters: tuple[tuple[int, bytes], ...] = ()
    """(type, value), to be refused."""
    new_group: int | None = None
    """Start a group, greater than this one if it is not 0."""
    prefix: TrackNamespace | None = None
    """Replaces that of a namespace request."""
    include_properties: bool | None = None
    hop_path: tuple[int, ...] | None = None
    """Ids of relays, of peers that declared RELAY_HOPS."""
    route_cost: int | None = None
    hidden: int | None = None


NO_PARAMETERS: Final = Parameters()

MAX_PARAMETERS: Final = 64
"""Most parameters of one message: more than there are, and enough for tokens."""


class _Value(NamedTuple):
    read: Callable[[Reader], Any]
    """Reads the value to the end of the reader."""
    write: Callable[[Writer, Any], None]
    bare: bool = False
    """It has no length where `typed_parameters`; else even types are numbers, and odd ones have a length."""


def read_token(reader: Reader) -> Token:
    """Read a token to the end of `reader`."""
    number = reader.varint()
    if number > TokenKind.USE_VALUE:
        raise DecodeError(f"unknown alias type {number} of a token")
    kind = TokenKind(number)
    alias = 0 if kind is TokenKind.USE_VALUE else reader.varint()
    if kind in _WITHOUT_VALUE:
        return Token(kind=kind, alias=alias)
    type_ = reader.varint()
    return Token(reader.rest(), type_, kind, alias)


def write_token(writer: Writer, token: Token) -> None:
    """Write a token without a length."""
    writer.varint(token.kind)
    if token.kind is not TokenKind.USE_VALUE:
        writer.varint(token.alias)
    if token.kind not in _WITHOUT_VALUE:
        writer.varint(token.type)
        writer.raw(token.value)


_WITHOUT_VALUE: Final = (TokenKind.DELETE, TokenKind.USE_ALIAS)


def order_of(value: int) -> GroupOrder | None:
    """0 is the publisher's choice: some peers write it where they should leave it out."""
    if value > GroupOrder.DESCENDING:
        raise DecodeError(f"unknown group order {value}")
    return GroupOrder(value) if value else None


def _read_ids(reader: Reader) -> tuple[int, ...]:
    ids: list[int] = []
    while len(reader):
        ids.append(reader.varint())
    return tuple(ids)


def _write_ids(writer: Writer, ids: tuple[int, ...]) -> None:
    for hop in ids:
        writer.varint(hop)


def _read_fill(reader: Reader) -> Parameters:
    return read_parameters(reader, nested=True)


def _write_fill(writer: Writer, params: Parameters) -> None:
    write_parameters(writer, params)


_NUMBER: Final = _Value(Reader.varint, Writer.varint, bare=True)
_FLAG: Final = _Value(lambda reader: as_flag(reader.small()), Writer.small, bare=True)
_FILTER: Final = _Value(read_filter, write_filter)
_PREFIX: Final = _Value(Reader.namespace, Writer.namespace)
_TOKEN: Final = _Value(read_token, write_token)
_FILL: Final = _Value(_read_fill, _write_fill)
_RANGE: Final = _Value(Reader.rest, Writer.raw)

_CACHE: Final = 0x04
_TABLE: Final[dict[int, tuple[str, _Value]]] = {
    0x02: ("delivery_timeout", _NUMBER),
    0x03: ("tokens", _TOKEN),
    _CACHE: ("rendezvous_timeout", _NUMBER),
    0x06: ("subgroup_delivery_timeout", _NUMBER),
    0x08: ("expires", _NUMBER),
    0x09: ("largest", _Value(Reader.location, Writer.location, bare=True)),
    0x0A: ("fill_timeout", _NUMBER),
    0x10: ("forward", _FLAG),
    0x20: ("priority", _Value(Reader.small, Writer.small, bare=True)),
    0x21: ("filter", _FILTER),
    0x22: ("order", _Value(lambda reader: order_of(reader.small()), Writer.small, bare=True)),
    0x23: ("fill", _FILL),
    **dict.fromkeys(range(0x25, 0x2A), ("range_filters", _RANGE)),
    0x32: ("new_group", _NUMBER),
    0x34: ("prefix", _PREFIX),
    0x35: ("include_properties", _FLAG),
    0x40B57: ("hop_path", _Value(_read_ids, _write_ids)),
    0x40B58: ("route_cost", _NUMBER),
    0x40B5E: ("hidden", _NUMBER),
}
"""Ascending. All are understood on all drafts but 14: peers send some to drafts that lack them."""

FIXED: Final = frozenset(("expires", "largest", "forward", "priority", "filter", "order"))
"""Fields of messages where `fixed_fields`, and then no parameters."""


def _named(number: int, profile: DraftProfile) -> tuple[str, _Value] | None:
    if number == _CACHE and not profile.rendezvous:
        return "max_cache_duration", _NUMBER
    return None if profile.fixed_fields and number > _CACHE else _TABLE.get(number)


def _has_length(number: int, kind: _Value, profile: DraftProfile) -> bool:
    if not profile.typed_parameters:
        return bool(number & 1)
    if kind is _FILTER:
        return profile.filter_form is not FilterForm.TYPED
    return not kind.bare and not (kind is _PREFIX and profile.bare_prefix)


def read_parameters(reader: Reader, *, nested: bool = False) -> Parameters:
    """Read a count and the parameters. An unknown one is an error, or ignored where `fixed_fields`."""
    values: dict[str, Any] = {}
    number = 0
    for _ in range(reader.bounded(MAX_PARAMETERS)):
        number = reader.type_after(number)
        named = _named(number, reader.profile)
        if named is None:
            if not reader.profile.fixed_fields:
                raise DecodeError(f"unknown parameter {number:#x}")
            _skipped = reader.sized() if number & 1 else reader.varint()
            continue
        name, kind = named
        if nested and kind is _FILL:
            raise DecodeError("fill parameters within fill parameters")
        if _has_length(number, kind, reader.profile):
            inner = reader.inner()
            value = kind.read(inner)
            inner.done()
        else:
            value = kind.read(reader)
        if kind is _TOKEN or kind is _RANGE:
            values[name] = (*values.get(name, ()), value if kind is _TOKEN else (number, value))
        elif name in values:
            raise DecodeError(f"parameter {number:#x} is repeated")
        else:
            values[name] = value
    return Parameters(**values) if values else NO_PARAMETERS


def write_parameters(writer: Writer, params: Parameters) -> None:
    """Write the count and the parameters; ValueError for those that the draft lacks."""
    profile = writer.profile
    missing = sorted(name for name in profile.lacks if getattr(params, name) not in (None, ()))
    if missing:
        raise ValueError(f"{profile.name} lacks parameters: {', '.join(missing)}")
    found: list[tuple[int, _Value, Any]] = []
    for number in _TABLE:
        name, kind = _named(number, profile) or ("", _NUMBER)
        value = getattr(params, name) if name else None
        if value is None:
            continue
        if kind is _RANGE:
            found += [(number, kind, content) for of, content in value if of == number]
        elif kind is _TOKEN:
            found += [(number, kind, token) for token in value]
        else:
            found.append((number, kind, value))
    writer.varint(len(found))
    before = 0
    for number, kind, value in found:
        writer.varint(number - before)
        before = number if profile.delta_types else 0
        if _has_length(number, kind, profile):
            inner = Writer(profile)
            kind.write(inner, value)
            writer.sized(bytes(inner))
        else:
            kind.write(writer, value)
