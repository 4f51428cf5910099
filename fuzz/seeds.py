"""First inputs: from the golden bytes (tests/wire), or noise for targets that build messages."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz.targets.ietf_sessions import IETF_OWNER, IETF_STEPS, IetfPlay
from fuzz.targets.moq import OWNER, SLICES, STEPS, Play
from relay.wire.ietf.profile import DRAFTS
from relay.wire.setup import SetupForm
from relay.wire.version import Draft, Version

VECTORS = Path(__file__).parent.parent / "tests" / "wire" / "vectors.json"
IETF_VECTORS = VECTORS.parent / "ietf" / "moqt-vectors.json"
VERSIONS = tuple(Version)

LONGEST_CHUNK = 255
"""Byte counts that a `Source` reads from one byte."""


def _versions(vector: dict[str, Any]) -> list[int]:
    numbers = re.findall(r"\d\d", vector["version"]) if vector["version"].startswith("lite-") else []
    return [VERSIONS.index(Version(int(text))) for text in numbers] or range(len(VERSIONS))  # type: ignore[return-value]


def noise() -> list[bytes]:
    """The same at every call."""
    dice = random.Random(0)
    return [bytes(40), *(dice.randbytes(20 * number) for number in range(1, 16))]


def _lead(version: int, *, is_client: bool) -> bytes:
    """An established session of either side."""
    if VERSIONS[version].has_setup_exchange:
        form = tuple(SetupForm).index(SetupForm.DRAFT14)
        setup = _step(Play.peer_set_up, form, *((0, version, 0) if is_client else (version,)))
        return bytes((version, is_client, 0, 0, 0, 0, 0, 1, 0, 0)) + setup
    return bytes((version, is_client, 0, 0, 0, 0, 1, 0, 0))


def _session(version: int, data: bytes) -> list[bytes]:
    """A vector in a session: on both kinds of streams, and as the answer to each of our requests."""
    if len(data) > LONGEST_CHUNK:
        return []
    found = []
    opening, answering = _step(Play.peer_raw), _step(Play.peer_writes, 0)
    chunk = bytes((len(data),)) + data
    for is_client in (False, True):
        lead = _lead(version, is_client=is_client)
        found.append(lead + opening + chunk + b"\0\0")
        found.append(lead + _step(Play.own_requests, 0, 0, 0, 1) + opening + chunk + b"\1\0")
        for kind, rest in enumerate(((1,), (), (), (0, 0), ())):
            found.append(lead + _step(Play.own_requests, 0, 0, kind, *rest) + answering + chunk + b"\0")
    return found


def _services() -> list[bytes]:
    """Requests of the peer, and the owner's answers."""
    group, cut = _step(Play.serve_groups, 0, 2, *(1, 60, 0, 1), *(2, 250, 0, 0), *(3, 250, 1, 0)), (2, 0, 3)
    plays = (
        _step(Play.peer_asks, 0, 0, 0, 1, 1, 0) + _step(Play.serve_accept) + 4 * group + _step(Play.serve_end, 0, 9)
        + _step(Play.time, 9) + _step(Play.peer_reads) + _step(Play.time, 90),
        _step(Play.peer_asks, 0, 0, 0, 1, 0, 9, 0, 1, 1, 1, 0, 0, 0) + group + _step(Play.peer_updates, 0, 1, 0)
        + _step(Play.serve_groups, 0, 0, *cut) + _step(Play.peer_stops, 0, 0) + _step(Play.serve_datagram, 0, 1, 1, 0),
        _step(Play.peer_asks, 1, 0, 1, 7, 0) + _step(Play.serve_announcements, 0, 0, 2, 2, 0, 0, 2, 0, 1)
        + 2 * _step(Play.serve_announcements, 0, 0, 1, 3, 0, 2) + _step(Play.serve_announcements, 0, 0, 0)
        + 90 * (_step(Play.serve_announcements, 0, 3, 1, 3, 0, 2) + _step(Play.serve_announcements, 0, 3, 0)),
        b"".join(_step(Play.peer_asks, 0, 0, 0, number, 1, 0) for number in range(8))
        + b"".join(_step(Play.serve_groups, number, 1, *(1, 250, 0, 0), *(2, 250, 0, 0)) for number in range(8)),
        _step(Play.peer_asks, 0, 0, 0, 1, 1, 0) + group + _step(Play.serve_end, 0, 9) + _step(Play.peer_resets, 0, 1),
        _step(Play.peer_asks, 0, 0, 0, 1, 1, 0) + group + _step(Play.serve_end, 0, 9) + _step(Play.close, 0, 0, 0),
        20 * _step(Play.peer_floods, 0, 0),
        _step(Play.peer_asks, 0, 0, 2, 0) + _step(Play.serve_answer, 0, 1),
        9 * (_step(Play.peer_asks, 0, 0, 3, 1, 1, 0) + _step(Play.serve_answer, 0, 0, 255)) + _step(Play.peer_resets, 0, 1),
        _step(Play.peer_asks, 0, 0, 0, 1, 1, 0) + _step(Play.serve_rejection, 0, 1) + _step(Play.goaway),
        _step(Play.check_alive) + _step(Play.time_to_deadline) + _step(Play.peer_pong),
    )  # fmt: skip
    leads = [_lead(version, is_client=is_client) for version in range(6) for is_client in (False, True)]
    return [lead + play for lead in leads for play in plays]


