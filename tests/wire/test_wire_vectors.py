"""The golden bytes: each vector decodes to its fields, and the fields encode to its bytes.

Every vector is fed whole and byte by byte. A list by id names what other rooms test, so that nothing is skipped by
accident.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from relay.wire.announce import (
    AnnounceActive,
    AnnounceEnded,
    AnnounceInit,
    AnnounceOk,
    AnnounceRequest,
    AnnounceUpdate,
)
from relay.wire.control import Fetch, Goaway, Probe, ProbeRequest, SessionInfo, TrackInfo, TrackRequest
from relay.wire.cursor import Cursor
from relay.wire.decoder import (
    AnnounceDecoder,
    ProbeDecoder,
    RequestDecoder,
    ServerSetupDecoder,
    SetupDecoder,
    SubscribeDecoder,
    TrackInfoDecoder,
)
from relay.wire.errors import DecodeError, ProtocolViolation, WireError, from_http3, to_http3
from relay.wire.frame import (
    Datagram,
    FrameHeader,
    GroupHeader,
    Request,
    frame_header_plain,
    frame_header_timed,
    group_header,
    open_request,
    setup_stream,
)
from relay.wire.frame_decoder import FrameDecoder, UniDecoder
from relay.wire.setup import ClientSetup, ServerSetup, Setup, SetupForm
from relay.wire.subscribe import Subscribe, SubscribeDrop, SubscribeEnd, SubscribeOk, SubscribeUpdate
from relay.wire.text import encode_string
from relay.wire.varint import decode_varint, encode_varint
from relay.wire.version import Version
from relay.wire.webtransport import (
    CloseCapsuleDecoder,
    WebTransportClose,
    bidi_prefix,
    encode_close_capsule,
    uni_prefix,
)

Fields = dict[str, Any]

DOCUMENT = json.loads(Path(__file__).with_name("vectors.json").read_text())
VECTORS: dict[str, dict[str, Any]] = {vector["id"]: vector for vector in DOCUMENT["vectors"]}

LEFT_TO_OTHER_ROOMS = {
    # HTTP/3 settings and header blocks: transport
    *("h3-settings-051", "h3-connect-051", "h3-response"),
}

FRAMES_IN_MESSAGES = {id_ for id_, vector in VECTORS.items() if vector["version"].startswith("ws ")}
"""Tested by test_wire_qmux.py."""

BY_MESSAGE = {
    "varint": [id_ for id_, vector in VECTORS.items() if vector["message"] == "varint"],
    "errmap": [id_ for id_, vector in VECTORS.items() if vector["message"] == "h3-error-code"],
}

OTHER_VALUES = {"string-demo-cam", "zigzag", "wt-close", "wt-close-bare", "wt-close-l6", "wt-bidi"}

INVALID: dict[str, type[WireError]] = {
    "annstart-l6-wip": DecodeError,
    "annstart-l6-duphop": ProtocolViolation,
}


def number(value: Any) -> int:
    """Plain, or as hex text."""
    return int(value, 16) if isinstance(value, str) else int(value)


def versions_of(vector: dict[str, Any]) -> list[Version]:
    numbers = re.findall(r"\d\d", vector["version"]) if vector["version"].startswith("lite-") else []
    return [Version(int(text)) for text in numbers] or [Version.LITE_01]


def text_bytes(value: str) -> bytes:
    """Hex digits alone are hex, else ASCII."""
    return bytes.fromhex(value) if re.fullmatch(r"([0-9a-f]{2})+", value) else value.encode()


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


class Decoder(Protocol):
    def feed(self, data: bytes, /) -> Sequence[object]: ...
    def end(self) -> None: ...


@dataclass
class WholeDatagram:
    """Feeds a datagram like a stream."""

    version: Version

    def feed(self, data: bytes, /) -> Sequence[object]:
        return [Datagram.decode(data, self.version)]

    def end(self) -> None:
        pass


@dataclass
class Case:
    """One vector at one version: its decoder, expected items, and encoder."""

    decoder: Decoder
    expected: list[object]
    encoded: bytes
    data: bytes


def request(fields: Fields, version: Version) -> Request:
    broadcast, track = fields.get("broadcast", ""), fields.get("track", "")
    match fields["stream_type"]:
        case 1:
            return AnnounceRequest(fields["prefix"], number(fields.get("exclude_hop", 0)))
        case 2:
            return Subscribe(fields["id"], broadcast, track, **wanted(fields))
        case 3:
            start, end = fields.get("frame_start", 0), fields.get("frame_end")
            return Fetch(broadcast, track, fields["priority"], fields["group"], start, end)
        case 4:
            return ProbeRequest()
        case 5:
            return Goaway(fields["uri"])
        case 6:
            return TrackRequest(broadcast, track)
    raise AssertionError(fields, version)


def wanted(fields: Fields) -> Fields:
    return {
        "priority": fields["priority"],
        "ordered": bool(fields.get("ordered", 0)),
        "max_latency": fields.get("max_latency_ms", fields.get("max_age_ms", 0)),
        "start_group": fields.get("start_group", fields.get("group_start") or None),
        "end_group": fields.get("end_group", fields.get("group_end")),
        "start_frame": fields.get("frame_start", 0),
        "end_frame": fields.get("frame_end"),
    }


def announcement(fields: Fields, version: Version) -> AnnounceActive | AnnounceEnded | AnnounceUpdate:
    hops = tuple(number(hop) for hop in fields.get("hops", ()))
    if version < Version.LITE_06:
        if not fields["status"]:
            return AnnounceEnded(fields["suffix"])
        return AnnounceActive(fields["suffix"], hops, hop_count=fields.get("hop_count", 0))
    match fields["type"]:
        case 0:
            return AnnounceActive(fields["suffix"], hops, warm=fields["warm"], cold=fields["cold"])
        case 1:
            return AnnounceEnded(announce_id=fields["announce_id"])
    return AnnounceUpdate(fields["announce_id"], hops, fields["warm"], fields["cold"])


def subscribe_reply(fields: Fields, version: Version) -> SubscribeOk | SubscribeEnd | SubscribeDrop:
    if "error" in fields:
        return SubscribeDrop(fields["start"], fields["end_inclusive"], fields["error"])
    if "group_exclusive" in fields:
        return SubscribeEnd(fields["group_exclusive"])
    if version >= Version.LITE_05:
        return SubscribeOk(group=fields["group"])
    given = {key: fields[key] for key in ("priority", "start_group", "end_group") if key in fields}
    return SubscribeOk(
        ordered=bool(fields.get("ordered", 0)), max_latency=fields.get("max_latency_ms", 0), **given
    )


def frames(listed: list[Any], version: Version) -> tuple[list[object], bytes]:
    items: list[object] = []
    wire = b""
    now = 0
    for frame in listed:
        payload = text_bytes(frame if isinstance(frame, str) else frame["data"])
        if version <= Version.LITE_04:
            items += [FrameHeader(0, len(payload)), payload]
            wire += frame_header_plain(len(payload)) + payload
            continue
        now += frame["delta"]
        assert frame.get("ts", now) == now
        items += [FrameHeader(now, len(payload)), payload]
        wire += frame_header_timed(frame["delta"], len(payload)) + payload
    return items, wire


def setup(fields: Fields) -> Setup:
    given: Fields = {key.split()[1]: value for key, value in fields["params"].items()}
    return Setup(path=given.pop("path", None), **{key: number(value) for key, value in given.items()})


def old_params(fields: Fields) -> dict[int, int | bytes]:
    if "extensions" in fields:
        return {int(key): bytes.fromhex(value) for key, value in fields["extensions"].items()}
    return {
        int(key.split()[0], 16): value.encode() if isinstance(value, str) else value
        for key, value in fields["params"].items()
    }


def in_order_of_id(stream: bytes) -> bytes:
    """Sort the parameters of a SETUP stream: peers write them in random order."""
    params = []
    found = decode_varint(stream, 3)
    assert stream[0] == 1
    assert found is None or stream[1] == len(stream) - 2
    offset = 3
    while offset < len(stream):
        end = offset + 2 + stream[offset + 1]
        params.append(stream[offset:end])
        offset = end
    assert len(params) == stream[2]
    return stream[:3] + b"".join(sorted(params))


def announce_case(id_: str, version: Version, fields: Fields, data: bytes) -> Case:
    decoder = AnnounceDecoder(version)
    expected: list[Any]
    if id_.startswith("ann-init-"):
        expected = [AnnounceInit(tuple(fields["suffixes"]))]
    elif "origin" in fields:
        routes = fields.get("routes", [fields["then"]] if "then" in fields else [])
        ok = AnnounceOk(number(fields["origin"]), fields["active"])
        expected = [ok, *(announcement(route, version) for route in routes)]
    else:
        opening: Any = AnnounceInit() if version <= Version.LITE_02 else AnnounceOk(1, 0)
        if version not in (Version.LITE_03, Version.LITE_04):
            decoder.feed(opening.encode(version))
        expected = [announcement(fields, version)]
    return Case(decoder, expected, b"".join(each.encode(version) for each in expected), data)


def request_case(_: str, version: Version, fields: Fields, data: bytes) -> Case:
    message = request(fields, version)
    return Case(RequestDecoder(version), [message], open_request(version, message), data)


def update_case(_: str, version: Version, fields: Fields, data: bytes) -> Case:
    decoder = RequestDecoder(version)
    decoder.feed(open_request(version, Subscribe(0, "b", "t")))
    update = SubscribeUpdate(**wanted(fields))
    return Case(decoder, [update], update.encode(version), data)


def reply_case(_: str, version: Version, fields: Fields, data: bytes) -> Case:
    listed = [subscribe_reply(each, version) for each in fields.get("messages", [fields])]
    wire = b"".join(reply.encode(version) for reply in listed)
    return Case(SubscribeDecoder(version), [*listed], wire, data)


def group_case(id_: str, version: Version, fields: Fields, data: bytes) -> Case:
    if id_ == "group-l5-wt":  # the vector lists the header alone
        fields = fields | {"frames": [{"delta": 1000, "data": "hello"}, {"delta": 2000, "data": "world!"}]}
    header = GroupHeader(fields["subscribe"], fields["sequence"], fields.get("frame_start", 0))
    items, wire = frames(fields["frames"], version)
    return Case(UniDecoder(version), [header, *items], group_header(version, header) + wire, data)


def fetched_case(_: str, version: Version, fields: Fields, data: bytes) -> Case:
    return Case(FrameDecoder(version), *frames(fields["frames"], version), data)


def track_info_case(_: str, version: Version, fields: Fields, data: bytes) -> Case:
    latency = fields["max_latency_ms"] if "max_latency_ms" in fields else fields["max_age_ms"]
    info = TrackInfo(fields["priority"], bool(fields.get("ordered", 0)), latency, fields["timescale"])
    return Case(TrackInfoDecoder(version), [info], info.encode(version), data)


def probe_case(_: str, version: Version, fields: Fields, data: bytes) -> Case:
    probe = Probe(fields["bitrate"], fields.get("rtt_ms", 0))
    return Case(ProbeDecoder(version), [probe], probe.encode(version), data)


def setup_case(_: str, version: Version, fields: Fields, data: bytes) -> Case:
    hello = setup(fields)
    assert UniDecoder(version).feed(data) == [hello]
    # peers write the parameters in random order, we in the order of their ids: compare them sorted
    return Case(UniDecoder(version), [hello], setup_stream(version, hello), in_order_of_id(data))


def session_info_case(_: str, version: Version, fields: Fields, data: bytes) -> Case:
    decoder = SetupDecoder()
    decoder.feed(ClientSetup(SetupForm.SESSION, (version.setup_code,)).encode())
    info = SessionInfo(fields["bitrate"])
    return Case(decoder, [info], info.encode(version), data)


def client_setup_case(_: str, __: Version, fields: Fields, data: bytes) -> Case:
    form = SetupForm(number(fields.get("type", fields.get("stream_type", 0))))
    opening = ClientSetup(form, tuple(map(number, fields["versions"])), old_params(fields))
    assert opening.path == fields.get("params", {}).get("0x1 path")
    (read,) = SetupDecoder().feed(data)
    assert isinstance(read, ClientSetup)
    # the listed order differs from the bytes' order, which decoding keeps
    return Case(SetupDecoder(), [opening], read.encode(), data)


def server_setup_case(_: str, __: Version, fields: Fields, data: bytes) -> Case:
    forms = {0x41: SetupForm.COMPAT, 0x21: SetupForm.DRAFT14, 0: SetupForm.SESSION}
    form = forms[number(fields.get("prefix", fields.get("type", 0)))]
    answer = ServerSetup(form, number(fields["version"]), old_params(fields))
    return Case(ServerSetupDecoder(form), [answer], answer.encode(), data)


def datagram_case(_: str, version: Version, fields: Fields, data: bytes) -> Case:
    body = data[1:] if "prefix" in fields else data
    assert data[0] == fields.get("prefix", data[0])
    payload = fields["payload"].encode()
    datagram = Datagram(fields["subscribe"], fields["sequence"], fields["timestamp"], payload)
    return Case(WholeDatagram(version), [datagram], datagram.encode(version), body)


BUILDERS: dict[str, Callable[[str, Version, Fields, bytes], Case]] = {
    r"ann-?req-|sub-l|track-l|fetch-l|probe-open|goaway-l": request_case,
    r"subupdate-": update_case,
    r"ann(-init|-ok|-active|-ended|ok|in|start|update|end)-": announce_case,
    r"subok-|substart|subend-|subdrop-": reply_case,
    r"group-": group_case,
    r"fetch-resp-": fetched_case,
    r"trackinfo-": track_info_case,
    r"probe-l": probe_case,
    r"setup-l": setup_case,
    r"l1-session-info": session_info_case,
    r"d14-client-|l1-\w+-client": client_setup_case,
    r"d14-server-|l1-\w+-server": server_setup_case,
    r"dgram-": datagram_case,
}


def case(id_: str, version: Version) -> Case:
    vector = VECTORS[id_]
    fields: Fields = vector["fields"]
    data = bytes.fromhex(vector["hex"])
    if "wt_header" in fields:
        assert data.startswith(uni_prefix(0))
        data = data.removeprefix(uni_prefix(0))
    (build,) = (build for pattern, build in BUILDERS.items() if re.match(pattern, id_))
    return build(id_, version, fields, data)


MESSAGES = sorted(
    set(VECTORS).difference(
        LEFT_TO_OTHER_ROOMS,
        FRAMES_IN_MESSAGES,
        OTHER_VALUES,
        INVALID,
        BY_MESSAGE["varint"],
        BY_MESSAGE["errmap"],
    )
)


def test_every_vector_is_either_read_or_left_by_name() -> None:
    assert set(DOCUMENT) == {"description", "vectors", "jwt"}  # jwt: auth
    assert len(VECTORS) == len(DOCUMENT["vectors"])
    assert set(VECTORS) >= LEFT_TO_OTHER_ROOMS | OTHER_VALUES | set(INVALID)
    assert {VECTORS[id_]["version"] for id_ in LEFT_TO_OTHER_ROOMS} == {"h3"}
    assert {id_ for id_, vector in VECTORS.items() if "INVALID" in vector.get("note", "")} == set(INVALID)


@pytest.mark.parametrize("id_", MESSAGES)
def test_vector_whole(id_: str) -> None:
    for version in versions_of(VECTORS[id_]):
        found = case(id_, version)
        assert joined(found.decoder.feed(found.data)) == found.expected, version
        found.decoder.end()
        assert found.encoded == found.data, version


@pytest.mark.parametrize("id_", [id_ for id_ in MESSAGES if not id_.startswith("dgram-")])
def test_vector_byte_by_byte(id_: str) -> None:
    for version in versions_of(VECTORS[id_]):
        found = case(id_, version)
        items: list[object] = []
        for value in found.data:
            items.extend(found.decoder.feed(bytes((value,))))
        assert joined(items) == found.expected, version
        found.decoder.end()


@pytest.mark.parametrize("id_", INVALID)
@pytest.mark.parametrize("step", [1, 1000])
def test_invalid_vector_raises(id_: str, step: int) -> None:
    data = bytes.fromhex(VECTORS[id_]["hex"])
    decoder = AnnounceDecoder(Version.LITE_06)
    decoder.feed(AnnounceOk(1, 1).encode(Version.LITE_06))
    *earlier, last = [data[offset : offset + step] for offset in range(0, len(data), step)]
    for piece in earlier:
        decoder.feed(piece)
    with pytest.raises(INVALID[id_]):
        decoder.feed(last)


@pytest.mark.parametrize("id_", BY_MESSAGE["varint"])
def test_varint_vector(id_: str) -> None:
    data, value = bytes.fromhex(VECTORS[id_]["hex"]), VECTORS[id_]["fields"]["value"]
    assert decode_varint(data) == (value, len(data))
    assert encode_varint(value) == data
    assert [decode_varint(data[:size]) for size in range(len(data))] == [None] * len(data)


@pytest.mark.parametrize("id_", BY_MESSAGE["errmap"])
def test_error_mapping_vector(id_: str) -> None:
    fields = VECTORS[id_]["fields"]
    mapped = number(fields["h3"])
    assert encode_varint(mapped).hex() == VECTORS[id_]["hex"]
    assert to_http3(fields["app"]) == mapped
    assert from_http3(mapped) == fields["app"]


def test_string_vector() -> None:
    data = bytes.fromhex(VECTORS["string-demo-cam"]["hex"])
    cursor = Cursor(data)
    assert cursor.text() == "demo/cam"
    cursor.done()
    assert encode_string("demo/cam") == data


def test_zigzag_vector() -> None:
    vector = VECTORS["zigzag"]
    values = vector["fields"]["values"]
    assert b"".join(frame_header_timed(value, 0)[:-1] for value in values).hex() == vector["hex"]


@pytest.mark.parametrize("id_", ["wt-close", "wt-close-bare", "wt-close-l6"])
@pytest.mark.parametrize("step", [1, 1000])
def test_close_vector(id_: str, step: int) -> None:
    data, fields = bytes.fromhex(VECTORS[id_]["hex"]), VECTORS[id_]["fields"]
    decoder = CloseCapsuleDecoder()
    found = [decoder.feed(data[offset : offset + step]) for offset in range(0, len(data), step)]
    assert found[-1] == WebTransportClose(fields["code"], fields["reason"])
    assert set(found[:-1]) <= {None}
    in_data_frame = id_ != "wt-close-bare"
    assert encode_close_capsule(fields["code"], fields["reason"], in_data_frame=in_data_frame) == data


def test_bidi_prefix_vector() -> None:
    assert bidi_prefix(0) + b"\x01" == bytes.fromhex(VECTORS["wt-bidi"]["hex"])
