"""The golden bytes through a session: each vector becomes events with its fields, and commands write its bytes.

Every vector is fed whole and byte by byte. Lists by id name what other rooms test, and what a session reads and never
writes, so that nothing is skipped by accident.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from relay.model.group import Part
from relay.model.route import MAX_COST, Route
from relay.model.track import SubscribeParams, TrackProperties
from relay.moq.lite import Options
from relay.moq.session import (
    Announced,
    AnnouncementsComplete,
    AnnouncementsStarted,
    AnnounceRequested,
    BitrateReported,
    Closed,
    DatagramReceived,
    Established,
    Event,
    Fault,
    FetchedData,
    FetchRequested,
    GroupData,
    GroupFragment,
    GroupPart,
    InfoReceived,
    InfoRequested,
    Introduced,
    Offer,
    Opened,
    PeerInfo,
    PeerLeaving,
    ProbeReceived,
    ProbeRequested,
    SubscribeRequested,
    SubscribeUpdated,
    SubscriptionDropped,
    SubscriptionEnded,
    SubscriptionStarted,
    Unannounced,
)
from relay.transport.session import DatagramReceived as TransportDatagram
from relay.transport.session import StreamData
from relay.wire.announce import AnnounceInit, AnnounceOk
from relay.wire.frame import FrameHeader, open_request
from relay.wire.setup import ClientSetup, SetupForm
from relay.wire.subscribe import Subscribe, SubscribeEnd
from relay.wire.version import Version
from tests.moq.support import End, FakeSession, FakeStream, frames, lone

Fields = dict[str, Any]

DOCUMENT = json.loads((Path(__file__).parents[1] / "wire" / "vectors.json").read_text())
VECTORS: dict[str, dict[str, Any]] = {vector["id"]: vector for vector in DOCUMENT["vectors"]}

LEFT_TO_WIRE = {
    # values and codes, no messages
    *(id_ for id_, vector in VECTORS.items() if vector["message"] in ("varint", "h3-error-code")),
    *("string-demo-cam", "zigzag"),
}
LEFT_TO_TRANSPORTS = {
    *(
        "h3-settings-051",
        "h3-connect-051",
        "h3-response",
        "wt-close",
        "wt-close-bare",
        "wt-close-l6",
        "wt-bidi",
    ),
    # frames of WebSocket messages
    *(id_ for id_, vector in VECTORS.items() if vector["version"].startswith("ws ")),
}
READ = [id_ for id_ in VECTORS if id_ not in LEFT_TO_WIRE | LEFT_TO_TRANSPORTS]

REFUSED = {"annstart-l6-wip", "annstart-l6-duphop"}
"""They end the session."""

NOT_WRITTEN = {
    # only other implementations report a bitrate, drop groups for other reasons than lateness, or answer probes
    *("l1-session-info", "subdrop-l3", "subdrop-l6", "probe-l3", "probe-l4", "probe-l6"),
    # SETUP with parameters that we do not send, or without our hop id
    *("l1-compat-client", "setup-l5-sub-role", "setup-l6-empty"),
    *(id_ for id_ in VECTORS if id_.startswith("d14-client-")),
    *REFUSED,
}


def number(value: Any) -> int:
    """Plain, or as hex text."""
    return int(value, 16) if isinstance(value, str) else int(value)


def numbers(values: Iterable[Any]) -> tuple[int, ...]:
    return tuple(map(number, values))


def versions_of(vector: dict[str, Any]) -> list[Version]:
    found = re.findall(r"\d\d", vector["version"]) if vector["version"].startswith("lite-") else []
    return [Version(int(text)) for text in found] or [Version.LITE_01]


def payload(frame: Any) -> bytes:
    """Hex digits alone are hex, else text."""
    text = frame if isinstance(frame, str) else frame["data"]
    return bytes.fromhex(text) if re.fullmatch(r"([0-9a-f]{2})+", text) else text.encode()


def frames_of(id_: str, fields: Fields) -> list[tuple[int, bytes]]:
    """Absolute times and payloads."""
    if id_ == "group-l5-wt":  # the vector lists the header alone
        return [(1000, b"hello"), (3000, b"world!")]
    now, listed = 0, []
    for frame in fields["frames"]:
        now += 0 if isinstance(frame, str) else frame["delta"]
        listed.append((now, payload(frame)))
    return listed


def bytes_of(id_: str) -> bytes:
    """Without WebTransport's prefix."""
    vector = VECTORS[id_]
    data = bytes.fromhex(vector["hex"])
    fields: Fields = vector.get("fields") or {}
    return (
        data.removeprefix(bytes.fromhex(fields.get("wt_header", "")))
        if "prefix" not in fields
        else (data[1:] if id_.startswith("dgram") else data)
    )


