"""What each draft does: the only place that names drafts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Final

from relay.wire.ietf.codes import (
    DONE_CODES_14,
    DONE_CODES_NEW,
    DONE_CODES_OLD,
    REFUSALS_14,
    REFUSALS_16,
    REFUSALS_18,
    REFUSALS_20,
    DoneStatus,
    Refusal,
    RequestKind,
    ResetCode,
)
from relay.wire.ietf.varint import MAX_VI64
from relay.wire.varint import MAX_VARINT


class FilterForm(Enum):
    """Section "Filters": the meaning is the same in all."""

    INLINE = "tag and absolute end among the fields of the message"
    TAG = "tag and absolute end, after a length"
    TAG_DELTA = "tag and relative end, after a length"
    FIELDS = "up to four numbers, after a length; their count is the tag"
    TYPED = "a type, which tells the count of numbers; no length"


class FetchForm(Enum):
    """How the objects of a fetch are written."""

    FULL = "all fields in each object"
    FLAGS = "flags tell what is left out; numbers are absolute"
    DELTA = "flags tell what is left out; numbers are relative to the object before"


@dataclass(frozen=True, slots=True, eq=False)
class DraftProfile:
    """The switches of one draft."""

    name: str
    """The name in ALPN and in WebTransport's subprotocols."""

    setup_code: int
    """The draft's number in SETUP, where `versions_in_setup`."""

    quic_varints: bool = False
    """Integers are those of RFC 9000; else the number of leading 1 bits tells the length."""

    max_varint: int = MAX_VI64

    versions_in_setup: bool = False
    """CLIENT_SETUP offers versions, SERVER_SETUP chooses one."""

    request_streams: bool = True
    """Each request has a bidirectional stream, and each side a unidirectional control stream. Else all requests
    share one bidirectional control stream, replies carry the request id, cancels are messages, and requests are
    limited by MAX_REQUEST_ID.
    """

    namespace_streams: bool = True
    """SUBSCRIBE_NAMESPACE has a bidirectional stream, and is answered by NAMESPACE; else by PUBLISH_NAMESPACE."""

    fixed_fields: bool = False
    """Priority, order, forward, filter and largest are fields of the messages, and unknown parameters are
    ignored.
    """

    typed_parameters: bool = True
    """The parameter tells how its value is written; else the parity of its number."""

    delta_types: bool = True
    """Types of parameters and pairs are relative to the one before."""

    track_properties: bool = True
    """SUBSCRIBE_OK, PUBLISH and FETCH_OK carry properties of the track."""

    empty_fields: bool = False
    """A field of a namespace may be empty."""

    empty_namespaces: bool = True
    """The namespace of a track may have no fields."""

    rendezvous: bool = True
    """Parameter 0x04 is RENDEZVOUS_TIMEOUT, else MAX_CACHE_DURATION."""

    filter_form: FilterForm = FilterForm.TYPED

    fetch_form: FetchForm = FetchForm.DELTA

    has_fill: bool = True
    """A fetch has its range in a filter, ends are inclusive, FILL_PARAMETERS replace the joining fetch, and
    filters may be relative to the current group. Else fetches have a range with an exclusive end, or join a
    subscription.
    """

    publish_ok_parameters: bool = False
    """The OK of a PUBLISH says priority, order, forward and filter; else an update does."""

    bare_prefix: bool = True
    """TRACK_NAMESPACE_PREFIX has no length of its own."""

    optional_priority: bool = True
    """Objects may have no priority: that of the track holds."""

    marks_first_object: bool = True
    """Subgroup streams tell if they start with the first object; padding streams and datagrams exist."""

    goaway_timeout: bool = True

    goaway_request: bool = False
    """GOAWAY may name a request."""

    fin_cancels: bool = False
    """The requester's FIN cancels the request."""

    subscribe_options: bool = False
    """SUBSCRIBE_NAMESPACE says if it is for namespaces, tracks or both."""

    tracks_request: bool = True
    """SUBSCRIBE_TRACKS exists."""

    lacks: frozenset[str] = frozenset(("max_cache_duration",))
    """Parameters that cannot be written: a peer closes the session over an unknown one."""

    # a factory: Python 3.11 takes no unhashable default
    refusals: Mapping[Refusal, int] = field(default_factory=lambda: REFUSALS_20)

    done_codes: Mapping[DoneStatus, int] = field(default_factory=lambda: DONE_CODES_NEW)


_NEW: Final = frozenset(("fill", "range_filters", "include_properties"))
_TYPED: Final = frozenset(("rendezvous_timeout", "subgroup_delivery_timeout", "fill_timeout", "prefix"))
_LATER: Final = frozenset(("new_group", "hop_path", "route_cost", "hidden"))

