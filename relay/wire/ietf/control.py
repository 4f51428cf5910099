"""Control messages: `encode` writes one, `MessageDecoder` reads a stream of them.

A message is its type, its length in two bytes, and its body. `_layouts` has a row of attributes for each
message of a draft: the same type is another message in another draft. Attributes of `FIXED` are those of the
parameters: 14 has them as fields.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from relay.wire.errors import DecodeError
from relay.wire.ietf import messages as m
from relay.wire.ietf.codes import RequestKind
from relay.wire.ietf.cursor import Reader, Short, Writer
from relay.wire.ietf.filters import read_filter, write_filter
from relay.wire.ietf.parameters import (
    FIXED,
    NO_PARAMETERS,
    Parameters,
    order_of,
    read_parameters,
    read_token,
    write_parameters,
    write_token,
)
from relay.wire.ietf.profile import DraftProfile
from relay.wire.ietf.values import AbsoluteRange, Filter, GroupOrder, Location, NextObject
from relay.wire.ietf.varint import MAX_VI64
from relay.wire.incremental import MAX_MESSAGE, Incremental
from relay.wire.text import text_of
from relay.wire.varint import MAX_VARINT

SETUP: Final = 0x2F00
"""The type of the message, and of the stream that begins with it."""

_MAX_BODY: Final = 0xFFFF
_DEFAULT_PRIORITY: Final = 128


def encode(message: m.Message, profile: DraftProfile) -> bytes:
    """ValueError for what does not fit, or what the draft lacks."""
    kind = type(message)
    layout = _layouts_by_class(profile).get((kind, _variant(message))) or _layouts_by_class(profile).get(
        (kind, None)
    )
    if layout is None:
        raise ValueError(f"{profile.name} has no such message: {message}")
    body, lead = Writer(profile), Writer(profile)
    _write(message, layout, body)
    content = bytes(body)
    if len(content) > _MAX_BODY:
        raise ValueError(f"a message of {len(content)} bytes, at most {_MAX_BODY} fit")
    lead.varint(layout.kind)
    return bytes(lead) + len(content).to_bytes(2, "big") + content


class MessageDecoder(Incremental[m.Message]):
    """A control stream, or a request stream in either direction.

    With `request_streams` control streams are unidirectional: `decoder.UniDecoder` reads them. Which message
    may come when is the session's to check.
    """

    __slots__ = ("profile",)

    def __init__(self, profile: DraftProfile, max_message: int = MAX_MESSAGE) -> None:
        super().__init__(max_message)
        self.profile = profile

    def _next(self) -> m.Message | None:
        lead = Reader(self._buffer, self.profile, self._offset)
        try:
            kind = lead.varint()
            layout = _layouts(self.profile).get(kind)
            if layout is None:
                raise DecodeError(f"{self.profile.name} has no message of type {kind:#x}")
            size = lead.byte() << 8 | lead.byte()
        except Short:
            return None
        body = self._body(size, lead.offset)
        if body is None:
            return None
        reader = Reader(body, self.profile)
        try:
            message = _read(layout, reader)
            reader.done()
        except Short as error:  # the message is complete
            raise DecodeError(str(error)) from None
        return message


# --- fields


class _Field(NamedTuple):
    """How an attribute is written. None is written as `default`; without one only an `optional` field takes it."""

    read: Callable[[Reader], Any]
    write: Callable[[Writer, Any], None]
    default: Any = None
    optional: bool = False


def _nothing(_: Writer, __: Any) -> None:
    """Write no bytes."""


def _read_largest(reader: Reader) -> Location | None:
    return reader.location() if reader.flag() else None


def _write_largest(writer: Writer, value: Location | None) -> None:
    writer.byte(value is not None)
    if value is not None:
        writer.location(value)


def _write_more_params(writer: Writer, value: Parameters) -> None:
    if value != NO_PARAMETERS:
        write_parameters(writer, value)


def _read_range(reader: Reader) -> AbsoluteRange | None:
    """14's update: the end is exclusive, 0 is none, and all zero changes nothing."""
    start, end = reader.location(), reader.varint()
    return AbsoluteRange(start, end - 1 if end else None) if end or start != (0, 0) else None