def latency_of(fields: Fields) -> int:
    return next((int(fields[key]) for key in ("max_latency_ms", "max_age_ms") if key in fields), 0)


def params(fields: Fields, version: Version) -> SubscribeParams:
    """Parameters as the vector lists them."""
    latency = latency_of(fields)
    return SubscribeParams(
        priority=fields["priority"],
        ordered=bool(fields.get("ordered", 0)),
        latency_ms=latency,
        history_ms=latency if version.latency_is_history else 0,
        start_group=fields.get("start_group", fields.get("group_start") or None),
        start_is_floor=version.latency_is_history,
        end_group=fields.get("end_group", fields.get("group_end")),
        start_frame=fields.get("frame_start", 0),
        end_frame=fields.get("frame_end"),
    )


def merged(events: Iterable[Event]) -> list[Event]:
    """As if all bytes came at once: with the parts of a group, and of a payload, joined."""
    result: list[Event] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, GroupData) and isinstance(last, GroupData):
            (part,), (before,) = event.parts, last.parts
            result[-1] = GroupData(event.request, (joined(before, part),))
        elif isinstance(event, FetchedData) and isinstance(last, FetchedData):
            result[-1] = FetchedData(event.request, joined(last.part, event.part))
        else:
            result.append(event)
    return result


def joined(before: GroupPart, part: GroupPart) -> GroupPart:
    assert (before.sequence, before.first_frame, before.fin) == (part.sequence, part.first_frame, False)
    items: list[Part] = []
    for item in before.parts + part.parts:
        if isinstance(item, bytes) and items and isinstance(items[-1], bytes):
            items[-1] += item
        else:
            items.append(item)
    return part._replace(parts=tuple(items))


@dataclass
class Reading:
    """A session ready for a vector, its stream (else a datagram), and the expected events."""

    end: End
    stream: FakeStream | None
    expected: list[Event]
    chosen: Version | None = None
    """The version that the vector decides."""


# --- set-up ----------------------------------------------------------------------------------------------------------

FORMS = {"l1-session": SetupForm.SESSION, "l1-compat": SetupForm.COMPAT, "d14": SetupForm.DRAFT14}


def form_of(id_: str) -> SetupForm:
    return next(form for prefix, form in FORMS.items() if id_.startswith(prefix))


def unnegotiated(*, is_client: bool, form: SetupForm | None = None) -> End:
    session = FakeSession(None, is_client=is_client, transport="quic", path=None)
    return End(session, hop=1, admitted=is_client, options=Options(form=form)).started()


def read_client_setup(id_: str, version: Version, fields: Fields) -> Reading:
    end = unnegotiated(is_client=False)
    path = fields.get("params", {}).get("0x1 path")
    known = [code - 0xFF0DAD00 for code in numbers(fields["versions"]) if code in (0xFF0DAD01, 0xFF0DAD02)]
    return Reading(end, end.session.peer_opens(unidirectional=False), [Introduced(path)], Version(known[0]))


def write_client_setup(id_: str, version: Version, fields: Fields) -> bytes:
    return unnegotiated(is_client=True).session.streams[0].written


def read_server_setup(id_: str, version: Version, fields: Fields) -> Reading:
    end = unnegotiated(is_client=True, form=form_of(id_))
    return Reading(end, end.session.streams[0], [], version)


def write_server_setup(id_: str, version: Version, fields: Fields) -> bytes:
    end = unnegotiated(is_client=False)
    stream = end.session.peer_opens(unidirectional=False)
    end.receive(StreamData(stream, ClientSetup(form_of(id_), (version.setup_code,)).encode(), False))
    assert stream.written == b""
    end.moq.setup.admit(0.0)
    return stream.written


