"""Message parameters: typed attributes, however the draft writes them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from relay.wire.errors import DecodeError
from relay.wire.ietf.cursor import Reader, Writer, as_flag
from relay.wire.ietf.filters import read_filter, write_filter
from relay.wire.ietf.profile import DraftProfile, FilterForm
from relay.wire.ietf.values import Filter, GroupOrder, Location, Token, TokenKind, TrackNamespace


@dataclass(frozen=True, slots=True)
class Parameters:
    """Of one message; None is absent. Where a draft has fixed fields instead (14), these hold them.

    The codec does not check in which message a parameter may be: the draft of the peer says that. On 14 absent fields
    are written as: priority 128, order of the publisher, forward, next object.
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
    """Objects are sent; absent is true in a request, unchanged in an update."""
    priority: int | None = None
    """The subscriber's, 0 to 255; lower is more urgent. Absent is 128 in a request."""
    filter: Filter | None = None
    order: GroupOrder | None = None
    fill: Parameters | None = None
    """Objects before the subscription's start are asked for: its `filter` says which."""
    range_filters: tuple[tuple[int, bytes], ...] = ()
    """Range filters as (type, value), to be refused."""
    new_group: int | None = None
    """The publisher is asked to start a group, greater than this one if it is not 0."""
    prefix: TrackNamespace | None = None
    """Replaces that of a namespace request."""
    include_properties: bool | None = None
    hop_path: tuple[int, ...] | None = None
    """Ids of relays, of peers that declared RELAY_HOPS."""
    route_cost: int | None = None
    hidden: int | None = None


NO_PARAMETERS: Final = Parameters()

MAX_PARAMETERS: Final = 64
"""Of one message: more than there are, and enough for tokens."""


class _Kind(Enum):
    """How a value is written where `typed_parameters`; else even types are numbers, odd ones have a length."""

    NUMBER = auto()
    BYTE = auto()
    FLAG = auto()
    ORDER = auto()
    LOCATION = auto()
    FILTER = auto()
    PREFIX = auto()
    TOKEN = auto()
    FILL = auto()
    RANGE = auto()
    IDS = auto()


_REPEATED: Final = {_Kind.TOKEN, _Kind.RANGE}
_SMALL: Final = {_Kind.BYTE, _Kind.FLAG, _Kind.ORDER}
_BARE: Final = {_Kind.NUMBER, _Kind.LOCATION, *_SMALL}
"""Without a length."""

_MAX_PRIORITY: Final = 255

_CACHE: Final = 0x04
_TABLE: Final[dict[int, tuple[str, _Kind]]] = {
    0x02: ("delivery_timeout", _Kind.NUMBER),
    0x03: ("tokens", _Kind.TOKEN),
    _CACHE: ("rendezvous_timeout", _Kind.NUMBER),
    0x06: ("subgroup_delivery_timeout", _Kind.NUMBER),
    0x08: ("expires", _Kind.NUMBER),
    0x09: ("largest", _Kind.LOCATION),
    0x0A: ("fill_timeout", _Kind.NUMBER),
    0x10: ("forward", _Kind.FLAG),
    0x20: ("priority", _Kind.BYTE),
    0x21: ("filter", _Kind.FILTER),
    0x22: ("order", _Kind.ORDER),
    0x23: ("fill", _Kind.FILL),
    **dict.fromkeys(range(0x25, 0x2A), ("range_filters", _Kind.RANGE)),
    0x32: ("new_group", _Kind.NUMBER),
    0x34: ("prefix", _Kind.PREFIX),
    0x35: ("include_properties", _Kind.FLAG),
    0x40B57: ("hop_path", _Kind.IDS),
    0x40B58: ("route_cost", _Kind.NUMBER),
    0x40B5E: ("hidden", _Kind.NUMBER),
}
"""Ascending. All are understood on all drafts: peers send some to drafts that lack them."""

FIXED: Final = frozenset(("expires", "largest", "forward", "priority", "filter", "order"))
"""Fields of messages where `fixed_fields`, and then no parameters."""


def _named(number: int, profile: DraftProfile) -> tuple[str, _Kind] | None:
    if number == _CACHE and not profile.rendezvous:
        return "max_cache_duration", _Kind.NUMBER
    return None if profile.fixed_fields and number > _CACHE else _TABLE.get(number)


def _has_length(number: int, kind: _Kind, profile: DraftProfile) -> bool:
    if not profile.typed_parameters:
        return bool(number & 1)
    if kind is _Kind.FILTER:
        return profile.filter_form is not FilterForm.TYPED
    if kind is _Kind.PREFIX:
        return not profile.bare_prefix
    return kind not in _BARE