DRAFT_22: Final = DraftProfile("moqt-22", 0xFF000016)
DRAFT_21: Final = replace(
    DRAFT_22, name="moqt-21", setup_code=0xFF000015, filter_form=FilterForm.FIELDS, bare_prefix=False
)
DRAFT_20: Final = replace(DRAFT_21, name="moqt-20", setup_code=0xFF000014)
DRAFT_18: Final = DraftProfile(
    "moqt-18",
    0xFF000012,
    filter_form=FilterForm.TAG_DELTA,
    has_fill=False,
    publish_ok_parameters=True,
    bare_prefix=False,
    goaway_request=True,
    fin_cancels=True,
    lacks=DRAFT_22.lacks | _NEW,
    refusals=REFUSALS_18,
)
DRAFT_19: Final = replace(
    DRAFT_18, name="moqt-19", setup_code=0xFF000013, goaway_request=False, fin_cancels=False
)
DRAFT_16: Final = DraftProfile(
    "moqt-16",
    0xFF000010,
    quic_varints=True,
    max_varint=MAX_VARINT,
    request_streams=False,
    typed_parameters=False,
    empty_namespaces=False,
    filter_form=FilterForm.TAG,
    fetch_form=FetchForm.FLAGS,
    has_fill=False,
    publish_ok_parameters=True,
    bare_prefix=False,
    marks_first_object=False,
    goaway_timeout=False,
    subscribe_options=True,
    tracks_request=False,
    lacks=DRAFT_22.lacks | _NEW | _TYPED,
    refusals=REFUSALS_16,
    done_codes=DONE_CODES_OLD,
)
DRAFT_14: Final = replace(
    DRAFT_16,
    name="moq-00",
    setup_code=0xFF00000E,
    versions_in_setup=True,
    namespace_streams=False,
    fixed_fields=True,
    delta_types=False,
    track_properties=False,
    empty_fields=True,
    rendezvous=False,
    filter_form=FilterForm.INLINE,
    fetch_form=FetchForm.FULL,
    optional_priority=False,
    subscribe_options=False,
    lacks=_NEW | _TYPED | _LATER,
    refusals=REFUSALS_14,
    done_codes=DONE_CODES_14,
)

DRAFTS: Final = (DRAFT_22, DRAFT_21, DRAFT_20, DRAFT_19, DRAFT_18, DRAFT_16, DRAFT_14)
"""The preferred one first."""

BY_NAME: Final[Mapping[str, DraftProfile]] = MappingProxyType({draft.name: draft for draft in DRAFTS})

BY_SETUP_CODE: Final[Mapping[int, DraftProfile]] = MappingProxyType(
    {draft.setup_code: draft for draft in DRAFTS if draft.versions_in_setup}
)
"""The drafts that CLIENT_SETUP may offer."""

_BY_KIND: Final = {
    RequestKind.PUBLISH: Refusal.UNINTERESTED,
    RequestKind.SUBSCRIBE_NAMESPACE: Refusal.PREFIX_OVERLAP,
}
"""The meaning of a number with two (14) in the answer to these requests."""


def refusal_code(refusal: Refusal, profile: DraftProfile) -> int:
    """The code of REQUEST_ERROR; that of an internal error where the draft lacks it."""
    return profile.refusals.get(refusal, profile.refusals[Refusal.INTERNAL])


def refusal_of(code: int, profile: DraftProfile, to: RequestKind | None = None) -> Refusal:
    """INTERNAL for an unknown code: peers use many."""
    special = _BY_KIND.get(to) if to else None
    if special and profile.refusals.get(special) == code:
        return special
    return next((refusal for refusal, known in profile.refusals.items() if known == code), Refusal.INTERNAL)


def done_code(status: DoneStatus, profile: DraftProfile) -> int:
    """The code of PUBLISH_DONE; that of an internal error where the draft lacks it."""
    return profile.done_codes.get(status, profile.done_codes[DoneStatus.INTERNAL])


def done_of(code: int, profile: DraftProfile) -> DoneStatus:
    """INTERNAL for an unknown code."""
    return next(
        (status for status, known in profile.done_codes.items() if known == code), DoneStatus.INTERNAL
    )


def reset_code(code: ResetCode, profile: DraftProfile) -> int:
    """Toward a peer of this draft."""
    if profile.request_streams or code <= ResetCode.SESSION_CLOSED:
        return int(code)
    return int(ResetCode.DELIVERY_TIMEOUT if code is ResetCode.TOO_FAR_BEHIND else ResetCode.INTERNAL)


def reset_of(code: int) -> ResetCode:
    """INTERNAL for an unknown code."""
    return ResetCode(code) if code in _RESET_CODES else ResetCode.INTERNAL


_RESET_CODES: Final = frozenset(int(code) for code in ResetCode)
