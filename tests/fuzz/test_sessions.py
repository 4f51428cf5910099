"""Peers of every version do anything at all, beside two that behave.

In any order: no exception is logged, every answer of the relay can be read, the two are served, and in the end there
is no actor, no timer and no entry in any table.

A short run by default. FUZZ_EXAMPLES=20000 makes it a long one, of other plays each time.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.auth.permissions import Permissions
from relay.model.limits import Limits
from relay.wire.announce import AnnounceActive, AnnounceEnded, AnnounceUpdate
from relay.wire.control import Fetch, Goaway, Probe, ProbeRequest, TrackInfo, TrackRequest
from relay.wire.errors import WireError
from relay.wire.frame import GroupHeader, group_header, setup_stream
from relay.wire.setup import Setup
from relay.wire.subscribe import Subscribe, SubscribeDrop, SubscribeEnd, SubscribeOk, SubscribeUpdate
from relay.wire.varint import encode_varint
from relay.wire.version import Version
from tests.actors.raw_peer import PeerStream, RawPeer, follow_up
from tests.actors.watching import Trouble, forget_actors
from tests.actors.world import CLUSTER, EVERYTHING, World
from tests.clock import advance, run_virtual, settle, timer_count

LONG = int(os.environ.get("FUZZ_EXAMPLES", "0"))
LIMITS = Limits(
    track_idle=0.5, message=512, frame=1024, cache_track=4096, cache_groups=3, groups_in_flight=2, announces=5,
    announce_streams=3, subscriptions=6, tracks=4, backlog_bytes=4096, backlog_session=8192,
)  # fmt: skip
"""Small enough for plays to reach."""

PATHS = ("good/cam", "b", "good/cam", "good", "", "b/c", "internal/origins/x", "x/" * 31 + "x", "é")
TRACKS = ("video", "video", "", "audio")
RIGHTS = (EVERYTHING, Permissions("", ("b",), ("good",)), CLUSTER, Permissions("root", ("",), ("",)))
NUMBERS = (0, 1, 2, 3, 7, 63, 64, 1 << 14, (1 << 53), (1 << 61) - 1, (1 << 61), (1 << 62) - 2)
MOST = 4

POLITE = (
    "announce", "announce", "withdraw", "reroute", "watch", "subscribe", "subscribe", "subscribe", "update", "fetch",
    "info", "probe", "answer", "answer", "answer", "group", "group", "group", "open", "datagram", "leave", "leave",
    "pause", "resume", "credit", "settle", "settle", "settle", "settle", "settle", "time", "wait", "serve",
)  # fmt: skip
RUDE = ("goaway", "junk_bidi", "junk_uni", "junk_on", "message", "close", "crash")
STEPS = (*POLITE, *POLITE, *RUDE)
"""Polite steps are more frequent: sessions that last can do more harm."""

step = st.tuples(
    st.sampled_from(STEPS), st.integers(0, 8), st.integers(0, 11), st.integers(0, 11), st.binary(max_size=40)
)


class Play:
    """The two that behave, and all others."""

    def __init__(self, publishing: Version, watching: Version) -> None:
        self.world = World(LIMITS)
        self.versions = publishing, watching
        self.wild: list[RawPeer] = []
        self.served = 0

    async def run(self, steps: list[tuple[str, int, int, int, bytes]]) -> None:
        self.publisher = await self.world.publisher(self.versions[0], "good/cam")
        self.viewer = await self.world.viewer(self.versions[1])
        self.number, _ = self.viewer.subscribe("good/cam")
        await follow_up(self.publisher)
        await self.serve()
        for kind, who, what, how, data in steps:
            await self.step(kind, who, what, how, data)
        await settle()
        for peer in self.wild:
            peer.session.resume()
        await self.serve()
        await self.world.close()
        assert timer_count() == 0

    async def serve(self) -> None:
        """One more group between the two."""
        assert not self.publisher.closed, self.publisher.closed
        assert not self.viewer.closed, self.viewer.closed
        live = [
            r
            for _, r in self.publisher.live_subscriptions()
            if (r.broadcast, r.track) == ("good/cam", "video")
        ]
        assert len(live) == 1
        text = b"group %d" % self.served
        self.publisher.group(live[0].id, self.served, text)
        self.served += 1
        await settle()
        newest = self.viewer.groups(self.number)[-1]
        assert (newest.payloads, newest.fins) == ([text], 1)

    async def step(self, kind: str, who: int, what: int, how: int, data: bytes) -> None:
        if kind == "wait":
            for _ in range(how):
                await asyncio.sleep(0)
        elif kind == "settle":
            await settle()
        elif kind == "time":
            await advance(how / 4)
        elif kind == "serve":
            await self.serve()
        else:
            peer = await self.somebody(who, what, how)
            getattr(self, f"_{kind}")(peer, what, how, data)

    async def somebody(self, who: int, what: int, how: int) -> RawPeer:
        """One of the others, or a new one."""
        self.wild = [peer for peer in self.wild if not peer.closed]
        if who % MOST >= len(self.wild):
            version = tuple(Version)[(what + how) % 6]
            rights = RIGHTS[max(0, how - 8)]
            self.wild.append(self.world.connect(version, permissions=rights, introduce=who != 8, origin=how))
            if who < MOST:
                await settle()
        return self.wild[min(who % MOST, len(self.wild) - 1)]

    # valid messages, of any content

    def _announce(self, peer: RawPeer, what: int, how: int, _: bytes) -> None:
        if peer.announce_streams():
            hops = tuple(range(how, how + what % 4)) if peer.version >= Version.LITE_04 else ()
            restart = peer.version == Version.LITE_05 and how > 6
            peer.publish(PATHS[what % len(PATHS)], hops, hop_count=how, warm=how, restart=restart)

    def _withdraw(self, peer: RawPeer, what: int, how: int, _: bytes) -> None:
        if what < len(PATHS) and PATHS[what] in peer._announce_ids:
            peer.unpublish(PATHS[what])
        elif peer.announce_streams():
            ended = AnnounceEnded(PATHS[what % len(PATHS)], NUMBERS[how])
            peer.announcing().write(ended.encode(peer.version))

    def _reroute(self, peer: RawPeer, what: int, how: int, _: bytes) -> None:
        if peer.announce_streams() and peer.version >= Version.LITE_06:
            update = AnnounceUpdate(what, tuple(range(how)), warm=NUMBERS[what])
            peer.announcing().write(update.encode(peer.version))

    def _watch(self, peer: RawPeer, what: int, _: int, __: bytes) -> None:
        peer.watch(PATHS[what % len(PATHS)])

    def _bounds(self, version: Version, what: int, how: int) -> dict[str, Any]:
        bounds: dict[str, Any] = {"priority": what * 20}
        if version >= Version.LITE_03 and what % 2:
            first = 1 if version >= Version.LITE_06 else 0
            bounds["start_group"] = max(first, NUMBERS[how]) if what % 3 else None
            bounds["end_group"] = NUMBERS[what] if version >= Version.LITE_06 or how % 3 else None
            bounds["max_latency"] = NUMBERS[(what + how) % len(NUMBERS)]
        return bounds

    def _subscribe(self, peer: RawPeer, what: int, how: int, _: bytes) -> None:
        number = peer._next_id if how else what
        peer._next_id += 1
        bounds = self._bounds(peer.version, how, what)
        peer.request(Subscribe(number, PATHS[what % len(PATHS)], TRACKS[how % len(TRACKS)], **bounds))

    def _update(self, peer: RawPeer, what: int, how: int, _: bytes) -> None:
        if peer.own and peer.version >= Version.LITE_03:
            update = SubscribeUpdate(**self._bounds(peer.version, what, how))
            peer.own[how % len(peer.own)].write(update.encode(peer.version))

    def _fetch(self, peer: RawPeer, what: int, how: int, _: bytes) -> None:
        if peer.version >= Version.LITE_05:
            peer.request(Fetch(PATHS[what % len(PATHS)], TRACKS[how % len(TRACKS)], 0, NUMBERS[how]))

    def _info(self, peer: RawPeer, what: int, how: int, _: bytes) -> None:
        if peer.version >= Version.LITE_05:
            peer.request(TrackRequest(PATHS[what % len(PATHS)], TRACKS[how % len(TRACKS)]))

    def _probe(self, peer: RawPeer, what: int, how: int, _: bytes) -> None:
        if peer.version >= Version.LITE_03:
            stream = peer.request(ProbeRequest())
            if peer.version >= Version.LITE_05:
                stream.write(Probe(NUMBERS[what], NUMBERS[how]).encode(peer.version))

    def _goaway(self, peer: RawPeer, _: int, how: int, data: bytes) -> None:
        if peer.version >= Version.LITE_04:
            peer.request(Goaway(data.decode("latin-1")), fin=how > 5)

    def _answer(self, peer: RawPeer, what: int, how: int, data: bytes) -> None:
        """An answer to some request of the relay, fitting or not."""
        if not peer.requests:
            return
        stream = peer.requests[-1 - what % len(peer.requests)]
        version = peer.version
        answers: list[Any] = [SubscribeOk(group=NUMBERS[how]), AnnounceActive(PATHS[how % len(PATHS)])]
        if version >= Version.LITE_05:
            answers += [TrackInfo(7, ordered=False, max_latency=NUMBERS[what], timescale=NUMBERS[1 + how // 2]),
                        SubscribeEnd(NUMBERS[how])]  # fmt: skip
        if version >= Version.LITE_03:
            answers.append(SubscribeDrop(NUMBERS[how], NUMBERS[how], 1))
        fit = how
        if len(data) % 4:
            fit = (
                2
                if isinstance(stream.request, TrackRequest)
                else 0
                if isinstance(stream.request, Subscribe)
                else how
            )
        stream.write(answers[fit % len(answers)].encode(version), fin=how > 8)

    def _numbered(self, peer: RawPeer, how: int) -> int:
        live = peer.live_subscriptions()
        return live[how % len(live)][1].id if live and how < 9 else how

    def _group(self, peer: RawPeer, what: int, how: int, data: bytes) -> None:
        peer.group(self._numbered(peer, how), NUMBERS[what], data, b"", data * 3)

    def _open(self, peer: RawPeer, what: int, how: int, data: bytes) -> None:
        stream = peer.group(self._numbered(peer, how), what, data, fin=False)
        peer.own.append(stream)
        if how % 3 == 1:
            stream.write(encode_varint(NUMBERS[what]) + data)
        elif how % 3 == 2:
            stream.reset(NUMBERS[what])

    def _datagram(self, peer: RawPeer, what: int, how: int, data: bytes) -> None:
        numbers = (self._numbered(peer, how), NUMBERS[what], NUMBERS[how])
        lead = b"".join(map(encode_varint, numbers)) if what % 4 else b""
        peer.session.send_datagram(lead + data)

    # invalid messages

    def _junk_bidi(self, peer: RawPeer, what: int, how: int, data: bytes) -> None:
        peer.bidi(bytes((what % 8,)) * (how > 2) + data, fin=how == 11)

    def _junk_uni(self, peer: RawPeer, what: int, how: int, data: bytes) -> None:
        leads = (b"", b"\0", group_header(peer.version, GroupHeader(self._numbered(peer, how), what)))
        peer.own.append(peer.uni(leads[what % 3] + data, fin=how > 8))
        if how == 0 and peer.version >= Version.LITE_05:
            peer.uni(setup_stream(peer.version, Setup(origin=NUMBERS[what], role=what, probe=how)), fin=True)

    def _junk_on(self, peer: RawPeer, what: int, how: int, data: bytes) -> None:
        if streams := self._streams(peer):
            streams[-1 - what % len(streams)].write(data, fin=how > 9)

    def _message(self, peer: RawPeer, what: int, how: int, data: bytes) -> None:
        """A message of a valid length, on its own stream or another."""
        message = bytes((what % 7,)) + encode_varint(len(data) + 600 * (how == 11)) + data
        streams = self._streams(peer)
        if how % 2 and streams:
            streams[-1 - what % len(streams)].write(message[how % 4 // 2 :])
        else:
            peer.bidi(message)

    def _streams(self, peer: RawPeer) -> list[PeerStream]:
        return [*peer.own, *peer.requests]

    def _leave(self, peer: RawPeer, what: int, how: int, _: bytes) -> None:
        streams = [*self._streams(peer), *peer.incoming]
        if streams:
            stream = streams[-1 - what % len(streams)]
            if how % 3 == 0 and not stream.stream.unidirectional:
                stream.write(fin=True)
            if how % 3 != 0:
                stream.reset(NUMBERS[how])
            if how % 3 != 1:
                stream.stop(NUMBERS[how])

    def _pause(self, peer: RawPeer, _: int, __: int, ___: bytes) -> None:
        peer.session.pause()

    def _resume(self, peer: RawPeer, _: int, __: int, ___: bytes) -> None:
        peer.session.resume()

    def _credit(self, peer: RawPeer, what: int, how: int, _: bytes) -> None:
        peer.relay.raw.allow(bidi=what or None, uni=how or None)

    def _close(self, peer: RawPeer, _: int, how: int, data: bytes) -> None:
        peer.session.close(NUMBERS[how], data.decode("latin-1"))
        self.wild.remove(peer)

    def _crash(self, peer: RawPeer, _: int, __: int, ___: bytes) -> None:
        peer.session.fail()
        self.wild.remove(peer)


def play(steps: list[tuple[str, int, int, int, bytes]], publishing: Version, watching: Version) -> None:
    async def scenario() -> None:
        forget_actors()
        with Trouble() as trouble:
            try:
                await Play(publishing, watching).run(steps)
            except WireError as error:
                raise AssertionError("the relay has sent what cannot be read") from error
            assert not trouble.records, trouble.records

    run_virtual(scenario)


@settings(
    max_examples=LONG or 40,
    derandomize=not LONG,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(step, min_size=80, max_size=120), st.sampled_from(Version), st.sampled_from(Version))
def test_no_peer_harms_another(
    steps: list[tuple[str, int, int, int, bytes]], publishing: Version, watching: Version
) -> None:
    play(steps, publishing, watching)