def read_session_info(id_: str, version: Version, fields: Fields) -> Reading:
    end = unnegotiated(is_client=False)
    stream = end.session.peer_opens(unidirectional=False)
    end.receive(StreamData(stream, ClientSetup(SetupForm.SESSION, (version.setup_code,)).encode(), False))
    return Reading(end, stream, [BitrateReported(fields["bitrate"])])


def setup_params(fields: Fields) -> dict[str, Any]:
    return {key.split()[1]: value for key, value in fields["params"].items()}


def read_setup(id_: str, version: Version, fields: Fields) -> Reading:
    is_client = VECTORS[id_]["sender"] == "server"
    session = FakeSession(version, is_client=is_client, transport="quic", path=None)
    end = End(session, hop=1, admitted=is_client, options=Options(waits_for_setup=False)).started()
    given = setup_params(fields)
    origin, cost, role, probe = (
        None if given.get(key) is None else number(given[key]) for key in ("origin", "cost", "role", "probe")
    )
    expected: list[Event] = [PeerInfo(origin, cost, role, probe)]
    if not is_client:
        expected.append(Introduced(given.get("path")))
    return Reading(end, session.peer_opens(unidirectional=True), expected)


def write_setup(id_: str, version: Version, fields: Fields) -> bytes:
    given = setup_params(fields)
    path = given.get("path")
    options = Options(given.get("role"), given.get("cost"), given.get("probe"), path)
    is_client = VECTORS[id_]["sender"] == "client"
    session = FakeSession(version, is_client=is_client, transport="webtransport" if path is None else "quic")
    End(session, hop=number(given["origin"]), options=options).started()
    (stream,) = session.streams
    assert stream.finished
    return stream.written


def in_order_of_id(data: bytes) -> bytes:
    """Peers write the parameters of SETUP in random order, we in the order of their ids."""
    found, offset = [], 3
    while offset < len(data):
        end = offset + 2 + data[offset + 1]
        found.append(data[offset:end])
        offset = end
    return data[:3] + b"".join(sorted(found))


# --- requests --------------------------------------------------------------------------------------------------------


def read_request(id_: str, version: Version, fields: Fields) -> Reading:
    end = lone(version, options=Options(probe=1, waits_for_setup=False))
    broadcast, track = fields.get("broadcast", ""), fields.get("track", "")
    event: Event
    match fields["stream_type"]:
        case 1:
            event = AnnounceRequested(1, fields["prefix"], number(fields.get("exclude_hop", 0)))
        case 2:
            event = SubscribeRequested(1, broadcast, track, params(fields, version))
        case 3:
            bounds = fields.get("frame_start", 0), fields.get("frame_end")
            event = FetchRequested(1, broadcast, track, fields["group"], fields["priority"], *bounds)
        case 4:
            event = ProbeRequested(1)
        case 5:
            event = PeerLeaving(fields["uri"])
        case _:
            event = InfoRequested(1, broadcast, track)
    return Reading(end, end.session.peer_opens(unidirectional=False), [event])


def write_request(id_: str, version: Version, fields: Fields) -> bytes:
    end = lone(version, hop=number(fields.get("exclude_hop", 1)))
    moq, broadcast, track = end.moq, fields.get("broadcast", ""), fields.get("track", "")
    match fields["stream_type"]:
        case 1:
            moq.requests.request_announcements(fields["prefix"])
        case 2:
            for _ in range(fields["id"]):
                moq.requests.subscribe("another", "track", SubscribeParams())
            moq.requests.subscribe(broadcast, track, params(fields, version))
        case 3:
            start, last = fields.get("frame_start", 0), fields.get("frame_end")
            moq.requests.fetch(
                broadcast,
                track,
                fields["group"],
                priority=fields["priority"],
                start_frame=start,
                end_frame=last,
            )
        case 4:
            moq.requests.probe()
        case 5:
            assert moq.requests.goaway(fields["uri"])
        case _:
            moq.requests.request_info(broadcast, track)
    return end.session.streams[-1].written


