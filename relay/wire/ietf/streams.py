"""Writes data streams and datagrams. Payloads are not copied: they follow the headers made here."""

from __future__ import annotations

from relay.wire.ietf.data import FetchGap, FetchObject, ObjectDatagram, ObjectHeader, SubgroupHeader
from relay.wire.ietf.profile import DraftProfile


def subgroup_header(header: SubgroupHeader, profile: DraftProfile) -> bytes:
    """Type and header of a subgroup stream."""
    raise NotImplementedError


def object_header(
    header: ObjectHeader, before: int | None, profile: DraftProfile, *, has_properties: bool
) -> bytes:
    """The header of an object in a subgroup stream whose header says `has_properties`.

    `before` is the id of the stream's object before it, None for the first.
    """
    raise NotImplementedError


def fetch_header(request_id: int, profile: DraftProfile) -> bytes:
    """Type and header of a fetch stream."""
    raise NotImplementedError


class FetchEncoder:
    """Writes the objects of one fetch stream; each refers to the one before."""

    def __init__(self, profile: DraftProfile, *, descending: bool = False) -> None:
        """`descending`: the order of groups the fetch asked for."""

    def header(self, item: FetchObject | FetchGap) -> bytes:
        """The header of an object, or a gap."""
        raise NotImplementedError


def encode_datagram(datagram: ObjectDatagram, profile: DraftProfile) -> bytes:
    raise NotImplementedError


def decode_datagram(data: bytes, profile: DraftProfile) -> ObjectDatagram | None:
    """None for padding. Raises WireError."""
    raise NotImplementedError