def _joined() -> list[bytes]:
    """Requests of one side of a pair, and the other's answers, in every version."""

    def act(side: int, step: Callable[[Play], None], *choices: int) -> bytes:
        return bytes((2 * OWNER.index(step) + side, *choices))

    def moved(slices: int) -> bytes:
        return bytes(2 * (len(OWNER) + slices) + side for side in (0, 1)) * 2

    plays = []
    for one, other in ((0, 1), (1, 0)):
        group = act(other, Play.serve_groups, 0, 2, *(1, 60, 0, 1), *(2, 250, 0, 0), *(3, 250, 1, 0)) + moved(
            0
        )
        watched = (
            act(one, Play.own_requests, 0, 0, 1)
            + moved(0)
            + act(other, Play.serve_announcements, 0, 0, 2, 2, 0, 0, 2, 0, 1)
        )
        on, off = (
            act(other, Play.serve_announcements, 0, 2, 1, 3, 0, 2),
            act(other, Play.serve_announcements, 0, 2, 0),
        )
        again = act(other, Play.serve_announcements, 0, 2, 1, 4, 0, 1)
        subscribed = act(one, Play.own_requests, 0, 0, 0, 1) + moved(1) + act(other, Play.serve_accept, 0)
        asked = [
            act(one, Play.own_requests, 0, 0, kind, *rest) + moved(0)
            for kind, rest in ((2, ()), (3, (0, 0)), (4, ()))
        ]
        plays += [
            watched + moved(2) + on + again + off + moved(0) + on + off + moved(1) + on + act(one, Play.own_cancel, 0, 0),
            subscribed + group + act(other, Play.serve_end, 0, 9) + moved(0) + 4 * act(other, Play.time, 90) + moved(0),
            subscribed + group + act(one, Play.own_update, 0, 1) + moved(0) + act(one, Play.own_stop_group, 0, 2, 0)
            + moved(0) + act(other, Play.serve_datagram, 0, 1, 1, 0) + act(one, Play.own_cancel, 0, 1) + moved(0) + group,
            *(each + act(other, Play.serve_answer, 0, 1) + moved(0) + act(one, Play.own_cancel, 0, 0) for each in asked),
            subscribed + act(other, Play.serve_rejection, 0, 1) + moved(0) + act(other, Play.goaway) + moved(1),
        ]  # fmt: skip
    return [bytes((version,)) + play for version in range(len(VERSIONS)) for play in plays]