def _write_range(writer: Writer, value: Filter | None) -> None:
    match value or AbsoluteRange(Location(0, 0)):
        case AbsoluteRange(start, end, None):
            writer.location(start)
            writer.varint(0 if end is None else end + 1)
        case _:
            raise ValueError(f"an update of this draft needs a range: {value}")


def _read_end(reader: Reader) -> tuple[int, int | None]:
    """Group and object, inclusive."""
    group, object_ = reader.location()
    if reader.profile.has_fill:
        return group, None if object_ == MAX_VI64 else object_
    return group, object_ - 1 if object_ else None


def _write_end(writer: Writer, value: tuple[int, int | None]) -> None:
    group, last = value
    if writer.profile.has_fill:
        writer.location(Location(group, MAX_VI64 if last is None else last))
    else:
        writer.location(Location(group, 0 if last is None else last + 1))


def _read_retry(reader: Reader) -> int | None:
    value = reader.varint()
    return value - 1 if value else None


def _read_streams(reader: Reader) -> int | None:
    value = reader.varint()
    return None if value >= MAX_VARINT else value


def _read_interest(reader: Reader) -> m.Interest:
    value = reader.varint()
    if value > m.Interest.BOTH:
        raise DecodeError(f"unknown subscribe options {value}")
    return m.Interest(value)


def _only_namespaces(writer: Writer, value: m.Interest) -> None:
    if value is not m.Interest.NAMESPACES:
        raise ValueError(f"{writer.profile.name} subscribes to tracks by another message")


def _read_redirect(reader: Reader) -> m.Redirect | None:
    return m.Redirect(reader.uri(), *reader.name()) if len(reader) else None


def _write_redirect(writer: Writer, value: m.Redirect | None) -> None:
    if value is not None:
        writer.uri(value.uri)
        writer.name((value.namespace, value.track))


def _write_optional(writer: Writer, value: int | None) -> None:
    if value is not None:
        writer.varint(value)


_NUMBER: Final = _Field(Reader.varint, Writer.varint)
_NAMESPACE: Final = _Field(Reader.namespace, Writer.namespace)
_WHOLE: Final = _Field(Reader.whole_namespace, Writer.whole_namespace)
_PARAMS: Final = _Field(read_parameters, write_parameters)

_ID: Final = ("request_id", _NUMBER)
_NAME: Final = ("namespace track", _Field(Reader.name, Writer.name))
_PREFIX: Final = ("prefix", _NAMESPACE)
_SUFFIX: Final = ("suffix", _NAMESPACE)
_ALIAS: Final = ("alias", _NUMBER)
_CODE: Final = ("code", _NUMBER)
_REASON: Final = ("reason", _Field(Reader.reason, Writer.reason))
_WITH: Final = ("params", _PARAMS)
_PROPERTIES: Final = ("properties", _Field(Reader.pairs, Writer.pairs))
_END: Final = ("end_group end_object", _Field(_read_end, _write_end))
_LAST: Final = ("end_of_track", _Field(Reader.flag, Writer.byte))
_STREAMS: Final = (
    "streams",
    _Field(_read_streams, lambda w, v: w.varint(w.profile.max_varint if v is None else v), optional=True),
)
_RETRY: Final = (
    "retry_after",
    _Field(_read_retry, lambda w, v: w.varint(0 if v is None else v + 1), optional=True),
)

_PRIORITY: Final = ("priority", _Field(Reader.byte, Writer.byte, _DEFAULT_PRIORITY))
_ORDER: Final = ("order", _Field(lambda r: order_of(r.byte()), Writer.byte, 0))
_SET_ORDER: Final = ("order", _Field(lambda r: order_of(r.byte()) or GroupOrder.ASCENDING, Writer.byte, 1))
_FORWARD: Final = ("forward", _Field(Reader.flag, Writer.byte, default=True))
_FILTER: Final = ("filter", _Field(read_filter, write_filter, NextObject()))
_EXPIRES: Final = ("expires", _Field(Reader.varint, Writer.varint, 0))
_LARGEST: Final = ("largest", _Field(_read_largest, _write_largest, optional=True))


# --- SETUP and FETCH: fields depend on each other

_TEXTS: Final = {0x01: "path", 0x05: "authority", 0x07: "implementation"}
_NUMBERS: Final = {0x02: "max_request_id", 0x04: "max_token_cache", 0x40B5A: "solicit", 0x40B5C: "hidden"}
_TOKEN: Final = 0x03
_MAX_VERSIONS: Final = 64
_MAX_OPTIONS: Final = 64


