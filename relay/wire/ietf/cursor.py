"""Reads and writes fields in the integers of a draft: namespaces, locations, texts, pairs."""

from __future__ import annotations

from typing import Final

from relay.wire.errors import DecodeError
from relay.wire.ietf.profile import DraftProfile
from relay.wire.ietf.values import (
    MAX_NAME,
    MAX_NAMESPACE_FIELDS,
    MAX_REASON,
    MAX_URI,
    Location,
    Properties,
    TrackNamespace,
)
from relay.wire.ietf.varint import decode_vi64, encode_vi64
from relay.wire.text import text_of
from relay.wire.varint import decode_varint, encode_varint

MAX_BLOCK: Final = 0xFFFF
"""Bytes of a value, and of an object's properties: as much as a control message can have."""

MAX_PAIRS: Final = 256
"""Most pairs of an object, a track or a set-up: read, one takes some 50 times the memory of its bytes."""

_MAX_BYTE: Final = 0xFF
_MAX_FLAG: Final = 1


class Short(DecodeError):  # noqa: N818 - as in `relay.wire.errors`
    """The bytes end inside a field: malformed in a message, but more may come in a stream."""


class Reader:
    """A position in bytes; methods raise Short where they end too early, DecodeError where they are malformed."""

    __slots__ = ("_data", "_decode", "_end", "offset", "profile")

    def __init__(self, data: bytes | bytearray, profile: DraftProfile, offset: int = 0) -> None:
        self.profile = profile
        self.offset = offset
        self._data = data
        self._end = len(data)
        self._decode = decode_varint if profile.quic_varints else decode_vi64

    def __len__(self) -> int:
        return self._end - self.offset

    def varint(self) -> int:
        found = self._decode(self._data, self.offset)
        if found is None:
            raise Short("bytes end inside a number")
        value, self.offset = found
        return value

    def byte(self) -> int:
        if self.offset >= self._end:
            raise Short("bytes end before a byte field")
        self.offset += 1
        return self._data[self.offset - 1]

    def flag(self) -> bool:
        return as_flag(self.byte())

    def small(self) -> int:
        """A parameter of 0 to 255."""
        value = self.byte() if self.profile.typed_parameters else self.varint()
        if value > _MAX_BYTE:
            raise DecodeError(f"a byte of {value}")
        return value

    def take(self, size: int) -> bytes:
        end = self.offset + size
        if end > self._end:
            raise Short(f"bytes end inside a field of {size} bytes")
        taken = bytes(self._data[self.offset : end])
        self.offset = end
        return taken

    def rest(self) -> bytes:
        return self.take(len(self))

    def sized(self, limit: int = MAX_BLOCK) -> bytes:
        size = self.varint()
        if size > limit:
            raise DecodeError(f"a field has {size} bytes, at most {limit} are allowed")
        return self.take(size)

    def inner(self) -> Reader:
        """A field after its length; the caller checks its end (`done`)."""
        return Reader(self.sized(), self.profile)

    def done(self) -> None:
        """Raise DecodeError if bytes are left."""
        if len(self):
            raise DecodeError(f"{len(self)} bytes too many")

    def location(self) -> Location:
        return Location(self.varint(), self.varint())

    def bounded(self, limit: int) -> int:
        count = self.varint()
        if count > limit:
            raise DecodeError(f"a count of {count}, at most {limit} are allowed")
        return count

    def namespace(self) -> TrackNamespace:
        """Read a namespace, or a prefix or suffix."""
        count = self.bounded(MAX_NAMESPACE_FIELDS)
        fields = tuple([self.sized(MAX_NAME) for _ in range(count)])
        fault = name_fault(fields, b"", self.profile)
        if fault:
            raise DecodeError(fault)
        return fields

    def whole_namespace(self) -> TrackNamespace:
        """Read the namespace of a track: on some drafts it has fields."""
        fields = self.namespace()
        if not fields and not self.profile.empty_namespaces:
            raise DecodeError("a namespace without fields")
        return fields

    def name(self) -> tuple[TrackNamespace, bytes]:
        namespace, track = self.whole_namespace(), self.sized(MAX_NAME)
        fault = name_fault(namespace, track, self.profile)
        if fault:
            raise DecodeError(fault)
        return namespace, track

    def reason(self) -> str:
        """Read a text for the log: what is not UTF-8 is replaced."""
        return cut(self.sized(MAX_REASON).decode("utf-8", "replace"))

    def uri(self) -> str:
        return text_of(self.sized(MAX_URI))

    def pairs(self, count: int | None = None) -> Properties:
        """`count` pairs, or all to the end. Even types have a number, odd ones bytes."""
        found: list[tuple[int, int | bytes]] = []
        kind = 0
        while len(found) < count if count is not None else len(self):
            if len(found) == MAX_PAIRS:
                raise DecodeError(f"more than {MAX_PAIRS} properties")
            kind = self.type_after(kind)
            found.append((kind, self.sized() if kind & 1 else self.varint()))
        return tuple(found)

    def type_after(self, before: int) -> int:
        """Read the type of a parameter or pair."""
        kind = self.varint() + (before if self.profile.delta_types else 0)
        if kind > self.profile.max_varint:
            raise DecodeError("a type is too large")
        return kind

    def block(self) -> Properties:
        """Properties of an object, after their length."""
        block = self.sized()
        try:
            return Reader(block, self.profile).pairs() if block else ()
        except Short as error:
            raise DecodeError(str(error)) from None