def _ietf(target: str) -> list[bytes]:
    """Each vector in its draft."""
    found = []
    for vector in json.loads(IETF_VECTORS.read_text())["vectors"]:
        data = bytes.fromhex(vector["hex"])
        lead = bytes((_draft(vector["version"]), len(data) % 8))
        if target == "ietf-messages":
            found.append(lead + data)
        elif target == "ietf-streams":
            found.append(lead + b"\0\0" + data)
        elif target == "ietf-datagrams":
            found.append(lead[:1] + b"\0" + data)
    return found


def _ietf_sessions() -> list[bytes]:
    """Requests of the peer with their answers, and requests of ours, on either side of every draft."""

    def act(step: Callable[[IetfPlay], None], *choices: int) -> bytes:
        return bytes((128 + IETF_STEPS.index(step), *choices))

    begun = act(IetfPlay.serve_groups, 0, 1, *(1, 1, 1, 0, 0, 1, 60, 0, 0, 0), *(2, 0, 0, 0, 0, 0, 60, 0, 1))
    more = act(IetfPlay.serve_groups, 0, 0, 1, 9, 1, 0, 1)
    info, accept = act(IetfPlay.serve_answer, 0, 1, 9, 0), act(IetfPlay.serve_accept, 0, 1)
    fetched, last = act(IetfPlay.serve_answer, 0, 0, 2), act(IetfPlay.serve_answer, 0, 1, 2)
    objects = act(IetfPlay.peer_group, 0, 0, 3, 0, 1, 1, 2, *(0, 2, 97, 98, 1, 0), *(0, 1, 99, 1, 0))
    watch = act(IetfPlay.peer_asks, 1, 0, 0, 0, 1, 0, 0)
    shown = act(IetfPlay.serve_announcements, 0, 0, 2)
    plays = []
    for number in (1, 2):  # of the known ids: our first request, as a client or a server
        agreed = act(IetfPlay.peer_replies, 0, 0, number, 0, 9, 1, 0, 0)
        subscribed = act(IetfPlay.own_requests, 0, 0, 0, 1) + agreed
        wanted = act(IetfPlay.own_requests, 0, 0, 1)
        done = act(IetfPlay.peer_replies, 5, 0, number, 0, 2, 3, 0, 0)
        plays += [
            act(IetfPlay.peer_asks, 0, 0, 0, 0, 1, 0) + info + accept + begun + more + act(IetfPlay.serve_end, 0, 9)
            + act(IetfPlay.time, 9) + act(IetfPlay.peer_reads) + act(IetfPlay.time, 90),
            act(IetfPlay.peer_asks, 0, 0, 0, 0, 1, 0) + info + accept
            + act(IetfPlay.peer_asks, 3, 0, 0, 0, 1, 0, 1, 1, 1, 0) + fetched + 3 * last,
            watch + shown + act(IetfPlay.serve_announcements, 0, 0, 1) + act(IetfPlay.peer_turns, 1, 0, 0, 0) + shown,
            act(IetfPlay.peer_asks, 6, 0, 0, 0, 1, 0) + act(IetfPlay.serve_tracks, 0, 0, 0, 1) + info
            + act(IetfPlay.peer_replies, 1, 0, number, 1, 1, 0, 0) + begun,
            act(IetfPlay.peer_asks, 2, 0, 0, 0, 1, 0, 0, 0, 2, 2, 0) + info + fetched + 3 * last,
            act(IetfPlay.peer_asks, 2, 0, 0, 0, 1, 1, 0, 2, 0, 0, 0, 0) + fetched + 2 * last
            + act(IetfPlay.serve_rejection, 0, 1) + last,
            subscribed + objects + b"\0" + 2 * (objects + b"\1") + act(IetfPlay.peer_goes_on, 0, 1, *(0, 1, 97, 1, 0), 1)
            + done + act(IetfPlay.own_cancel, 0, 0),
            subscribed + act(IetfPlay.peer_datagram, 1, 97, 1, 0, 0, 3, 0) + objects + b"\0"
            + act(IetfPlay.peer_resets, 0, 1) + act(IetfPlay.own_stop_group, 0, 3, 1) + done,
            act(IetfPlay.own_requests, 0, 0, 3, 5, 0) + act(IetfPlay.peer_fetched, 0, number, 2, 2, 1, 97, 1, 98, 1),
            act(IetfPlay.own_requests, 0, 0, 2) + agreed + objects + b"\1" + act(IetfPlay.time, 90),
            wanted + act(IetfPlay.peer_asks, 4, 0, 0, 0, 1, 9, 0) + act(IetfPlay.own_requests, 0, 0, 0, 1)
            + act(IetfPlay.peer_replies, 1, 0, number, 1, 1, 0, 0) + objects + b"\1" + done,
            wanted + act(IetfPlay.peer_asks, 5, 0, 0, 0, 1, 0) + act(IetfPlay.peer_replies, 6, 0, 0, 0, 0, 0, 0)
            + act(IetfPlay.peer_replies, 7, 0, 0, 0, 0, 0, 0) + act(IetfPlay.serve_offer, 0, 1),
        ]  # fmt: skip
    set_up = act(IetfPlay.peer_set_up, 0, 0, 0)
    leads = [bytes((draft, side, 0, 1)) + set_up for draft in range(len(Draft)) for side in (0, 1)]
    return [lead + play for lead in leads for play in plays]