def _read_setup(reader: Reader, *, from_server: bool = False) -> m.Setup:
    profile = reader.profile
    versions: tuple[int, ...] = ()
    if profile.versions_in_setup:
        count = 1 if from_server else reader.bounded(_MAX_VERSIONS)
        versions = tuple([reader.varint() for _ in range(count)])
    pairs = reader.pairs(None if profile.request_streams else reader.bounded(_MAX_OPTIONS))
    values: dict[str, Any] = {}
    other: list[tuple[int, int | bytes]] = []
    for kind, value in pairs:
        name = _TEXTS.get(kind) or _NUMBERS.get(kind)
        if kind == _TOKEN and isinstance(value, bytes):
            values["tokens"] = (*values.get("tokens", ()), read_token(Reader(value, profile)))
        elif name is None:
            other.append((kind, value))
        elif name in values:
            raise DecodeError(f"set-up option {kind:#x} is repeated")
        else:
            values[name] = text_of(value) if isinstance(value, bytes) else value
    other.sort(key=lambda pair: pair[0])
    return m.Setup(**values, other=tuple(other), versions=versions, from_server=from_server)


def _write_setup(writer: Writer, message: m.Setup) -> None:
    profile = writer.profile
    if profile.versions_in_setup:
        if not message.from_server:
            writer.varint(len(message.versions))
        elif len(message.versions) != 1:
            raise ValueError("a server chooses one version")
        for version in message.versions:
            writer.varint(version)
    pairs = list(message.other)
    for kind, name in (_TEXTS | _NUMBERS).items():
        value = getattr(message, name)
        if value is not None:
            pairs.append((kind, value.encode() if isinstance(value, str) else value))
    for token in message.tokens:
        inner = Writer(profile)
        write_token(inner, token)
        pairs.append((_TOKEN, bytes(inner)))
    pairs.sort(key=lambda pair: pair[0])
    if not profile.request_streams:
        writer.varint(len(pairs))
    writer.pairs(tuple(pairs))


_STANDALONE: Final = 1
_RELATIVE: Final = 2
_ABSOLUTE: Final = 3


def _read_fetch(reader: Reader) -> m.Fetch | m.JoiningFetch:
    request_id = reader.varint()
    if reader.profile.has_fill:
        namespace, track = reader.name()
        params = read_parameters(reader)
        return m.Fetch(request_id, namespace, track, params.filter, replace(params, filter=None))
    fixed: dict[str, Any] = {}
    if reader.profile.fixed_fields:
        fixed = {"priority": reader.byte(), "order": order_of(reader.byte())}
    kind = reader.varint()
    if kind == _STANDALONE:
        namespace, track = reader.name()
        wanted = AbsoluteRange(reader.location(), *_read_end(reader))
        return m.Fetch(request_id, namespace, track, wanted, replace(read_parameters(reader), **fixed))
    if kind not in (_RELATIVE, _ABSOLUTE):
        raise DecodeError(f"unknown kind of fetch {kind}")
    joined, start = reader.varint(), reader.varint()
    params = replace(read_parameters(reader), **fixed)
    return m.JoiningFetch(request_id, joined, start, kind == _RELATIVE, params)


def _write_fetch(writer: Writer, message: m.Fetch | m.JoiningFetch) -> None:
    writer.varint(message.request_id)
    params = message.params
    if writer.profile.fixed_fields:
        writer.byte(_DEFAULT_PRIORITY if params.priority is None else params.priority)
        writer.byte(params.order or 0)
    if isinstance(message, m.JoiningFetch):
        writer.varint(_RELATIVE if message.relative else _ABSOLUTE)
        writer.varint(message.subscribe_id)
        writer.varint(message.start)
    elif writer.profile.has_fill:
        writer.name((message.namespace, message.track))
        params = replace(params, filter=message.range)
    else:
        match message.range:
            case AbsoluteRange(start, int(group), last):
                writer.varint(_STANDALONE)
                writer.name((message.namespace, message.track))
                writer.location(start)
                _write_end(writer, (group, last))
            case _:
                raise ValueError(f"a fetch of this draft has a start and an end: {message}")
    write_parameters(writer, params)


# --- layouts


