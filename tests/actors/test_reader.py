"""The reader actor: groups of one track for an HTTP request, then one end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from relay.actors import messages as m
from relay.actors.origin import OriginActor
from relay.actors.reader import Over, ReaderActor, Reading
from relay.actors.runtime import Ref, halt, send
from relay.moq.encoding import Encoding
from relay.wire.errors import StreamCode
from relay.wire.version import Version
from tests.actors.fakes import Fake, payload_of
from tests.actors.raw_peer import upstream
from tests.actors.watching import actors, stop_all
from tests.actors.world import World
from tests.clock import RUNTIME, advance, settle, until


class Desk:
    """A reader at a fake origin, driven fragment by fragment."""

    def __init__(self, *, follow: bool = False) -> None:
        self.origin = Fake()
        self.track = Fake()
        self.got: list[m.GroupFragment | Over] = []
        self.reader: Ref = ReaderActor.start(
            RUNTIME,
            origin=self.origin.ref,
            number=1,
            reading=Reading("p", "video", follow=follow),
            sink=self.got.append,
        )

    def accept(self) -> None:
        (request,) = self.origin.got(m.Subscribe)
        send(self.reader, m.Accepted(request.key, self.track.ref))

    def deliver(self, *fragments: m.GroupFragment) -> None:
        (request,) = self.origin.got(m.Subscribe)
        send(self.reader, m.Deliver(request.key, fragments))


def fragment(
    sequence: int, *chunks: bytes, first: bool = True, fin: bool = False, code: int | None = None
) -> m.GroupFragment:
    return m.GroupFragment(sequence, first, 0, chunks, fin, code)


async def reading(*, follow: bool = False) -> Desk:
    made = Desk(follow=follow)
    await settle()
    made.accept()
    await settle()
    return made


async def test_a_reader_gets_the_first_group_and_leaves() -> None:
    made = await reading()
    assert made.origin.got(m.Subscribe)[0].encoding is Encoding.FRAMES
    made.deliver(fragment(4, b"a"), fragment(5, b"other", fin=True))
    made.deliver(fragment(4, b"b", b"c", first=False))
    await settle()
    assert payload_of(made.got) == b"abc"
    made.deliver(fragment(4, first=False, fin=True))
    await settle()
    assert made.got[-1] == fragment(4, first=False, fin=True)
    assert not made.reader.is_alive()
    assert made.track.got(m.Unsubscribe) == [m.Unsubscribe(made.reader, 1)]


@pytest.mark.parametrize(
    "behind",
    [
        lambda made: send(made.reader, m.Ended(1, 5)),
        lambda made: send(made.reader, m.Refused(1, StreamCode.INTERNAL)),
        lambda made: made.deliver(fragment(4, first=False, code=StreamCode.OLD)),
    ],
    ids=["ended", "refused", "aborted"],
)
async def test_nothing_is_said_after_the_last_chunk(behind: Callable[[Desk], object]) -> None:
    made = await reading()
    made.deliver(fragment(4, b"a", fin=True))
    behind(made)
    await settle()
    assert made.got == [fragment(4, b"a", fin=True)]


async def test_no_group_is_said_once() -> None:
    made = await reading()
    send(made.reader, m.Ended(1, 0))
    send(made.reader, m.Refused(1, StreamCode.INTERNAL))
    await settle()
    assert made.got == [Over(None)]
    assert not made.reader.is_alive()


async def test_an_aborted_group_is_reported_with_its_code() -> None:
    made = await reading()
    made.deliver(fragment(4, b"a"))
    made.deliver(fragment(4, first=False, code=StreamCode.OLD))
    await settle()
    assert payload_of(made.got) == b"a"
    last = made.got[-1]
    assert last.code == StreamCode.OLD
    assert not made.reader.is_alive()


async def test_an_unknown_broadcast_and_a_dead_origin_are_no_group() -> None:
    for dead in (False, True):
        origin: Ref = OriginActor.start(RUNTIME)
        got: list[m.GroupFragment | Over] = []
        if dead:
            halt(origin)
            await settle()
        ReaderActor.start(RUNTIME, origin=origin, number=1, reading=Reading("p", "video"), sink=got.append)
        await settle()
        assert got == [Over(StreamCode.UNROUTABLE)]


async def test_a_reader_that_is_stopped_leaves_its_track(world: World) -> None:
    publisher = await world.publisher(Version.LITE_04, "p")
    got: list[m.GroupFragment | Over] = []
    reader = ReaderActor.start(
        RUNTIME, origin=world.origin, number=9, reading=Reading("p", "video"), sink=got.append
    )
    stream, request = await upstream(publisher)
    publisher.group(request.id, 0, b"a", b"", b"b", fin=False)
    await settle()
    assert payload_of(got) == b"ab"
    halt(reader)
    await until(lambda: stream.over)
    await settle()
    assert not [name for name in actors() if name.startswith("track")]


async def test_a_reader_gets_the_newest_whole_group_when_the_newest_is_broken(world: World) -> None:
    publisher = await world.publisher(Version.LITE_04, "p")
    viewer = await world.viewer(Version.LITE_04)
    viewer.subscribe("p", "video/hd")
    _, request = await upstream(publisher)
    publisher.group(request.id, 4, b"whole")
    publisher.group(request.id, 5, b"broken", fin=False).reset(70)
    await settle()
    got: list[m.GroupFragment | Over] = []
    ReaderActor.start(
        RUNTIME, origin=world.origin, number=9, reading=Reading("p", "video/hd"), sink=got.append
    )
    await settle()
    assert payload_of(got) == b"whole"


async def test_a_following_reader_goes_on_until_the_track_ends() -> None:
    made = await reading(follow=True)
    made.deliver(fragment(4, b"a", fin=True), fragment(5, b"b"))
    made.deliver(fragment(5, first=False, code=StreamCode.OLD), fragment(6, b"c", fin=True))
    await settle()
    assert payload_of(made.got) == b"abc"
    assert made.reader.is_alive()
    send(made.reader, m.Ended(1, 7))
    await settle()
    assert made.got[-1] == Over(None)
    assert not made.reader.is_alive()


# --- which broadcast it is ----------------------------------------------------------------------------------------


def searching(*, wait: float = 0.0) -> Desk:
    """A reader that must find the broadcast in `demo/cam/video/hd`."""
    made = Desk.__new__(Desk)
    made.origin, made.track, made.got = Fake(), Fake(), []
    wanted = Reading("demo/cam/video", "hd", otherwise=(("demo/cam", "video/hd"),), wait=wait)
    made.reader = ReaderActor.start(
        RUNTIME, origin=made.origin.ref, number=1, reading=wanted, sink=made.got.append
    )
    return made


@pytest.mark.parametrize("path, track", [("demo/cam/video", "hd"), ("demo/cam", "video/hd")])
async def test_the_track_is_what_the_found_broadcast_leaves_of_the_name(path: str, track: str) -> None:
    made = searching()
    await settle()
    assert made.origin.got(m.Find) == [m.Find(("demo/cam/video", "demo/cam"), made.reader, 1, wait=False)]
    send(made.reader, m.Found(1, path))
    await settle()
    (request,) = made.origin.got(m.Subscribe)
    assert (request.path, request.track) == (path, track)


async def test_no_broadcast_is_said_once() -> None:
    made = searching()
    send(made.reader, m.Found(1, None))
    await settle()
    assert made.got == [Over(StreamCode.UNROUTABLE)]
    assert not made.reader.is_alive()


@pytest.mark.virtual
async def test_a_reader_waits_for_its_broadcast_so_long_and_then_leaves_the_origin() -> None:
    made = searching(wait=5.0)
    await advance(4.9)
    assert made.got == []
    await advance(0.2)
    assert made.got == [Over(StreamCode.UNROUTABLE)]
    assert made.origin.got(m.Unsubscribe) == [m.Unsubscribe(made.reader, 1)]
    stop_all()


@pytest.mark.virtual
async def test_what_is_found_in_time_is_read_however_long_that_takes() -> None:
    made = searching(wait=5.0)
    await advance(4.9)
    send(made.reader, m.Found(1, "demo/cam"))
    await advance(60.0)
    made.accept()
    made.deliver(fragment(4, b"a", fin=True))
    await settle()
    assert made.got == [fragment(4, b"a", fin=True)]
    stop_all()