def read_update(id_: str, version: Version, fields: Fields) -> Reading:
    end, stream, request = subscribed(version)
    return Reading(end, stream, [SubscribeUpdated(request, params(fields, version))])


def write_update(id_: str, version: Version, fields: Fields) -> bytes:
    end = lone(version)
    request = end.moq.requests.subscribe("demo/cam", "video/hd", SubscribeParams())
    stream = end.session.streams[-1]
    return added(stream, lambda: end.moq.requests.update(request, params(fields, version)))


def subscribed(version: Version, subscribe_id: int = 0, priority: int = 0) -> tuple[End, FakeStream, int]:
    """A session with a subscription of the peer."""
    end = lone(version)
    stream = end.session.peer_opens(unidirectional=False)
    opening = open_request(version, Subscribe(subscribe_id, "demo/cam", "video/hd", priority))
    end.receive(StreamData(stream, opening, False))
    return end, stream, end.one(SubscribeRequested).request


def added(stream: FakeStream, step: Callable[[], object]) -> bytes:
    """What a step writes."""
    before = len(stream.written)
    step()
    return stream.written[before:]


# --- announcements ---------------------------------------------------------------------------------------------------


def announcements_of(id_: str, fields: Fields) -> list[Fields]:
    if id_.startswith("ann-init"):
        return [{"status": 1, "suffix": suffix} for suffix in fields["suffixes"]]
    if "origin" in fields:
        listed: list[Fields] = fields.get("routes", [fields["then"]] if "then" in fields else [])
        return listed
    return [fields]


def route_of(fields: Fields, version: Version, origin: int | None) -> Route:
    hops = (0,) * fields["hop_count"] if version.counts_hops else numbers(fields.get("hops", ()))
    if origin is not None:
        hops = (*hops, origin)
    return Route(hops, fields.get("warm", 0), fields.get("cold", MAX_COST))


def read_announce(id_: str, version: Version, fields: Fields) -> Reading:
    end = lone(version)
    prefix = "dyn/a/b" if "empty-suffix" in id_ else "demo"
    request = end.moq.requests.request_announcements(prefix)
    stream = end.session.streams[-1]
    initial = id_.startswith("ann-init") or "origin" in fields
    origin = None if not version.has_announce_ok else number(fields["origin"]) if initial else 77
    expected: list[Event] = []
    live: dict[int, str] = {}
    if not initial:
        opening = AnnounceOk(77, 0).encode(version) if version.has_announce_ok else b""
        if version.has_announce_init:
            opening = AnnounceInit().encode(version)
        end.receive(StreamData(stream, opening, False))
        live = announce_before(end, stream, fields, version)
    else:
        expected.append(AnnouncementsStarted(request, origin))
    listed = announcements_of(id_, fields)
    for item in listed:
        status = (
            {0: "active", 1: "ended", 2: "update"}[item["type"]]
            if "type" in item
            else ("active" if item["status"] else "ended")
        )
        path = live[item["announce_id"]] if "announce_id" in item else f"{prefix}/{item['suffix']}".strip("/")
        if status == "ended":
            expected.append(Unannounced(request, path))
            continue
        route = route_of(item, version, origin)
        own = route.hops[:-1] if origin is not None else route.hops
        expected.append(Announced(request, path, own, route, update=status == "update"))
    if initial:
        expected.append(AnnouncementsComplete(request))
    return Reading(end, stream, expected)


def announce_before(end: End, stream: FakeStream, fields: Fields, version: Version) -> dict[int, str]:
    """Announce the paths that a vector ends or updates."""
    if fields.get("status") == 0:
        peer, writer, request = asked(version, "demo")
        offer = Offer(f"demo/{fields['suffix']}")
        data = added(writer, lambda: peer.moq.serving.announce(request, offer.path, offer))
        end.receive(StreamData(stream, data, False))
    if "announce_id" not in fields:
        return {}
    peer, writer, request = asked(version, "demo")
    paths = {key: f"demo/{key}" for key in range(fields["announce_id"] + 1)}
    for path in paths.values():
        offer = Offer(path)
        data = added(writer, lambda offer=offer: peer.moq.serving.announce(request, offer.path, offer))  # type: ignore[misc]
        end.receive(StreamData(stream, data, False))
    return paths