class _Layout(NamedTuple):
    kind: int
    of: type[m.Message]
    fields: tuple[tuple[str, _Field], ...]
    """Names of attributes and their fields; without a name the value is the whole message."""

    variant: Any = None
    """What the type says: the request that a reply is for, or that the server speaks."""


def _variant(message: m.Message) -> Any:
    return getattr(message, "to", None) or getattr(message, "from_server", None) or None


def _read(layout: _Layout, reader: Reader) -> m.Message:
    values: dict[str, Any] = {}
    fixed: dict[str, Any] = {}
    for name, field in layout.fields:
        value = field.read(reader)
        if not name:
            return value  # type: ignore[no-any-return]
        if name in FIXED:
            fixed[name] = value
        elif " " in name:
            values.update(zip(name.split(), value, strict=True))
        else:
            values[name] = value
    if fixed:
        values["params"] = replace(values["params"], **fixed)
    values.pop(_UNUSED, None)
    if layout.variant:
        values["to"] = layout.variant
    return layout.of(**values)


def _write(message: Any, layout: _Layout, writer: Writer) -> None:
    for name, field in layout.fields:
        if not name:
            value = message
        elif name == _UNUSED:
            value = None
        elif " " in name:
            value = tuple([getattr(message, part) for part in name.split()])
        else:
            value = getattr(message.params if name in FIXED else message, name)
        if value is None:
            value = field.default
            if value is None and not field.optional:
                raise ValueError(f"{writer.profile.name} needs {name} in {message}")
        field.write(writer, value)


_UNUSED: Final = "unused"
_UNUSED_ALIAS: Final = (_UNUSED, _Field(Reader.varint, Writer.varint, 0))


@cache
def _layouts(profile: DraftProfile) -> MappingProxyType[int, _Layout]:
    """The messages of a draft, by type."""
    new, fixed = profile.request_streams, profile.fixed_fields
    reply = () if new else (_ID,)
    wish = (_PRIORITY, _ORDER, _FORWARD, _FILTER) if fixed else ()
    state = (_SET_ORDER, _LARGEST) if fixed else ()
    track = (_PROPERTIES,) if profile.track_properties else ()
    fetch = ("", _Field(_read_fetch, _write_fetch))
    uri = ("uri", _Field(Reader.uri, Writer.uri))
    found = [
        _Layout(0x03, m.Subscribe, (_ID, _NAME, *wish, _WITH)),
        _Layout(
            0x04, m.SubscribeOk, (*reply, _ALIAS, *((_EXPIRES,) if fixed else ()), *state, _WITH, *track)
        ),
        _Layout(0x06, m.PublishNamespace, (_ID, ("namespace", _WHOLE), _WITH)),
        _Layout(0x0B, m.PublishDone, (*reply, ("status", _NUMBER), _STREAMS, _REASON)),
        _Layout(0x0D, m.TrackStatus, (_ID, _NAME, *wish, _WITH)),
        _Layout(0x16, m.Fetch, (fetch,)),
        _Layout(0x18, m.FetchOk, (*reply, *((_SET_ORDER,) if fixed else ()), _LAST, _END, _WITH, *track)),
        _Layout(
            0x1D, m.Publish, (_ID, _NAME, _ALIAS, *state, *((_FORWARD,) if fixed else ()), _WITH, *track)
        ),
    ]
    existing = () if new else (("existing_id", _NUMBER),)
    ranged = (
        (("filter", _Field(_read_range, _write_range, optional=True)), _PRIORITY, _FORWARD) if fixed else ()
    )
    found.append(_Layout(0x02, m.RequestUpdate, (_ID, *existing, *ranged, _WITH)))
    timeout = (("timeout", _NUMBER),) if profile.goaway_timeout else ()
    moved = _Field(lambda r: r.varint() if len(r) else None, _write_optional, optional=True)
    which = (("request_id", moved),) if profile.goaway_request else ()
    found.append(_Layout(0x10, m.Goaway, (uri, *timeout, *which)))
    if new:
        found += [
            _Layout(SETUP, m.Setup, (("", _Field(_read_setup, _write_setup)),)),
            _Layout(0x0F, m.PublishBlocked, (_SUFFIX, ("track", _Field(Reader.sized, Writer.sized)))),
        ]
    else:
        server = _Field(lambda r: _read_setup(r, from_server=True), _write_setup)
        withdrawn = ("namespace", _WHOLE) if fixed else _ID
        found += [
            _Layout(0x09, m.PublishNamespaceDone, (withdrawn,)),
            _Layout(0x0A, m.Unsubscribe, (_ID,)),
            _Layout(0x0C, m.PublishNamespaceCancel, (withdrawn, _CODE, _REASON)),
            _Layout(0x15, m.MaxRequestId, (_ID,)),
            _Layout(0x17, m.FetchCancel, (_ID,)),
            _Layout(0x1A, m.RequestsBlocked, (("maximum", _NUMBER),)),
            _Layout(0x20, m.Setup, (("", _Field(_read_setup, _write_setup)),)),
            _Layout(0x21, m.Setup, (("", server),), variant=True),
        ]
    if profile.subscribe_options:
        interest = _Field(_read_interest, Writer.varint)
    elif fixed:
        interest = _Field(lambda _: m.Interest.BOTH, _nothing)
    else:
        interest = _Field(lambda _: m.Interest.NAMESPACES, _only_namespaces)
    kind = 0x50 if profile.tracks_request else 0x11
    found.append(_Layout(kind, m.SubscribeNamespace, (_ID, _PREFIX, ("interest", interest), _WITH)))
    if profile.tracks_request:
        found.append(_Layout(0x51, m.SubscribeTracks, (_ID, _PREFIX, _WITH)))
    if profile.has_fill:
        found.append(_Layout(0x22, m.PublishStateNotify, (_WITH,)))
    if profile.namespace_streams:
        more = _Field(lambda r: read_parameters(r) if len(r) else NO_PARAMETERS, _write_more_params)
        found += [
            _Layout(0x08, m.Namespace, (_SUFFIX, ("params", more))),
            _Layout(0x0E, m.NamespaceDone, (_SUFFIX,)),
        ]
    found += _layouts_14() if fixed else _replies(reply, new=new)
    return MappingProxyType({layout.kind: layout for layout in found})