def _ietf_joined() -> list[bytes]:
    """Requests of one side of a pair, and the other's answers, in every draft."""

    def act(side: int, step: Callable[[IetfPlay], None], *choices: int) -> bytes:
        return bytes((2 * IETF_OWNER.index(step) + side, *choices))

    def moved(size: int) -> bytes:
        """In both directions, twice; `size` is an index of `SLICES`."""
        step = len(IETF_OWNER) + (size - len(IETF_OWNER)) % len(SLICES)
        return bytes(2 * step + side for side in (0, 1)) * 2

    plays = []
    for one, other in ((0, 1), (1, 0)):
        begun = act(
            other,
            IetfPlay.serve_groups,
            0,
            1,
            *(1, 1, 1, 0, 0, 1, 60, 0, 0, 0),
            *(2, 0, 0, 0, 0, 0, 60, 0, 1),
        )
        more = act(other, IetfPlay.serve_groups, 0, 0, 1, 9, 1, 0, 1)
        info = act(other, IetfPlay.serve_answer, 0, 1, 9, 0) + moved(3)
        accept = [act(other, IetfPlay.serve_accept, 0, largest) + moved(3) for largest in (0, 1)]
        subscribed = act(one, IetfPlay.own_requests, 0, 0, 0, 1) + moved(3) + info
        fetched = act(other, IetfPlay.serve_answer, 0, 0, 2) + 3 * act(other, IetfPlay.serve_answer, 0, 1, 2)
        watched = (
            act(one, IetfPlay.own_requests, 0, 0, 1)
            + moved(3)
            + act(other, IetfPlay.serve_announcements, 0, 2)
        )
        on, off = (act(other, IetfPlay.serve_announcements, 0, 0, live) for live in (1, 0))
        end = act(other, IetfPlay.serve_end, 0, 9) + moved(3) + act(other, IetfPlay.time, 90) + moved(3)
        offer, withdraw = (act(other, IetfPlay.serve_offer, 0, live) + moved(3) for live in (1, 0))
        plays += [
            subscribed + accept[0] + begun + moved(3) + more + moved(3) + end,
            subscribed + accept[1] + begun + moved(3) + fetched + moved(3) + more + end,
            subscribed + accept[0] + begun + act(one, IetfPlay.own_update, 0, 1) + act(one, IetfPlay.own_stop_group, 0, 1, 0)
            + moved(3) + act(other, IetfPlay.serve_datagram, 0, 1, 97, 3, 0) + act(one, IetfPlay.own_cancel, 0, 1) + moved(3),
            subscribed + act(other, IetfPlay.serve_rejection, 0, 1) + moved(3) + act(other, IetfPlay.goaway) + moved(3),
            watched + moved(2) + on + moved(3) + off + on + moved(3) + off + act(one, IetfPlay.own_cancel, 0, 0),
            watched + moved(3) + offer + withdraw + offer + act(one, IetfPlay.own_cancel, 0, 0) + moved(3) + withdraw,
            act(one, IetfPlay.own_requests, 0, 0, 3, 5, 0) + moved(3) + info + fetched + moved(3),
            act(one, IetfPlay.own_requests, 0, 0, 2) + moved(3) + info + accept[0] + subscribed + begun + moved(3),
        ]  # fmt: skip
    leads = [bytes((draft, 0, 0, 1)) for draft in range(len(Draft) + 1)]  # the last one is chosen by SETUP
    return [lead + moved(3) + play for lead in leads for play in plays]


