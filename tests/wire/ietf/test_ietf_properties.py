"""Properties of all messages and drafts: round trips, no error but WireError for any bytes, any slices."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.mutate import mutated
from fuzz.seeds import seeds
from fuzz.targets.ietf import TARGETS, again
from relay.wire.errors import WireError
from relay.wire.ietf.codes import RequestKind
from relay.wire.ietf.control import MessageDecoder, encode
from relay.wire.ietf.cursor import MAX_BLOCK, Reader, Writer
from relay.wire.ietf.data import (
    FetchGap,
    FetchHeader,
    FetchObject,
    GapKind,
    ObjectDatagram,
    ObjectHeader,
    ObjectStatus,
    SubgroupHeader,
)
from relay.wire.ietf.decoder import UniDecoder
from relay.wire.ietf.filters import read_filter, write_filter
from relay.wire.ietf.messages import (
    Fetch,
    FetchCancel,
    FetchOk,
    Goaway,
    Interest,
    JoiningFetch,
    MaxRequestId,
    Message,
    Namespace,
    NamespaceDone,
    Publish,
    PublishBlocked,
    PublishDone,
    PublishNamespace,
    PublishNamespaceCancel,
    PublishNamespaceDone,
    PublishStateNotify,
    Redirect,
    RequestError,
    RequestOk,
    RequestsBlocked,
    RequestUpdate,
    Setup,
    Subscribe,
    SubscribeNamespace,
    SubscribeOk,
    SubscribeTracks,
    TrackStatus,
    Unsubscribe,
    UnsubscribeNamespace,
)
from relay.wire.ietf.parameters import Parameters
from relay.wire.ietf.profile import DRAFT_14, DRAFT_16, DRAFTS, DraftProfile
from relay.wire.ietf.streams import decode_datagram, encode_datagram
from relay.wire.ietf.values import (
    AbsoluteRange,
    GroupOrder,
    Location,
    NextObject,
    Properties,
    RelativeGroup,
    Token,
    TokenKind,
    Unfiltered,
)
from relay.wire.ietf.varint import MAX_VI64, decode_vi64, encode_vi64
from relay.wire.varint import MAX_VARINT
from tests.sampling import repeats

quick = settings(max_examples=repeats(40), deadline=None)
drafts = pytest.mark.parametrize("profile", DRAFTS, ids=lambda profile: profile.name)

octets = st.integers(0, 255)
small = st.integers(0, 100)
numbers = small | st.integers(0, MAX_VARINT - 1)
texts = st.text(max_size=20)
optional_number = st.none() | numbers
names = st.binary(max_size=20)
fields = st.lists(st.binary(min_size=1, max_size=8), max_size=5).map(tuple)
namespaces = st.lists(st.binary(min_size=1, max_size=8), min_size=1, max_size=32).map(tuple)
locations = st.builds(Location, numbers, numbers)
orders = st.sampled_from(GroupOrder)
tokens = st.one_of(
    st.builds(Token, names, numbers),
    st.builds(Token, names, numbers, st.just(TokenKind.REGISTER), numbers),
    st.builds(Token, kind=st.sampled_from((TokenKind.DELETE, TokenKind.USE_ALIAS)), alias=numbers),
)  # fmt: skip
token_lists = st.lists(tokens, max_size=2).map(tuple)
pair = st.one_of(
    st.tuples(numbers.map(lambda n: n & ~1), numbers),
    st.tuples(numbers.map(lambda n: n | 1), st.binary(max_size=30)),
)
properties = st.lists(pair, max_size=4).map(lambda pairs: tuple(sorted(pairs, key=lambda pair: pair[0])))


def ranges(profile: DraftProfile, *, ends: bool) -> st.SearchStrategy[AbsoluteRange]:
    """With an end after the start; within a group where `ends`."""

    def build(start: Location, more: int, last: int | None) -> AbsoluteRange:
        return AbsoluteRange(start, start.group + more, last if ends else None)

    return st.builds(build, st.builds(Location, small, numbers), small, optional_number)


def filters(profile: DraftProfile) -> st.SearchStrategy[Any]:
    starts = st.builds(Location, numbers.map(lambda n: n + 1), numbers)  # from {0, 0} has other names
    found: list[st.SearchStrategy[Any]] = [
        st.builds(RelativeGroup, numbers if profile.has_fill else st.just(0)),
        st.just(NextObject()),
        st.builds(AbsoluteRange, starts),
        ranges(profile, ends=profile.has_fill),
    ]
    return st.one_of(*found, *([st.just(Unfiltered())] if profile.has_fill else []))


def parameters(profile: DraftProfile, *fixed: str) -> st.SearchStrategy[Parameters]:
    """Those of the draft; where it has fields instead, `fixed` are those of the message."""
    kinds: dict[str, st.SearchStrategy[Any]] = {
        **dict.fromkeys(
            ("delivery_timeout", "max_cache_duration", "rendezvous_timeout", "subgroup_delivery_timeout", "fill_timeout",
             "expires", "new_group", "route_cost", "hidden"), numbers),
        "tokens": token_lists,
        "largest": locations,
        "forward": st.booleans(),
        "priority": octets,
        "filter": filters(profile),
        "order": orders,
        "range_filters": st.lists(st.tuples(st.integers(0x25, 0x29), names), max_size=2).map(lambda of: tuple(sorted(of, key=lambda p: p[0]))),
        "prefix": fields,
        "include_properties": st.booleans(),
        "hop_path": st.lists(numbers, max_size=3).map(tuple),
    }  # fmt: skip
    if profile.has_fill:
        kinds["fill"] = st.builds(Parameters, filter=filters(profile), order=st.none() | orders)
    if not profile.fixed_fields:
        usable = {name: st.none() | kind for name, kind in kinds.items() if name not in profile.lacks}
        return st.builds(
            Parameters,
            **usable | {name: kinds[name] for name in ("tokens", "range_filters") if name in usable},
        )
    usable = {name: st.none() | kinds[name] for name in ("delivery_timeout", "max_cache_duration")}
    always = {name: kinds[name] for name in fixed}
    for name in {"largest", "order"} & always.keys() if "expires" in fixed or "priority" in fixed else ():
        always[name] = kinds[name]
    return st.builds(Parameters, tokens=token_lists, **usable, **always)


@cache
def messages(profile: DraftProfile) -> st.SearchStrategy[Message]:
    """Every message of the draft, as it reads it back."""
    new, fixed = profile.request_streams, profile.fixed_fields
    plain = parameters(profile)
    wish = parameters(profile, "priority", "order", "forward", "filter")
    reply: dict[str, Any] = {"request_id": st.none() if new else numbers}
    track = properties if profile.track_properties else st.just(())
    names_ = namespaces, names
    tos: dict[str, Any] = {"to": st.none()}
    retry = st.just(None) if fixed else optional_number
    errors = st.builds(RequestError, numbers, texts, retry, st.none(), **reply, **tos)
    setups: dict[str, Any] = {
        name: st.none() | texts for name in ("path", "authority", "implementation")
    } | dict.fromkeys(("max_request_id", "max_token_cache", "solicit", "hidden"), optional_number)
    other = st.lists(pair.filter(lambda of: of[0] > 0x50000), max_size=3)
    setups |= {"tokens": token_lists, "other": other.map(lambda of: tuple(sorted(of, key=lambda p: p[0])))}
    versions = st.lists(numbers, max_size=4).map(tuple) if profile.versions_in_setup else st.just(())
    found: list[st.SearchStrategy[Any]] = [
        st.builds(Setup, **setups, versions=versions),
        st.builds(Subscribe, numbers, *names_, wish),
        st.builds(TrackStatus, numbers, *names_, wish),
        st.builds(Publish, numbers, *names_, numbers, parameters(profile, "order", "largest", "forward"), track),
        st.builds(SubscribeOk, numbers, parameters(profile, "expires", "order", "largest"), track, **reply),
        st.builds(FetchOk, numbers, optional_number, st.booleans(), parameters(profile, "order"), track, **reply),
        st.builds(PublishDone, numbers, optional_number, texts, **reply),
        st.builds(PublishNamespace, numbers, namespaces, plain),
        st.builds(RequestUpdate, numbers, updates(profile), st.none() if new else numbers),
        st.builds(Goaway, texts, numbers if profile.goaway_timeout else st.just(0),
                  optional_number if profile.goaway_request else st.none()),
    ]  # fmt: skip
    interest = st.sampled_from(Interest)
    if not profile.subscribe_options:
        interest = st.just(Interest.BOTH if fixed else Interest.NAMESPACES)
    found.append(st.builds(SubscribeNamespace, numbers, fields, plain, interest))
    if profile.has_fill:
        found.append(
            st.builds(Fetch, numbers, *names_, st.none() | filters(profile), without_filter(profile))
        )
        found.append(st.builds(PublishStateNotify, plain))
    else:
        fetch = parameters(profile, "priority", "order")
        found.append(st.builds(Fetch, numbers, *names_, ranges(profile, ends=True), fetch))
        found.append(st.builds(JoiningFetch, numbers, numbers, numbers, st.booleans(), fetch))
    if profile.namespace_streams:
        found += [st.builds(Namespace, fields, plain), st.builds(NamespaceDone, fields)]
    if profile.tracks_request:
        found.append(st.builds(SubscribeTracks, numbers, fields, plain))
    if new:
        redirect = st.builds(RequestError, st.just(0x34), texts, retry, st.builds(Redirect, texts, *names_))
        found += [
            errors,
            redirect,
            st.builds(RequestOk, plain, track),
            st.builds(PublishBlocked, fields, names),
        ]
        return st.one_of(*found)
    chosen = versions.filter(lambda of: len(of) == 1) if profile.versions_in_setup else versions
    which: dict[str, Any] = {"namespace": namespaces} if fixed else {"request_id": numbers}
    found += [
        st.builds(Setup, **setups, versions=chosen, from_server=st.just(True)),
        *[st.builds(kind, numbers) for kind in (Unsubscribe, FetchCancel, MaxRequestId, RequestsBlocked)],
        st.builds(PublishNamespaceDone, **which),
        st.builds(PublishNamespaceCancel, numbers, texts, **which),
    ]
    if not fixed:
        to = st.sampled_from((None, RequestKind.PUBLISH))
        return st.one_of(*found, errors, st.builds(RequestOk, plain, **reply, to=to))
    kinds = st.sampled_from(
        [kind for kind in RequestKind if kind not in (RequestKind.SUBSCRIBE_TRACKS, RequestKind.UPDATE)]
    )
    plain_ok = st.sampled_from((RequestKind.PUBLISH_NAMESPACE, RequestKind.SUBSCRIBE_NAMESPACE))
    status = parameters(profile, "expires", "order", "largest")
    return st.one_of(
        *found,
        st.builds(RequestError, numbers, texts, **reply, to=kinds),
        st.builds(RequestOk, **reply, to=plain_ok),
        st.builds(RequestOk, wish, **reply, to=st.just(RequestKind.PUBLISH)),
        st.builds(RequestOk, status, **reply, to=st.just(RequestKind.TRACK_STATUS)),
        st.builds(UnsubscribeNamespace, fields),
    )


def updates(profile: DraftProfile) -> st.SearchStrategy[Parameters]:
    if not profile.fixed_fields:
        return parameters(profile)
    wanted = st.none() | st.builds(
        AbsoluteRange, st.builds(Location, small.map(lambda n: n + 1), numbers), optional_number
    )
    return st.builds(Parameters, priority=octets, forward=st.booleans(), filter=wanted, tokens=token_lists)


def without_filter(profile: DraftProfile) -> st.SearchStrategy[Parameters]:
    return st.builds(Parameters, tokens=token_lists, order=st.none() | orders, priority=st.none() | octets)


def sliced(decoder: Any, data: bytes, sizes: Sequence[int]) -> list[Any]:
    """Payload chunks are joined."""
    items: list[Any] = []
    at = turn = 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        for item in decoder.feed(data[at : at + size]):
            if isinstance(item, bytes) and items and isinstance(items[-1], bytes):
                items[-1] += item
            else:
                items.append(item)
        at, turn = at + size, turn + 1
    decoder.end()
    return items


slices = st.lists(st.integers(1, 200), min_size=1, max_size=5)


@drafts
@quick
@given(data=st.data(), sizes=slices)
def test_messages_come_back(profile: DraftProfile, data: st.DataObject, sizes: list[int]) -> None:
    sent = data.draw(st.lists(messages(profile), max_size=3))
    stream = b"".join(encode(message, profile) for message in sent)
    assert sliced(MessageDecoder(profile), stream, sizes) == sent


@st.composite
def subgroups(draw: st.DrawFn, profile: DraftProfile) -> list[Any]:
    """The items of a subgroup stream."""
    priority = octets if not profile.optional_priority else st.none() | octets
    first = st.booleans() if profile.marks_first_object else st.just(False)
    header = draw(
        st.builds(
            SubgroupHeader, numbers, numbers, optional_number, priority, st.booleans(), first, st.booleans()
        )
    )
    items: list[Any] = [header]
    number = draw(small)
    for payload in draw(st.lists(st.binary(max_size=300), max_size=4)):
        status = (
            ObjectStatus.NORMAL
            if payload
            else draw(st.sampled_from((ObjectStatus.NORMAL, ObjectStatus.END_OF_GROUP)))
        )
        more = draw(properties) if header.has_properties and not status else ()
        items.append(ObjectHeader(number, len(payload), more, status))
        items += [payload] if payload else []
        number += 1 + draw(small)
    return items


@st.composite
def fetches(draw: st.DrawFn, profile: DraftProfile, *, descending: bool) -> list[Any]:
    """The items of a fetch stream."""
    items: list[Any] = [FetchHeader(draw(numbers))]
    group, number = 1000, 0
    for payload in draw(st.lists(st.binary(max_size=300), max_size=6)):
        if draw(st.booleans()):
            group += (-1 if descending else 1) * draw(st.integers(1, 50))
            number = draw(small)
        if profile is not DRAFT_14 and draw(st.integers(0, 4)) == 0:
            kinds = [kind for kind in GapKind if kind is not GapKind.TIMED_OUT or profile.has_fill]
            items.append(FetchGap(group, number, draw(st.sampled_from(kinds))))
            number += 1
        is_datagram = profile is not DRAFT_14 and draw(st.booleans())
        subgroup = 0 if is_datagram else draw(st.integers(0, 3) | numbers)
        place = group, subgroup, number, draw(octets)
        items.append(FetchObject(*place, len(payload), draw(properties), ObjectStatus.NORMAL, is_datagram))
        items += [payload] if payload else []
        number += 1 + draw(st.just(0) | small)
    return items


@drafts
@quick
@given(data=st.data(), sizes=slices)
def test_subgroup_streams_come_back(profile: DraftProfile, data: st.DataObject, sizes: list[int]) -> None:
    items = data.draw(subgroups(profile))
    assert sliced(UniDecoder(profile), again(items, profile), sizes) == items


@drafts
@quick
@given(data=st.data(), sizes=slices, descending=st.booleans())
def test_fetch_streams_come_back(
    profile: DraftProfile, data: st.DataObject, sizes: list[int], descending: bool
) -> None:
    items = data.draw(fetches(profile, descending=descending))
    decoder = UniDecoder(
        profile, descending=lambda request_id: descending and request_id == items[0].request_id
    )
    assert sliced(decoder, again(items, profile, descending=descending), sizes) == items


@drafts
@quick
@given(data=st.data())
def test_datagrams_come_back(profile: DraftProfile, data: st.DataObject) -> None:
    priority = octets if not profile.optional_priority else st.none() | octets
    common = numbers, numbers, st.just(0) | numbers
    plain = st.builds(ObjectDatagram, *common, names, priority, properties, st.none(), st.booleans())
    states = st.sampled_from((ObjectStatus.END_OF_GROUP, ObjectStatus.END_OF_TRACK))
    found = data.draw(plain | st.builds(ObjectDatagram, *common, priority=priority, status=states))
    assert decode_datagram(encode_datagram(found, profile), profile) == found


@quick
@given(value=st.integers(0, MAX_VI64))
def test_integers_come_back(value: int) -> None:
    data = encode_vi64(value)
    assert decode_vi64(data) == (value, len(data))
    assert len(data) == max(1, min(9, -(-value.bit_length() // 7)))


@pytest.mark.parametrize("target", DRAFTS, ids=lambda profile: profile.name)
@drafts
@quick
@given(pairs=properties)
def test_properties_go_from_any_draft_to_any(
    profile: DraftProfile, target: DraftProfile, pairs: Properties
) -> None:
    for draft in (profile, target):
        writer = Writer(draft)
        writer.block(pairs)
        pairs = Reader(bytes(writer), draft).block()
    assert pairs == tuple(sorted(pairs, key=lambda pair: pair[0]))


@quick
@given(pairs=st.lists(pair, max_size=4).map(tuple))
def test_properties_without_an_order_keep_theirs_on_14(pairs: Properties) -> None:
    writer = Writer(DRAFT_14)
    writer.block(pairs)
    assert Reader(bytes(writer), DRAFT_14).block() == pairs


def test_a_property_that_does_not_fit_is_left_out() -> None:
    writer = Writer(DRAFT_16)
    writer.block(((0x10, MAX_VARINT), (0x12, MAX_VARINT + 1), (0x14, 5)))
    assert Reader(bytes(writer), DRAFT_16).block() == ((0x10, MAX_VARINT), (0x14, 5))


@drafts
@quick
@given(data=st.data())
def test_filters_come_back(profile: DraftProfile, data: st.DataObject) -> None:
    wanted = data.draw(filters(profile))
    writer = Writer(profile)
    write_filter(writer, wanted)
    reader = Reader(bytes(writer), profile)
    assert read_filter(reader) == wanted
    reader.done()


@drafts
@settings(max_examples=repeats(200), deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_raise_only_wire_errors(profile: DraftProfile, data: bytes) -> None:
    for decoder in (MessageDecoder(profile), UniDecoder(profile)):
        try:
            decoder.feed(data)
            assert decoder.buffered <= len(data)
            decoder.end()
        except WireError as error:
            with pytest.raises(type(error)):
                decoder.feed(b"")
    with suppress(WireError):
        decode_datagram(data, profile)


@pytest.mark.parametrize("target", TARGETS)
def test_changed_golden_bytes_raise_only_wire_errors(target: str) -> None:
    """The targets also check that slices do not matter and that what is read can be written."""
    dice = random.Random(target)
    inputs = seeds(target)
    for _ in range(repeats(2000)):
        TARGETS[target](mutated(dice, inputs))


def test_a_block_of_any_draft_fits_into_that_of_another() -> None:
    """Numbers of 21 bits have three bytes on newer drafts, and four on older ones."""
    pairs = tuple((0x10, 1 << 20) for _ in range(MAX_BLOCK // 4))
    for profile in DRAFTS:
        Writer(profile).block(pairs)