def asked(version: Version, prefix: str, hop: int = 1) -> tuple[End, FakeStream, int]:
    """A session with an announce interest of the peer, before any announcement."""
    end = lone(version, hop=hop)
    peer = lone(version)
    peer.moq.requests.request_announcements(prefix)
    stream = end.session.peer_opens(unidirectional=False)
    end.receive(StreamData(stream, peer.session.streams[-1].written, False))
    return end, stream, end.one(AnnounceRequested).request


def write_announce(id_: str, version: Version, fields: Fields) -> bytes:
    prefix = "dyn/a/b" if "empty-suffix" in id_ else "demo"
    listed = announcements_of(id_, fields)
    hop = number(fields["origin"]) if "origin" in fields else 1
    if version.has_hops and version.sender_is_listed and fields.get("hops"):
        hop = number(fields["hops"][-1])  # our own id, which we add
    end, stream, request = asked(version, prefix, hop)
    serving = end.moq.serving

    def offer_of(item: Fields, source: int = 1) -> Offer:
        hops = () if version.sender_is_listed else numbers(item.get("hops", ()))
        path = "dyn" if "empty-suffix" in id_ else f"{prefix}/{item['suffix']}"
        return Offer(path, Route(hops, item.get("warm", 0), item.get("cold", MAX_COST)), source)

    if id_.startswith("ann-init") or "origin" in fields:
        serving.announce_initial(request, [offer_of(item) for item in listed])
        return stream.written
    serving.announce_initial(request, [])
    if "announce_id" in fields:
        paths = [f"demo/{key}" for key in range(fields["announce_id"] + 1)]
        for path in paths:
            serving.announce(request, path, Offer(path, source=1))
        last = None if fields["type"] == 1 else offer_of({"suffix": paths[-1][5:]} | fields)
        return added(stream, lambda: serving.announce(request, paths[-1], last))
    offer = offer_of(fields)
    data = added(stream, lambda: serving.announce(request, offer.path, offer))
    if fields.get("status") == 0:
        data = added(stream, lambda: serving.announce(request, offer.path, None))
    return data


# --- subscriptions ---------------------------------------------------------------------------------------------------


def replies_of(fields: Fields) -> list[Fields]:
    listed: list[Fields] = fields.get("messages", [fields])
    return listed


def read_reply(id_: str, version: Version, fields: Fields) -> Reading:
    end = lone(version)
    request = end.moq.requests.subscribe("demo/cam", "video/hd", SubscribeParams())
    expected: list[Event] = []
    for item in replies_of(fields):
        if "error" in item:
            expected.append(SubscriptionDropped(request, item["start"], item["end_inclusive"], item["error"]))
        elif "group_exclusive" in item:
            expected.append(SubscriptionEnded(request, item["group_exclusive"], False))
        else:
            expected.append(SubscriptionStarted(request, item.get("group"), item.get("priority", 0)))
    if has_fin(id_):
        expected.append(SubscriptionEnded(request, fields["group_exclusive"], True))
    return Reading(end, end.session.streams[-1], expected)


def write_reply(id_: str, version: Version, fields: Fields) -> bytes:
    end, stream, request = subscribed(version, priority=fields.get("priority", 0))
    for item in replies_of(fields):
        if "error" in item:
            first, last = item["start"], item["end_inclusive"]
            end.moq.serving.end_track(request, last + 1, 0.0, [(first, last)])
            return stream.written.removesuffix(SubscribeEnd(last + 1).encode(version))
        if "group_exclusive" in item:
            end.session.take_all()
            end.moq.serving.end_track(request, item["group_exclusive"], 0.0)
            assert stream.finished
        elif version.accepts_at_once:
            end.moq.serving.accept(request)
        else:
            fragment = GroupFragment(item["group"], True, 0, (), True, None)
            end.moq.serving.send_group(request, (fragment,), 0.0)
    return stream.written


def has_fin(id_: str) -> bool:
    message: str = VECTORS[id_]["message"]
    return "FIN" in message or id_ in ("group-l5-wt", "group-l6-empty")