def _draft(name: str) -> int:
    codes = [draft.setup_code & 0xFF for draft in DRAFTS]
    number = int(digits.group()) if (digits := re.search(r"\d\d", name)) else 0
    return codes.index(number) if number in codes else 0


def _step(step: Callable[[Play], None], *choices: int) -> bytes:
    return bytes((STEPS.index(step), *choices))


def seeds(target: str) -> list[bytes]:
    found = []
    for vector in json.loads(VECTORS.read_text())["vectors"]:
        data = bytes.fromhex(vector["hex"])
        framed = vector["version"].startswith("ws ")
        for version in _versions(vector):
            lead = bytes((version, len(data) % 8))
            match target:
                case "wire-requests" | "wire-groups" | "wire-frames" if not framed:
                    found.append(lead + (b"\0" if target == "wire-groups" else b"") + data)
                case "wire-replies" if not framed:
                    found += [lead + bytes((kind,)) + data for kind in range(4)]
                case "wire-setups" if not framed and not version:
                    found += [bytes((kind, 0)) + data for kind in range(4)]
                case "wire-datagrams" if not framed:
                    found.append(bytes((version, 0)) + data)
                case "moq-sessions" if not framed:
                    found += _session(version, data)
                case "qmux-frames" if framed:
                    found += [bytes((draft,)) + data for draft in range(3)]
                case "plain-frames" if framed:
                    found.append(data)
                case "http3-capsules" | "http3-headers" | "http3-heads" if not framed and not version:
                    found.append(b"\0\0" + data if target == "http3-heads" else b"\0" + data)
    found += _ietf(target)
    if target == "ietf-sessions":
        found += _ietf_sessions()
    if target == "ietf-pairs":
        found += _ietf_joined()
    if target == "moq-sessions":
        found += _services()
    if target == "moq-pairs":
        found += _joined()
    texts = {
        "http3-offers": ['\0"moq-lite-05", "moq-lite-04";a=1', '\0"a\\"b";x="y";z=:YQ==:, "c"'],
        "websocket-offers": ["qmux-02.moq-lite-05, webtransport", "qmux-00"],
        "config-load": ['\0[server]\nlisten = "[::]:443"\ntls.generate = ["localhost"]\n[auth]\npublic = ""\n'],
        "config-texts": ["[::1]:443", "https://keys.example.com/a/", "localhost:4443", "1h30m", "2026-12-31T23:59:59Z",
                         "group=5&frames=1&follow=0", "moqt://relay.test/a?jwt=b", "http://127.0.0.1/"],
        "auth-urls": ["\x04/a/bjwt=a.b.c&x=y", "\x05/%2e/b#x"],
    }  # fmt: skip
    return [*dict.fromkeys(found), *(text.encode() for text in texts.get(target, [])), *noise()]
