"""What relays say of themselves: published while asked for, and read with care."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from relay.actors import messages as m
from relay.actors.reader import ReaderActor
from relay.actors.runtime import Ref, ask, send
from relay.actors.statuses import FRESH, LEASE, RETRY, TRACK
from relay.model.member import LONGEST_STATUS, MemberStatus, MemberTotals
from relay.model.track import SubscribeParams, TrackProperties
from relay.model.translation import Frame
from relay.moq import session as moq
from relay.wire.errors import StreamCode
from tests.actors.fakes import FakeRef
from tests.actors.test_cluster import Bench
from tests.actors.world import MEMBERS
from tests.clock import RUNTIME, TIMEOUT, advance, settle

pytestmark = pytest.mark.virtual

STATUS = MemberStatus(MemberTotals(3, 2, 40, 1_000.0, 40_000.5), "https://a.example/")


def readers() -> list[Ref]:
    return [ref for ref in RUNTIME.actors if ref.actor_class is ReaderActor]


async def listed(bench: Bench) -> dict[str, MemberStatus]:
    found: dict[str, MemberStatus] = await ask(bench.cluster, m.ListStatuses(), timeout=TIMEOUT)
    await settle()
    return found


class Looking:
    """A cluster actor that is asked for statuses, and the directory that it subscribes at."""

    def __init__(self, **options: Any) -> None:
        self.bench = Bench(**options)

    @property
    def subscribed(self) -> list[m.Subscribe]:
        assert self.bench.fake is not None
        return self.bench.fake.got(m.Subscribe)

    async def looks(self, *members: str) -> dict[str, MemberStatus]:
        for name in members:
            await self.bench.member(name)
        return await listed(self.bench)

    async def gets(self, data: bytes, sequence: int = 0, *, to: int = -1, fin: bool = True) -> None:
        """A part of a group for one subscription."""
        request = self.subscribed[to]
        fragment = m.GroupFragment(
            sequence, first=True, start_frame=0, chunks=(Frame(0, len(data)), data), fin=fin, code=None
        )
        send(request.subscriber, m.Deliver(request.key, (fragment,)))
        await settle()


# --- our own -------------------------------------------------------------------------------------------------------


class Asking:
    """Tracks of our own broadcast."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.track = FakeRef()
        self.track.actor_urn = "track"  # type: ignore[attr-defined]

    async def open(self, name: str = TRACK) -> None:
        await self.bench.tell(m.OpenUpstream(self.track.ref, "x", name, SubscribeParams(), describe=True))

    def statuses(self) -> list[tuple[int, MemberStatus]]:
        found = []
        for data in self.track.got(moq.GroupData):
            (part,) = data.parts
            start, payload = part.parts
            assert isinstance(payload, bytes)
            assert not isinstance(start, bytes)
            assert (start.size, part.fin) == (len(payload), True)
            found.append((part.sequence, MemberStatus.decode(payload, "a.example")))
        return found


async def test_a_subscriber_gets_the_status_at_once_and_each_new_one() -> None:
    bench = Bench()
    asking = Asking(bench)
    await bench.tell(m.SetStatus(STATUS))
    await asking.open()
    assert asking.track.log[:2] == [m.UpstreamProperties(TrackProperties()), m.UpstreamStarted(None)]
    newer = MemberStatus(STATUS.totals, None)
    await bench.tell(m.SetStatus(newer))
    await bench.tell(m.UpdateUpstream(asking.track.ref, SubscribeParams()))
    await bench.tell(m.StopGroup(asking.track.ref, 1, 0))
    await bench.tell(m.CloseUpstream(asking.track.ref))
    await bench.tell(m.SetStatus(STATUS))
    assert asking.statuses() == [(1, STATUS), (2, newer)]
    await bench.close()


async def test_before_the_first_status_a_subscriber_waits() -> None:
    bench = Bench()
    asking = Asking(bench)
    await asking.open()
    assert asking.statuses() == []
    await bench.tell(m.SetStatus(STATUS))
    assert [status for _, status in asking.statuses()] == [STATUS]
    await bench.close()


async def test_other_tracks_and_old_groups_are_not_there() -> None:
    bench = Bench()
    asking = Asking(bench)
    await bench.tell(m.SetStatus(STATUS))
    await asking.open("video")
    assert asking.track.log == [m.UpstreamFailed(StreamCode.NOT_FOUND)]
    await bench.tell(m.DescribeUpstream(asking.track.ref, "x", TRACK))
    await bench.tell(m.FetchUpstream(asking.track.ref, "x", TRACK, 7, 0))
    await bench.tell(m.OpenPast(asking.track.ref, "x", TRACK, 5, SubscribeParams()))
    assert asking.track.log[1:] == [
        m.UpstreamProperties(TrackProperties()),
        moq.FetchedData(0, moq.GroupPart(7, 0, (), False, StreamCode.NOT_FOUND)),
        m.PastOver(5, 0.0),
    ]
    await bench.close()


# --- those of others -----------------------------------------------------------------------------------------------