def part_of(id_: str, version: Version, fields: Fields) -> GroupPart:
    items: list[FrameHeader | bytes] = []
    for timestamp, data in frames_of(id_, fields):
        items += [FrameHeader(timestamp if version.has_timestamps else 0, len(data)), data]
    sequence, first = fields.get("sequence", 0), fields.get("frame_start", 0)
    return GroupPart(sequence, first, tuple(items), has_fin(id_), None)


def subscribes(version: Version, subscribe_id: int) -> tuple[End, int]:
    """A session with a subscription of that id."""
    end = lone(version)
    request = 0
    for _ in range(subscribe_id + 1):
        request = end.moq.requests.subscribe("demo/cam", "video/hd", SubscribeParams())
    return end, request


def read_group(id_: str, version: Version, fields: Fields) -> Reading:
    end, request = subscribes(version, fields["subscribe"])
    part = part_of(id_, version, fields)
    return Reading(end, end.session.peer_opens(unidirectional=True), [GroupData(request, (part,))])


def write_group(id_: str, version: Version, fields: Fields) -> bytes:
    end, _, request = subscribed(version, fields["subscribe"])
    chunks = frames(version, *frames_of(id_, fields))
    fragment = GroupFragment(
        fields["sequence"], True, fields.get("frame_start", 0), chunks, has_fin(id_), None
    )
    end.moq.serving.send_group(request, (fragment,), 0.0)
    stream = end.session.streams[-1]
    assert stream.finished == has_fin(id_)
    return stream.written


def read_datagram(id_: str, version: Version, fields: Fields) -> Reading:
    end, request = subscribes(version, fields["subscribe"])
    event = DatagramReceived(request, fields["sequence"], fields["timestamp"], fields["payload"].encode())
    return Reading(end, None, [event])


def write_datagram(id_: str, version: Version, fields: Fields) -> bytes:
    end, _, request = subscribed(version, fields["subscribe"])
    values = fields["sequence"], fields["timestamp"], fields["payload"].encode()
    assert end.moq.serving.send_datagram(request, *values)
    (data,) = end.session.datagrams
    return data


# --- other answers ---------------------------------------------------------------------------------------------------


def read_fetched(id_: str, version: Version, fields: Fields) -> Reading:
    end = lone(version)
    request = end.moq.requests.fetch("demo/cam", "video/hd", 0)
    event = FetchedData(request, part_of(id_, version, fields))
    return Reading(end, end.session.streams[-1], [event])


def answering(version: Version, ask: Callable[[End], object]) -> tuple[End, FakeStream, int]:
    """A session with a request of the peer."""
    end, peer = lone(version), lone(version)
    ask(peer)
    stream = end.session.peer_opens(unidirectional=False)
    (event,) = end.receive(StreamData(stream, peer.session.streams[-1].written, False))
    assert isinstance(event, FetchRequested | InfoRequested)
    return end, stream, event.request


def write_fetched(id_: str, version: Version, fields: Fields) -> bytes:
    end, stream, request = answering(version, lambda peer: peer.moq.requests.fetch("demo/cam", "video/hd", 0))
    end.moq.serving.send_fetched(request, frames(version, *frames_of(id_, fields)), fin=True)
    assert stream.finished
    return stream.written


def properties(fields: Fields) -> TrackProperties:
    latency = latency_of(fields)
    return TrackProperties(fields["priority"], bool(fields.get("ordered", 0)), latency, fields["timescale"])


def read_info(id_: str, version: Version, fields: Fields) -> Reading:
    end = lone(version)
    request = end.moq.requests.request_info("demo/cam", "video/hd")
    return Reading(end, end.session.streams[-1], [InfoReceived(request, properties(fields))])


def write_info(id_: str, version: Version, fields: Fields) -> bytes:
    end, stream, request = answering(
        version, lambda peer: peer.moq.requests.request_info("demo/cam", "video/hd")
    )
    end.moq.serving.send_info(request, properties(fields))
    assert stream.finished
    return stream.written


def read_probe(id_: str, version: Version, fields: Fields) -> Reading:
    end = lone(version)
    request = end.moq.requests.probe()
    event = ProbeReceived(request, fields["bitrate"], fields.get("rtt_ms", 0))
    return Reading(end, end.session.streams[-1], [event])