def _replies(reply: tuple[tuple[str, _Field], ...], *, new: bool) -> list[_Layout]:
    """REQUEST_OK and REQUEST_ERROR."""
    redirect = (("redirect", _Field(_read_redirect, _write_redirect, optional=True)),) if new else ()
    found = [
        _Layout(0x07, m.RequestOk, (*reply, _WITH, *((_PROPERTIES,) if new else ()))),
        _Layout(0x05, m.RequestError, (*reply, _CODE, _RETRY, _REASON, *redirect)),
    ]
    return found if new else [*found, _Layout(0x1E, m.RequestOk, (*reply, _WITH), RequestKind.PUBLISH)]


def _layouts_14() -> list[_Layout]:
    """The messages of 14, which has replies of its own for each request."""
    none = ("params", _Field(lambda _: NO_PARAMETERS, _nothing))
    status = (_UNUSED_ALIAS, _EXPIRES, _SET_ORDER, _LARGEST, _WITH)
    errors = {
        0x05: RequestKind.SUBSCRIBE,
        0x08: RequestKind.PUBLISH_NAMESPACE,
        0x0F: RequestKind.TRACK_STATUS,
        0x13: RequestKind.SUBSCRIBE_NAMESPACE,
        0x19: RequestKind.FETCH,
        0x1F: RequestKind.PUBLISH,
    }
    return [
        _Layout(0x07, m.RequestOk, (_ID, none), RequestKind.PUBLISH_NAMESPACE),
        _Layout(0x0E, m.RequestOk, (_ID, *status), RequestKind.TRACK_STATUS),
        _Layout(0x12, m.RequestOk, (_ID, none), RequestKind.SUBSCRIBE_NAMESPACE),
        _Layout(0x14, m.UnsubscribeNamespace, (_PREFIX,)),
        _Layout(0x1E, m.RequestOk, (_ID, _FORWARD, _PRIORITY, _ORDER, _FILTER, _WITH), RequestKind.PUBLISH),
        *[_Layout(kind, m.RequestError, (_ID, _CODE, _REASON), to) for kind, to in errors.items()],
    ]


@cache
def _layouts_by_class(profile: DraftProfile) -> MappingProxyType[tuple[type, Any], _Layout]:
    found = {(layout.of, layout.variant): layout for layout in _layouts(profile).values()}
    if not profile.has_fill:
        found[m.JoiningFetch, None] = found[m.Fetch, None]
    return MappingProxyType(found)