async def test_the_status_of_a_member_is_read_while_somebody_looks() -> None:
    looking = Looking()
    assert await looking.looks("a.example", "b.example") == {}
    assert [(one.path, one.track) for one in looking.subscribed] == [
        (f"{MEMBERS}/a.example", TRACK),
        (f"{MEMBERS}/b.example", TRACK),
    ]
    await looking.gets(STATUS.encode(), to=0)
    assert await looking.looks() == {"a.example": STATUS}
    newer = MemberStatus(MemberTotals(4, 2, 41, 0, 0), None)
    await looking.gets(newer.encode(), 1, to=0)
    assert await looking.looks() == {"a.example": newer}
    assert len(looking.subscribed) == 2
    await advance(LEASE - 1)
    assert len(readers()) == 2
    await advance(1)
    assert readers() == []
    assert await looking.looks() == {}
    await looking.bench.close()


async def test_the_status_of_a_root_is_listed_by_its_target_too() -> None:
    looking = Looking(roots=("https://root.example/",))
    await looking.looks("root.example")
    status = MemberStatus(STATUS.totals, None)
    await looking.gets(status.encode())
    assert await looking.looks() == {"root.example": status, "https://root.example/": status}
    await looking.bench.close()


async def test_a_status_that_is_not_renewed_is_forgotten() -> None:
    looking = Looking()
    await looking.looks("a.example")
    await looking.gets(STATUS.encode())
    await advance(FRESH - 1)
    assert await looking.looks() == {"a.example": STATUS}
    await advance(1)
    assert await looking.looks() == {}
    await looking.bench.close()


async def test_an_older_relay_without_that_track_has_no_status_and_is_asked_now_and_then() -> None:
    looking = Looking()
    await looking.looks("a.example")
    (request,) = looking.subscribed
    send(request.subscriber, m.Refused(request.key, StreamCode.NOT_FOUND))
    await settle()
    for _ in range(5):
        assert await looking.looks() == {}
    assert len(looking.subscribed) == 1
    await advance(RETRY)
    await looking.looks()
    assert len(looking.subscribed) == 2
    await looking.bench.close()


async def test_a_member_that_leaves_has_no_status_any_more() -> None:
    looking = Looking()
    await looking.looks("a.example")
    await looking.gets(STATUS.encode())
    await looking.bench.leaves("a.example")
    assert readers() == []
    assert await looking.looks() == {}
    await looking.bench.close()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 4_000, "no JSON"),
        (b"[1]", "no object with totals"),
        (b'{"totals": 7}', "no object with totals"),
        (b'{"totals": {"sessions": "many"}}', "sessions: expected a number from 0 to 9007199254740992"),
        (b"x" * (LONGEST_STATUS + 1), f"more than {LONGEST_STATUS} bytes"),
    ],
)
async def test_bad_content_is_refused_and_logged_once(
    data: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "relay.cluster")
    looking = Looking()
    await looking.looks("a.example")
    for _ in range(3):
        await looking.gets(data)
        assert readers() == []
        assert await looking.looks() == {}
        await advance(RETRY)
        await looking.looks()
    assert [line for line in caplog.messages if "status" in line] == [
        f"[peer a.example] status refused reason={reason!r}"
    ]
    await looking.gets(STATUS.encode())
    assert await looking.looks() == {"a.example": STATUS}
    await looking.bench.close()


async def test_a_group_in_many_pieces_is_bounded() -> None:
    looking = Looking()
    await looking.looks("a.example")
    request = looking.subscribed[0]
    for number in range(100):
        piece = m.GroupFragment(
            0, first=not number, start_frame=0, chunks=(b"x" * 100,), fin=False, code=None
        )
        send(request.subscriber, m.Deliver(request.key, (piece,)))
    await settle()
    assert readers() == []
    await looking.bench.close()


async def test_what_a_browser_would_follow_leads_to_that_relay(caplog: pytest.LogCaptureFixture) -> None:
    for url in (
        "javascript:alert(1)",
        "https://evil.example/",
        "https://a.example@evil.example/",
        "https://user@a.example/",
        "ftp://a.example/",
        "http://a.example/\n",
        "https://[a.example/",
        "http://a.example/" + "x" * 500,
        7,
    ):
        looking = Looking()
        await looking.looks("a.example:4443")
        totals = {"sessions": 1, "broadcasts": 1, "viewers": 1, "received": 0, "sent": 0}
        await looking.gets(json.dumps({"totals": totals, "dashboard": url}).encode())
        assert await looking.looks() == {}, url
        await looking.bench.close()
    assert len([line for line in caplog.messages if "status refused" in line]) == 9


async def test_keys_of_a_newer_relay_are_ignored() -> None:
    looking = Looking()
    await looking.looks("a.example:4443")
    found = json.loads(STATUS.encode())
    found["totals"]["planets"] = [9]
    found["name"] = None
    await looking.gets(json.dumps(found).encode())
    assert await looking.looks() == {"a.example:4443": STATUS}
    await looking.bench.close()