def unwritten(id_: str, version: Version, fields: Fields) -> bytes:
    raise AssertionError(id_)


Reader = Callable[[str, Version, Fields], Reading]
Writer = Callable[[str, Version, Fields], bytes]

KINDS: dict[str, tuple[Reader, Writer]] = {
    r"d14-client-|l1-\w+-client": (read_client_setup, write_client_setup),
    r"d14-server-|l1-\w+-server": (read_server_setup, write_server_setup),
    r"l1-session-info": (read_session_info, unwritten),
    r"setup-l": (read_setup, write_setup),
    r"ann-?req-|sub-l|track-l|fetch-l|probe-open|goaway-l": (read_request, write_request),
    r"subupdate-": (read_update, write_update),
    r"ann(-init|-ok|-active|-ended|ok|in|start|update|end)-": (read_announce, write_announce),
    r"subok-|substart|subend-|subdrop-": (read_reply, write_reply),
    r"group-": (read_group, write_group),
    r"dgram-": (read_datagram, write_datagram),
    r"fetch-resp-": (read_fetched, write_fetched),
    r"trackinfo-": (read_info, write_info),
    r"probe-l": (read_probe, unwritten),
}


def kind_of(id_: str) -> tuple[Reader, Writer]:
    (kind,) = (kind for pattern, kind in KINDS.items() if re.match(pattern, id_))
    return kind


def test_every_vector_is_read_or_left_by_name() -> None:
    assert set(VECTORS) >= LEFT_TO_WIRE | LEFT_TO_TRANSPORTS | NOT_WRITTEN
    for id_ in READ:
        assert kind_of(id_)


@pytest.mark.parametrize("id_", [id_ for id_ in READ if id_ not in REFUSED])
def test_a_vector_is_read(id_: str) -> None:
    for version in versions_of(VECTORS[id_]):
        for step in (1, 1 << 20):
            read_vector(id_, version, step)


def read_vector(id_: str, version: Version, step: int) -> None:
    read, _ = kind_of(id_)
    reading = read(id_, version, VECTORS[id_]["fields"])
    end, data = reading.end, bytes_of(id_)
    if reading.stream is None:
        events = end.receive(TransportDatagram(data))
    else:
        events = []
        for start in range(0, len(data), step):
            fin = has_fin(id_) and start + step >= len(data)
            events += end.receive(StreamData(reading.stream, data[start : start + step], fin))
    found = [event for event in merged(events) if not isinstance(event, Opened | Established)]
    # tuples of equal values are equal, whatever their type
    assert [(type(event), event) for event in found] == [(type(event), event) for event in reading.expected]
    assert reading.chosen in (None, end.moq.version)
    assert end.session.closed == []
    assert [stream for stream in end.session.streams if stream.stops or stream.resets] == []


@pytest.mark.parametrize("id_", [id_ for id_ in READ if id_ not in NOT_WRITTEN])
def test_a_vector_is_written(id_: str) -> None:
    _, write = kind_of(id_)
    data = bytes_of(id_)
    expected = in_order_of_id(data) if id_.startswith("setup-l") else data
    for version in versions_of(VECTORS[id_]):
        assert write(id_, version, VECTORS[id_]["fields"]) == expected, version


@pytest.mark.parametrize("step", [1, 1 << 20], ids=["bytes", "whole"])
@pytest.mark.parametrize("id_", sorted(REFUSED))
def test_a_vector_ends_the_session(id_: str, step: int) -> None:
    version = Version.LITE_06
    end = lone(version)
    request = end.moq.requests.request_announcements("")
    stream = end.session.streams[-1]
    data = AnnounceOk(1, 1).encode(version) + bytes_of(id_)
    events: list[Event] = []
    for start in range(0, len(data), step):
        events += end.receive(StreamData(stream, data[start : start + step], False))
    # messages before the bad one in the same slice are lost with the session
    assert events[:-2] == ([AnnouncementsStarted(request, 1)] if step == 1 else [])
    assert [type(event) for event in events[-2:]] == [Fault, Closed]
    assert end.one(Closed).code == 3