def read_parameters(reader: Reader, *, nested: bool = False) -> Parameters:
    """A count and that many parameters. An unknown one is an error, or ignored where `fixed_fields`."""
    count = reader.bounded(MAX_PARAMETERS)
    values: dict[str, Any] = {}
    number = 0
    for _ in range(count):
        number = reader.type_after(number)
        named = _named(number, reader.profile)
        if named is None:
            if not reader.profile.fixed_fields:
                raise DecodeError(f"unknown parameter {number:#x}")
            _ = reader.sized() if number & 1 else reader.varint()
            continue
        name, kind = named
        if nested and kind is _Kind.FILL:
            raise DecodeError("fill parameters within fill parameters")
        if _has_length(number, kind, reader.profile):
            inner = reader.inner()
            value = _read_value(inner, number, kind)
            inner.done()
        else:
            value = _read_value(reader, number, kind)
        if kind in _REPEATED:
            values[name] = (*values.get(name, ()), value)
        elif name in values:
            raise DecodeError(f"parameter {number:#x} is repeated")
        else:
            values[name] = value
    return Parameters(**values) if values else NO_PARAMETERS


def _read_value(reader: Reader, number: int, kind: _Kind) -> Any:
    if kind in _SMALL:
        return _small(reader.byte() if reader.profile.typed_parameters else reader.varint(), kind)
    match kind:
        case _Kind.LOCATION:
            return reader.location()
        case _Kind.FILTER:
            return read_filter(reader)
        case _Kind.PREFIX:
            return reader.namespace()
        case _Kind.TOKEN:
            return read_token(reader)
        case _Kind.FILL:
            return read_parameters(reader, nested=True)
        case _Kind.RANGE:
            return number, reader.rest()
        case _Kind.IDS:
            ids: list[int] = []
            while len(reader):
                ids.append(reader.varint())
            return tuple(ids)
    return reader.varint()


def _small(value: int, kind: _Kind) -> int | GroupOrder | None:
    if kind is _Kind.FLAG:
        return as_flag(value)
    if kind is _Kind.ORDER:
        return order_of(value)
    if value > _MAX_PRIORITY:
        raise DecodeError(f"a priority of {value}")
    return value


def order_of(value: int) -> GroupOrder | None:
    """0 is the publisher's choice: some peers write it where they should leave it out."""
    if value > GroupOrder.DESCENDING:
        raise DecodeError(f"unknown group order {value}")
    return GroupOrder(value) if value else None


def write_parameters(writer: Writer, params: Parameters) -> None:
    """Count and parameters; ValueError for those that the draft lacks."""
    profile = writer.profile
    found: list[tuple[int, _Kind, Any]] = []
    for number in _TABLE:
        named = _named(number, profile)
        value = getattr(params, named[0]) if named else None
        if named is None or value is None:
            continue
        kind = named[1]
        if kind is _Kind.RANGE:
            found += [(number, kind, content) for of, content in value if of == number]
        elif kind is _Kind.TOKEN:
            found += [(number, kind, token) for token in value]
        else:
            found.append((number, kind, value))
    missing = sorted(name for name in profile.lacks if getattr(params, name) not in (None, ()))
    if missing:
        raise ValueError(f"{profile.name} lacks parameters: {', '.join(missing)}")
    writer.varint(len(found))
    before = 0
    for number, kind, value in found:
        writer.varint(number - before)
        before = number if profile.delta_types else 0
        if _has_length(number, kind, profile):
            inner = Writer(profile)
            _write_value(inner, kind, value)
            writer.sized(bytes(inner))
        else:
            _write_value(writer, kind, value)


def _write_value(writer: Writer, kind: _Kind, value: Any) -> None:
    if kind in _SMALL and writer.profile.typed_parameters:
        writer.byte(value)
        return
    match kind:
        case _Kind.LOCATION:
            writer.location(value)
        case _Kind.FILTER:
            write_filter(writer, value)
        case _Kind.PREFIX:
            writer.namespace(value)
        case _Kind.TOKEN:
            write_token(writer, value)
        case _Kind.FILL:
            write_parameters(writer, value)
        case _Kind.RANGE:
            writer.raw(value)
        case _Kind.IDS:
            for hop in value:
                writer.varint(hop)
        case _:
            writer.varint(value)


def read_token(reader: Reader) -> Token:
    """To the end of `reader`."""
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
    """Without a length."""
    writer.varint(token.kind)
    if token.kind is not TokenKind.USE_VALUE:
        writer.varint(token.alias)
    if token.kind not in _WITHOUT_VALUE:
        writer.varint(token.type)
        writer.raw(token.value)


_WITHOUT_VALUE: Final = (TokenKind.DELETE, TokenKind.USE_ALIAS)
