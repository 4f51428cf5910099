"""The golden bytes of moq-transport: each vector decodes to its fields, and the fields encode to its bytes.

Every vector is fed whole and byte by byte. Peers may write the same in more bytes than needed: those are listed, and
read again after they are written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from relay.wire.errors import DecodeError, UnknownStreamType, WireError
from relay.wire.ietf import streams
from relay.wire.ietf.codes import RequestKind
from relay.wire.ietf.control import MessageDecoder, encode
from relay.wire.ietf.data import (
    FetchHeader,
    FetchObject,
    ObjectDatagram,
    ObjectHeader,
    ObjectStatus,
    SubgroupHeader,
)
from relay.wire.ietf.decoder import UniDecoder
from relay.wire.ietf.messages import (
    Fetch,
    FetchOk,
    Goaway,
    Interest,
    JoiningFetch,
    Message,
    Namespace,
    NamespaceDone,
    Publish,
    PublishDone,
    PublishNamespace,
    PublishNamespaceDone,
    RequestError,
    RequestOk,
    RequestUpdate,
    Setup,
    Subscribe,
    SubscribeNamespace,
    SubscribeOk,
    SubscribeTracks,
    TrackStatus,
    Unsubscribe,
)
from relay.wire.ietf.parameters import Parameters
from relay.wire.ietf.profile import DRAFT_14, DRAFT_16, DRAFT_18, DRAFT_20, DRAFT_21, DRAFT_22, DraftProfile
from relay.wire.ietf.values import (
    AbsoluteRange,
    Filter,
    GroupOrder,
    Location,
    NextObject,
    Properties,
    RelativeGroup,
    Token,
    TokenKind,
)
from relay.wire.ietf.varint import decode_vi64, encode_vi64
from relay.wire.varint import decode_varint, encode_varint

Fields = dict[str, Any]

DOCUMENT = json.loads(Path(__file__).with_name("moqt-vectors.json").read_text())
VECTORS: dict[str, dict[str, Any]] = {vector["id"]: vector for vector in DOCUMENT["vectors"]}

PROFILES = {
    "moqt-14": DRAFT_14,
    "moqt-14 / moq-lite": DRAFT_14,
    "moqt-16": DRAFT_16,
    "moqt-18": DRAFT_18,
    "moqt-18+": DRAFT_18,
    "moqt-20": DRAFT_20,
    "moqt-22": DRAFT_22,
}

INTEGERS = [id_ for id_, vector in VECTORS.items() if vector["message"] in ("vi64", "varint (RFC 9000)")]

LEFT_TO_OTHER_ROOMS = {
    # a capsule of WebTransport: transport
    "wt-protocol-mismatch-close",
}

INVALID: dict[str, type[WireError]] = {
    "m18-bad-unknown-param": DecodeError,
    "m18-bad-unknown-type": DecodeError,
    "m18-bad-uni-type": UnknownStreamType,
}

FIELDS_LATER: dict[str, Fields] = {
    "m18-subgroup-1": {"track_alias": 44, "group": 9, "subgroup": 1, "priority": 128, "first_object": True,
                       "objects": [{"id": 0, "payload": "e0"}]},
    "m18-object-gap": {"track_alias": 44, "group": 10, "subgroup": 0, "priority": 128, "first_object": True,
                       "objects": [{"id": 0, "payload": "f0"}, {"id": 2, "payload": "f2"}]},
    "m18-object-start-3": {"track_alias": 44, "group": 11, "subgroup": 0, "priority": 128,
                           "objects": [{"id": 3, "payload": "g3"}]},
    "m14-odd-request-id": {"request_id": 1, "namespace": ["loc", "x"], "track": "v", "priority": 128,
                           "group_order": 2, "forward": 1, "filter": {"type": 2}, "params": {}},
    "wt-nosub-setup-rs": {"params": {"HIDDEN": 1, "MAX_REQUEST_ID": 4294967295, "SOLICIT": 1,
                                     "MOQT_IMPLEMENTATION": "moq-lite-rs"}},
    "wt-nosub-setup-aio": {"params": {"MOQT_IMPLEMENTATION": "aiomoqt/0.13.3", "MAX_REQUEST_ID": 10000}},
}  # fmt: skip
"""Of vectors that do not list (all of) theirs."""

PROPERTIES = {
    "TIMESCALE": 0x08,
    "DEFAULT_PUBLISHER_PRIORITY": 0x0E,
    "TIMESTAMP": 0x10,
    "DEFAULT_PUBLISHER_GROUP_ORDER": 0x22,
}
OPTIONS = {
    "PATH": "path",
    "AUTHORITY": "authority",
    "MOQT_IMPLEMENTATION": "implementation",
    "MAX_REQUEST_ID": "max_request_id",
    "SOLICIT": "solicit",
    "HIDDEN": "hidden",
}
OTHER_OPTIONS = {"MAX_FILTER_RANGES": 0x06, "RELAY_HOPS": 0x40B54}
ERRORS = {
    "SUBSCRIBE_ERROR": RequestKind.SUBSCRIBE,
    "PUBLISH_ERROR": RequestKind.PUBLISH,
    "FETCH_ERROR": RequestKind.FETCH,
    "TRACK_STATUS_ERROR": RequestKind.TRACK_STATUS,
    "REQUEST_ERROR": None,
}
OKS = {
    "PUBLISH_OK": RequestKind.PUBLISH,
    "PUBLISH_NAMESPACE_OK": RequestKind.PUBLISH_NAMESPACE,
    "SUBSCRIBE_NAMESPACE_OK": RequestKind.SUBSCRIBE_NAMESPACE,
    "REQUEST_OK": None,
}


def names(values: list[str]) -> tuple[bytes, ...]:
    return tuple(value.encode() for value in values)


def pairs(fields: Fields) -> Properties:
    return tuple((PROPERTIES[name], value) for name, value in fields.items())


def content(value: Any) -> bytes:
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value.encode()


def filter_of(fields: Fields, profile: DraftProfile) -> Filter:
    """As each family writes it."""
    numbers: list[int] | None = fields.get("fields")
    kind = fields.get("type")
    if numbers is None:
        if kind in (1, 2):
            return RelativeGroup(0) if kind == 1 else NextObject()
        return AbsoluteRange(Location(*fields["start"]), fields.get("end_group"))
    if numbers == [0, 0] if kind is None else kind == 5:
        return NextObject()
    if len(numbers) == 1:
        return RelativeGroup(numbers[0])
    start = Location(*numbers[:2])
    return (
        AbsoluteRange(start, start.group + numbers[2], *numbers[3:])
        if len(numbers) > 2
        else AbsoluteRange(start)
    )


def params_of(fields: Fields, profile: DraftProfile) -> Parameters:
    """Parameters, and those that are fields of the message on 14."""
    given = fields.get("params", {})
    values: Fields = {}
    same = {"FORWARD": "forward", "EXPIRES": "expires", "DELIVERY_TIMEOUT": "delivery_timeout",
            "SUBSCRIBER_PRIORITY": "priority", "RENDEZVOUS_TIMEOUT": "rendezvous_timeout"}  # fmt: skip
    if profile is DRAFT_14:
        same["RENDEZVOUS_TIMEOUT"] = "max_cache_duration"
    values |= {attribute: given[name] for name, attribute in same.items() if name in given}
    values |= {name: fields[name] for name in ("priority", "expires", "forward") if name in fields}
    if "forward" in values:
        values["forward"] = bool(values["forward"])
    order = given.get("GROUP_ORDER", fields.get("group_order"))
    if order:
        values["order"] = GroupOrder(order)
    largest = given.get("LARGEST_OBJECT", fields.get("largest"))
    if largest:
        values["largest"] = Location(*largest)
    wanted = given.get("FILTER", fields.get("filter"))
    if wanted:
        values["filter"] = filter_of(wanted, profile)
    if "FILL_PARAMETERS" in given:
        values["fill"] = params_of({"params": given["FILL_PARAMETERS"]}, profile)
    if "HOP_PATH" in given:
        values["hop_path"] = tuple(given["HOP_PATH"])
    if "HIDDEN" in given:
        values["hidden"] = given["HIDDEN"]
    if "AUTHORIZATION_TOKEN" in given:
        token = given["AUTHORIZATION_TOKEN"]
        kind = TokenKind(token["alias_type"])
        values["tokens"] = (Token(token["token"].encode(), token["token_type"], kind),)
    known = {*same, "GROUP_ORDER", "LARGEST_OBJECT", "FILTER", "FILL_PARAMETERS", "HOP_PATH", "HIDDEN",
             "AUTHORIZATION_TOKEN"}  # fmt: skip
    assert set(given) <= known, given
    return Parameters(**values)


def setup(fields: Fields, message: str) -> Setup:
    options: Fields = fields["params"] if "params" in fields else fields.get("options", {})
    versions = fields.get("versions", [fields["version"]] if "version" in fields else [])
    return Setup(
        **{attribute: options[name] for name, attribute in OPTIONS.items() if name in options},
        other=tuple(sorted((kind, options[name]) for name, kind in OTHER_OPTIONS.items() if name in options)),
        versions=tuple(int(version, 16) for version in versions),
        from_server=message == "SERVER_SETUP",
    )


def end_of(fields: Fields, profile: DraftProfile) -> tuple[int, int | None]:
    group, object_ = fields["end"]
    if profile.has_fill:
        return group, object_
    return group, object_ - 1 if object_ else None


def message_of(name: str, fields: Fields, profile: DraftProfile) -> Message:  # noqa: C901, PLR0912 - one case a message
    id_: int = fields.get("request_id", -1)
    params = params_of(fields, profile) if "SETUP" not in name else Parameters()
    reply: Fields = {"request_id": None if profile.request_streams else id_}
    properties = pairs(fields.get("track_properties", {}))
    namespace = names(next((fields[key] for key in ("namespace", "prefix", "suffix") if key in fields), []))
    track = fields.get("track", "").encode()
    if name in ERRORS:
        retry = fields.get("retry_interval", 0)
        after = retry - 1 if retry else None
        return RequestError(fields["code"], fields["reason"], after, None, reply["request_id"], ERRORS[name])
    if name in OKS:
        return RequestOk(params, properties, reply["request_id"], OKS[name])
    match name:
        case "CLIENT_SETUP" | "SERVER_SETUP" | "SETUP":
            return setup(fields, name)
        case "SUBSCRIBE":
            return Subscribe(id_, namespace, track, params)
        case "TRACK_STATUS":
            return TrackStatus(id_, namespace, track, params)
        case "SUBSCRIBE_OK":
            return SubscribeOk(fields["track_alias"], params, properties, **reply)
        case "SUBSCRIBE_UPDATE":
            return RequestUpdate(id_, params, fields["subscription_request_id"])
        case "REQUEST_UPDATE":
            return RequestUpdate(id_, params, fields.get("existing_request_id"))
        case "UNSUBSCRIBE":
            return Unsubscribe(id_)
        case "PUBLISH":
            return Publish(id_, namespace, track, fields["track_alias"], params, properties)
        case "PUBLISH_DONE":
            return PublishDone(fields["status"], fields["stream_count"], fields["reason"], **reply)
        case "FETCH":
            return fetch(id_, fields, profile, params)
        case "FETCH_OK":
            last = bool(fields["end_of_track"])
            return FetchOk(*end_of(fields, profile), last, params, properties, **reply)
        case "PUBLISH_NAMESPACE":
            return PublishNamespace(id_, namespace, params)
        case "PUBLISH_NAMESPACE_DONE":
            return PublishNamespaceDone(namespace) if namespace else PublishNamespaceDone(None, id_)
        case "SUBSCRIBE_NAMESPACE":
            default = Interest.BOTH if profile is DRAFT_14 else Interest.NAMESPACES
            return SubscribeNamespace(
                id_, namespace, params, Interest(fields.get("subscribe_options", default))
            )
        case "SUBSCRIBE_TRACKS":
            return SubscribeTracks(id_, namespace, params)
        case "NAMESPACE":
            return Namespace(namespace, params)
        case "NAMESPACE_DONE":
            return NamespaceDone(namespace)
        case "GOAWAY":
            return Goaway(fields["uri"], fields.get("timeout", 0))
    raise AssertionError(name)


def fetch(id_: int, fields: Fields, profile: DraftProfile, params: Parameters) -> Fetch | JoiningFetch:
    if "joining_start" in fields:
        relative = fields["fetch_type"] == 2
        return JoiningFetch(id_, fields["joining_request_id"], fields["joining_start"], relative, params)
    namespace, track = names(fields["namespace"]), fields["track"].encode()
    if profile.has_fill:
        rest = {name: value for name, value in fields["params"].items() if name != "FILTER"}
        wanted = filter_of(fields["params"]["FILTER"], profile)
        return Fetch(id_, namespace, track, wanted, params_of({"params": rest}, profile))
    wanted = AbsoluteRange(Location(*fields["start"]), *end_of(fields, profile))
    return Fetch(id_, namespace, track, wanted, params)


def subgroup(fields: Fields, profile: DraftProfile) -> list[object]:
    has_properties = any("ext" in object_ for object_ in fields["objects"])
    named = fields["subgroup"]
    header = SubgroupHeader(
        fields["track_alias"], fields["group"], None if isinstance(named, str) else named, fields.get("priority"),
        fields.get("end_of_group", False), fields.get("first_object", False), has_properties,
    )  # fmt: skip
    items: list[object] = [header]
    for object_ in fields["objects"]:
        payload = content(object_.get("payload", ""))
        status = ObjectStatus(object_.get("status", 0))
        items.append(ObjectHeader(object_["id"], len(payload), pairs(object_.get("ext", {})), status))
        items += [payload] if payload else []
    return items


def fetched(fields: Fields) -> list[object]:
    items: list[object] = [FetchHeader(fields["request_id"])]
    for object_ in fields["objects"]:
        payload = content(object_.get("payload", ""))
        place = object_["group"], object_["subgroup"], object_["object"], object_["priority"]
        items.append(FetchObject(*place, len(payload), pairs(object_.get("ext", {}))))
        items += [payload] if payload else []
    return items


def datagram(fields: Fields) -> ObjectDatagram:
    return ObjectDatagram(
        fields["track_alias"], fields["group"], fields["object"], content(fields["payload"]), fields.get("priority"),
        pairs(fields.get("ext", {})), None, fields.get("end_of_group", False),
    )  # fmt: skip


class Decoder(Protocol):
    def feed(self, data: bytes, /) -> Sequence[object]: ...
    def end(self) -> None: ...


def decoder_of(vector: dict[str, Any], profile: DraftProfile) -> Decoder:
    message = vector["message"]
    is_uni = "stream" in message or message == "SETUP"
    return UniDecoder(profile) if is_uni else MessageDecoder(profile)


def expected(vector: dict[str, Any], profile: DraftProfile) -> list[object]:
    fields = (vector.get("fields") or {}) | FIELDS_LATER.get(vector["id"], {})
    match vector["message"]:
        case "SUBGROUP stream":
            return subgroup(fields, profile)
        case "FETCH stream":
            return fetched(fields)
        case "PADDING stream" | "PADDING datagram":
            return []
        case name:
            return [message_of(name, fields, profile)]


def encoded(items: Sequence[Any], profile: DraftProfile) -> bytes:
    """The items of one stream, with payloads."""
    out = b""
    before: int | None = None
    has_properties = False
    encoder = streams.FetchEncoder(profile)
    for item in items:
        match item:
            case bytes():
                out += item
            case SubgroupHeader():
                has_properties = item.has_properties
                out += streams.subgroup_header(item, profile)
            case ObjectHeader():
                out += streams.object_header(item, before, profile, has_properties=has_properties)
                before = item.id
            case FetchHeader():
                out += streams.fetch_header(item.request_id, profile)
            case FetchObject():
                out += encoder.header(item)
            case _:
                out += encode(item, profile)
    return out


def joined(items: Sequence[object]) -> list[object]:
    """Joins the payload chunks between headers."""
    glued: list[object] = []
    for item in items:
        last = glued[-1] if glued else None
        if isinstance(item, bytes) and isinstance(last, bytes):
            glued[-1] = last + item
        else:
            glued.append(item)
    return glued


def all_at_once(decoder: Decoder, data: bytes) -> list[object]:
    items = list(decoder.feed(data))
    decoder.end()
    return items


def byte_by_byte(decoder: Decoder, data: bytes) -> list[object]:
    items: list[object] = []
    for at in range(len(data)):
        items += decoder.feed(data[at : at + 1])
    decoder.end()
    return joined(items)


FEEDS: tuple[Callable[[Decoder, bytes], list[object]], ...] = (all_at_once, byte_by_byte)

DATAGRAMS = [id_ for id_, vector in VECTORS.items() if "DATAGRAM" in vector["message"].upper() and vector["message"] != "PADDING datagram"]  # fmt: skip
STREAMS = [
    id_
    for id_, vector in VECTORS.items()
    if id_ not in {*INTEGERS, *DATAGRAMS, *INVALID, *LEFT_TO_OTHER_ROOMS, "m18-padding-datagram"}
]


def test_no_vector_is_skipped() -> None:
    assert len(VECTORS) == 523
    parts = [INTEGERS, DATAGRAMS, list(INVALID), list(LEFT_TO_OTHER_ROOMS), ["m18-padding-datagram"], STREAMS]
    assert sum(map(len, parts)) == len(VECTORS)
    assert set().union(*parts) == set(VECTORS)


@pytest.mark.parametrize("id_", INTEGERS)
def test_integers(id_: str) -> None:
    vector = VECTORS[id_]
    data, value = bytes.fromhex(vector["hex"]), vector["fields"]["value"]
    decode, encode_ = (
        (decode_vi64, encode_vi64) if vector["message"] == "vi64" else (decode_varint, encode_varint)
    )
    assert decode(data) == (value, len(data))
    assert decode(b"\x05" + data + b"\xff", 1) == (value, 1 + len(data))
    for end in range(len(data)):
        assert decode(data[:end]) is None
    if not id_.endswith("-long"):
        assert encode_(value) == data


def together(ids: Iterable[str]) -> Mapping[str, list[str]]:
    """By draft and message: one test for each."""
    found: dict[str, list[str]] = {}
    for id_ in ids:
        found.setdefault("{version} {message}".format(**VECTORS[id_]), []).append(id_)
    return found


@pytest.mark.parametrize("ids", (found := together(STREAMS)).values(), ids=found)
def test_decode(ids: list[str]) -> None:
    for id_ in ids:
        vector = VECTORS[id_]
        profile = PROFILES[vector["version"]]
        for feed in FEEDS:
            items = feed(decoder_of(vector, profile), bytes.fromhex(vector["hex"]))
            assert items == expected(vector, profile), (id_, feed.__name__)


def is_canonical(vector: dict[str, Any]) -> bool:
    """Written in the fewest bytes, and in order."""
    data = bytes.fromhex(vector["hex"])
    match vector["message"]:
        case "SUBGROUP stream":
            named = VECTORS[vector["id"]]["fields"] if vector.get("fields") else FIELDS_LATER[vector["id"]]
            return not (data[0] & 0x04 and named["subgroup"] == 0)
        case "CLIENT_SETUP" | "SERVER_SETUP":
            return PROFILES[vector["version"]] is not DRAFT_14
    return vector["message"] != "PADDING stream" and vector["id"] not in LONGER


LONGER = {
    "m14-subscribe-aio-2",  # parameters in another order
    "m16-fetch-stream-aio",  # all fields in every object
}


NEVER_SENT = {"m16-subscribe-aio-3"}
"""With a parameter that the draft lacks; it is understood."""


@pytest.mark.parametrize("id_", sorted(NEVER_SENT))
def test_a_parameter_that_the_draft_lacks_is_not_written(id_: str) -> None:
    vector = VECTORS[id_]
    profile = PROFILES[vector["version"]]
    with pytest.raises(ValueError):
        encoded(expected(vector, profile), profile)


@pytest.mark.parametrize(
    "ids", (found := together(id_ for id_ in STREAMS if id_ not in NEVER_SENT)).values(), ids=found
)
def test_encode(ids: list[str]) -> None:
    for id_ in ids:
        vector = VECTORS[id_]
        profile = PROFILES[vector["version"]]
        items = expected(vector, profile)
        data = encoded(items, profile)
        if is_canonical(vector):
            assert data == bytes.fromhex(vector["hex"]), id_
        else:
            assert len(data) <= len(bytes.fromhex(vector["hex"])), id_
            assert all_at_once(decoder_of(vector, profile), data) == items, id_


@pytest.mark.parametrize("id_", DATAGRAMS)
def test_datagrams(id_: str) -> None:
    vector = VECTORS[id_]
    profile = PROFILES[vector["version"]]
    data = bytes.fromhex(vector["hex"])
    found = datagram(vector["fields"])
    assert streams.decode_datagram(data, profile) == found
    explicit = not data[0] & streams.ZERO_OBJECT and not found.object
    assert streams.encode_datagram(found, profile) == (
        bytes((data[0] | streams.ZERO_OBJECT,)) + data[1:3] + data[4:] if explicit else data
    )


@pytest.mark.parametrize("profile", [DRAFT_18, DRAFT_20, DRAFT_22])
def test_padding_datagrams_are_no_objects(profile: DraftProfile) -> None:
    data = bytes.fromhex(VECTORS["m18-padding-datagram"]["hex"])
    assert streams.decode_datagram(data, profile) is None
    with pytest.raises(DecodeError):
        streams.decode_datagram(data, DRAFT_14)


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("id_", INVALID)
def test_invalid(id_: str, feed: Callable[[Decoder, bytes], list[object]]) -> None:
    vector = VECTORS[id_]
    decoder = decoder_of(vector, PROFILES[vector["version"]])
    with pytest.raises(INVALID[id_]) as raised:
        feed(decoder, bytes.fromhex(vector["hex"]))
    assert type(raised.value) is INVALID[id_]


@pytest.mark.parametrize(
    "ids",
    (found := together(id_ for id_ in STREAMS if VECTORS[id_]["version"] == "moqt-20")).values(),
    ids=found,
)
def test_21_is_20(ids: list[str]) -> None:
    for id_ in ids:
        vector = VECTORS[id_]
        items = expected(vector, DRAFT_21)
        assert all_at_once(decoder_of(vector, DRAFT_21), bytes.fromhex(vector["hex"])) == items, id_
        assert encoded(items, DRAFT_21) == encoded(items, DRAFT_20), id_
