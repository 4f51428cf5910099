"""Filters in the forms of the drafts, and one meaning (`values.Filter`)."""

from __future__ import annotations

from typing import Final

from relay.wire.errors import DecodeError
from relay.wire.ietf.cursor import Reader, Writer
from relay.wire.ietf.profile import FilterForm
from relay.wire.ietf.values import AbsoluteRange, Filter, Location, NextObject, RelativeGroup, Unfiltered
from relay.wire.ietf.varint import MAX_VI64

_NEXT_GROUP: Final = 1
_NEXT_OBJECT: Final = 2
_FROM: Final = 3
_RANGE: Final = 4
"""Tags of the older forms."""

_TYPED_NEXT_OBJECT: Final = 5
_FIELDS: Final = 4
"""Numbers of the newer forms at most; TYPED has their count as its type."""


def read_filter(reader: Reader) -> Filter:  # noqa: C901 - one branch for each form and tag
    """Read a filter, without the length that some forms have: then `reader` ends with it."""
    form = reader.profile.filter_form
    if form is FilterForm.TYPED:
        kind = reader.varint()
        if kind == _TYPED_NEXT_OBJECT:
            return NextObject()
        if kind > _FIELDS:
            raise DecodeError(f"unknown filter {kind}")
        return _of_fields([reader.varint() for _ in range(kind)])
    if form is FilterForm.FIELDS:
        fields: list[int] = []
        while len(reader):
            if len(fields) == _FIELDS:
                raise DecodeError(f"a filter of more than {_FIELDS} numbers")
            fields.append(reader.varint())
        return NextObject() if fields == [0, 0] else _of_fields(fields)
    kind = reader.varint()
    if kind == _NEXT_GROUP:
        return RelativeGroup(0)
    if kind == _NEXT_OBJECT:
        return NextObject()
    if kind not in (_FROM, _RANGE):
        raise DecodeError(f"unknown filter {kind}")
    start = reader.location()
    if kind == _FROM:
        return AbsoluteRange(start)
    end = reader.varint()
    return AbsoluteRange(start, _end_group(start.group, end) if form is FilterForm.TAG_DELTA else end)


def write_filter(writer: Writer, wanted: Filter) -> None:
    """ValueError where the form cannot say it."""
    form = writer.profile.filter_form
    if form is FilterForm.FIELDS or form is FilterForm.TYPED:
        fields = _fields(wanted, form)
        if form is FilterForm.TYPED:
            writer.varint(_TYPED_NEXT_OBJECT if fields is None else len(fields))
        for field in fields or (() if fields is not None or form is FilterForm.TYPED else (0, 0)):
            writer.varint(field)
        return
    match wanted:
        case RelativeGroup(0):
            writer.varint(_NEXT_GROUP)
        case NextObject():
            writer.varint(_NEXT_OBJECT)
        case AbsoluteRange(start, None, None):
            writer.varint(_FROM)
            writer.location(start)
        case AbsoluteRange(start, int(end), None):
            writer.varint(_RANGE)
            writer.location(start)
            writer.varint(end - start.group if form is FilterForm.TAG_DELTA else end)
        case _:
            raise ValueError(f"{writer.profile.name} has no such filter: {wanted}")


def _end_group(start: int, delta: int) -> int:
    if start + delta > MAX_VI64:  # drafts with deltas have such integers
        raise DecodeError("the end of a filter is too large")
    return start + delta


def _of_fields(fields: list[int]) -> Filter:
    match fields:
        case []:
            return Unfiltered()
        case [back]:
            return RelativeGroup(back)
        case [group, object_]:
            return AbsoluteRange(Location(group, object_))
        case [group, object_, delta, *rest]:
            return AbsoluteRange(Location(group, object_), _end_group(group, delta), *rest)
    raise AssertionError(fields)


def _fields(wanted: Filter, form: FilterForm) -> tuple[int, ...] | None:
    """None is the next object."""
    match wanted:
        case Unfiltered():
            return ()
        case RelativeGroup(back):
            return (back,)
        case NextObject():
            return None
        case AbsoluteRange(start, None, None):
            # A range from {0, 0} is everything: FIELDS has no other way to say that.
            return () if start == (0, 0) and form is FilterForm.FIELDS else (*start,)
        case AbsoluteRange(start, int(end), None):
            return (*start, end - start.group)
        case AbsoluteRange(start, int(end), int(last)):
            return (*start, end - start.group, last)
    raise ValueError(f"an end within a group needs the group: {wanted}")