class Writer:
    """Bytes to be; methods raise ValueError for values that do not fit."""

    __slots__ = ("_encode", "_out", "profile")

    def __init__(self, profile: DraftProfile) -> None:
        self.profile = profile
        self._out = bytearray()
        self._encode = encode_varint if profile.quic_varints else encode_vi64

    def __bytes__(self) -> bytes:
        return bytes(self._out)

    def raw(self, data: bytes) -> None:
        self._out += data

    def varint(self, value: int) -> None:
        self._out += self._encode(value)

    def byte(self, value: int) -> None:
        if not 0 <= value <= _MAX_BYTE:
            raise ValueError(f"one byte holds 0..{_MAX_BYTE}: {value}")
        self._out.append(value)

    def small(self, value: int) -> None:
        if self.profile.typed_parameters:
            self.byte(value)
        else:
            self.varint(value)

    def sized(self, data: bytes, limit: int = MAX_BLOCK) -> None:
        if len(data) > limit:
            raise ValueError(f"a field of {len(data)} bytes, at most {limit} are allowed")
        self.varint(len(data))
        self._out += data

    def location(self, location: Location) -> None:
        self.varint(location.group)
        self.varint(location.object)

    def namespace(self, fields: TrackNamespace) -> None:
        if len(fields) > MAX_NAMESPACE_FIELDS:
            raise ValueError(f"a namespace of {len(fields)} fields")
        fault = name_fault(fields, b"", self.profile)
        if fault:
            raise ValueError(fault)
        self.varint(len(fields))
        for field in fields:
            self.sized(field)

    def whole_namespace(self, fields: TrackNamespace) -> None:
        if not fields and not self.profile.empty_namespaces:
            raise ValueError("a namespace without fields")
        self.namespace(fields)

    def name(self, name: tuple[TrackNamespace, bytes]) -> None:
        namespace, track = name
        fault = name_fault(namespace, track, self.profile)
        if fault:
            raise ValueError(fault)
        self.whole_namespace(namespace)
        self.sized(track)

    def reason(self, text: str) -> None:
        self.sized(cut(text).encode("utf-8", "replace"))

    def uri(self, text: str) -> None:
        self.sized(text.encode(), MAX_URI)

    def pairs(self, pairs: Properties) -> None:
        """Ascending where types are relative. Numbers that the draft's integers cannot hold are left out."""
        before = 0
        largest = self.profile.max_varint
        for kind, value in sorted(pairs, key=_type_of) if self.profile.delta_types else pairs:
            if kind > largest or (isinstance(value, int) and value > largest):
                continue
            if isinstance(value, int) == bool(kind & 1):
                raise ValueError(f"even types have numbers, odd ones bytes: {kind:#x}")
            self.varint(kind - before)
            if isinstance(value, int):
                self.varint(value)
            else:
                self.sized(value)
            before = kind if self.profile.delta_types else 0

    def block(self, pairs: Properties) -> None:
        """Properties of an object, after their length."""
        inner = Writer(self.profile)
        inner.pairs(pairs)
        self.sized(bytes(inner), 2 * MAX_BLOCK)  # numbers may take more bytes than in the draft they came by


def as_flag(value: int) -> bool:
    """DecodeError for other than 0 and 1."""
    if value > _MAX_FLAG:
        raise DecodeError(f"a flag is 0 or 1, not {value}")
    return value == _MAX_FLAG


def cut(reason: str) -> str:
    """Cut a text to at most `MAX_REASON` bytes."""
    return reason.encode("utf-8", "replace")[:MAX_REASON].decode("utf-8", "ignore")


def name_fault(namespace: TrackNamespace, track: bytes, profile: DraftProfile) -> str:
    """Empty if nothing is wrong."""
    if b"" in namespace and not profile.empty_fields:
        return "an empty field in a namespace"
    size = sum(map(len, namespace)) + len(track)
    return f"a name of {size} bytes, at most {MAX_NAME} are allowed" if size > MAX_NAME else ""


def _type_of(pair: tuple[int, int | bytes]) -> int:
    return pair[0]
