"""The clock: its text, its patience, and its command line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from relay.client import Client, ConnectError, SessionEnded
from relay.commands import clock
from relay.commands.sessions import Refused, put_line
from relay.transport.memory import memory_pair
from relay.wire.version import ALL_VERSIONS, Draft, Version
from tests.client.recording import requested
from tests.client.support import ALL, PATIENCE, pair
from tests.clock import RUNTIME

pytestmark = pytest.mark.timeout(20)

START = datetime(2026, 11, 22, 7, 30, 58, 250_000, tzinfo=UTC)
TOKEN = "eyJhbGciOi.eyJwdXQiOi.c2VjcmV0"


def options(*words: str) -> clock.Options:
    return clock.read_options(["watch", *words])


async def moments(count: int) -> AsyncIterator[datetime]:
    for number in range(count):
        yield START + timedelta(seconds=number)


class Lines(list[str]):
    """Printed lines."""

    def __init__(self) -> None:
        self._news = asyncio.Event()

    def __call__(self, line: str) -> None:
        self.append(line)
        self._news.set()

    async def reach(self, count: int) -> None:
        while len(self) < count:
            self._news.clear()
            await self._news.wait()

    async def seen(self, count: int) -> AsyncIterator[datetime]:
        """The moments, each after the line before."""
        before = len(self)
        async for moment in moments(count):
            yield moment
            before += 1
            await self.reach(before)


# -- the text


async def test_each_second_comes_once_even_if_a_timer_is_early() -> None:
    now = START
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        waits.append(seconds)
        # the third timer fires a little early
        now += timedelta(seconds=seconds - (0.001 if len(waits) == 3 else 0))

    found = []
    async for moment in clock.seconds(lambda: now, sleep):
        found.append(moment.second)
        if len(found) == 5:
            break
    assert found == [58, 59, 0, 1, 2]
    assert waits == pytest.approx([0.75, 1, 1, 0.001, 1])


async def test_a_minute_is_a_group() -> None:
    async with pair(Version.LITE_05) as (near, far):
        track = far.publish("clock").track("seconds")
        await clock.keep_time(track, moments(4))
        assert [frame.payload for frame in await near.fetch("clock", "seconds", 0)] == [
            b"2026-11-22 07:30:",
            b"58",
            b"59",
        ]
        assert not track.cache.groups[1].finished
        assert [part for part in track.cache.groups[1].parts if isinstance(part, bytes)] == [
            b"2026-11-22 07:31:",
            b"00",
            b"01",
        ]


@pytest.mark.parametrize("version", ALL)
async def test_the_watcher_prints_a_line_per_second(
    version: Version, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = Lines()
    async with pair(version) as (near, far):
        watching = asyncio.ensure_future(clock.watch(near, options(), lines))
        await requested(far, 1)
        publication = far.publish("clock")
        track = publication.track("seconds")
        await track.used()
        await clock.keep_time(track, lines.seen(3))
        # the publisher goes, and comes back
        publication.close()
        returned = far.publish("clock").track("seconds")
        await returned.used()
        cut = returned.group()
        cut.write(b"2026-11-22 08:00:")
        cut.write(b"\x1b[2J")
        await lines.reach(4)
        cut.abort()
        await clock.keep_time(returned, lines.seen(1))
        await far.close(0, "bye")
        with pytest.raises(SessionEnded):
            await watching
    assert lines == [
        "2026-11-22 07:30:58",
        "2026-11-22 07:30:59",
        "2026-11-22 07:31:00",
        "2026-11-22 08:00:?[2J",
        "2026-11-22 07:30:58",
    ]
    assert capsys.readouterr().err.startswith(f"moq-clock: waiting for clock, {version.name_on_wire}\n")


@pytest.mark.virtual
async def test_a_track_that_is_refused_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lines, said = Lines(), Lines()
    monkeypatch.setattr(clock, "say", said)
    async with pair(Version.LITE_05, runtime=RUNTIME) as (near, far):
        publication = far.publish("clock")
        watching = asyncio.ensure_future(clock.watch(near, options(), lines))
        await said.reach(3)
        assert said[1:] == [said[1]] * 2
        assert said[1].startswith("clock: ")
        assert said[1].endswith("; trying again")
        track = publication.track("seconds")
        await track.used()
        await clock.keep_time(track, lines.seen(1))
        watching.cancel()
    assert lines == ["2026-11-22 07:30:58"]


@pytest.mark.parametrize(
    "fault, raised",
    [(OSError(28, "No space left on device"), Refused), (BrokenPipeError(), BrokenPipeError)],
)
def test_a_line_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, fault: OSError, raised: type[Exception]
) -> None:
    def write(_: str) -> None:
        raise fault

    monkeypatch.setattr("relay.terminal.write", write)
    with pytest.raises(raised, match="No space left" if raised is Refused else None):
        put_line("2026-11-22 07:30:58")


# -- session after session


class Relays:
    """The network: the given results, attempt after attempt, and then a stop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.pauses: list[float] = []
        monkeypatch.setattr(clock, "connect", self.connect)

    async def connect(self, _: clock.Options) -> Client:
        if not self.outcomes:
            raise asyncio.CancelledError
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        assert isinstance(outcome, Client)
        return outcome

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


def away(kind: Any = "refused", status: int | None = None) -> ConnectError:
    return ConnectError("cannot connect to http://localhost:4443/: no", kind=kind, status=status)


async def test_the_pauses_grow_to_a_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    relays = Relays(monkeypatch, *(away() for _ in range(6)))
    with pytest.raises(asyncio.CancelledError):
        await clock.run(options(), sleep=relays.sleep)
    assert relays.pauses == [0.5, 1, 2, 4, 5, 5]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "moq-clock: cannot connect to http://localhost:4443/: no; trying again in 0.5 s"
    assert len(said) == 6


@pytest.mark.parametrize("command", ["publish", "watch"])
async def test_a_relay_that_closes_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    near, far = memory_pair(Version.LITE_04)
    client = Client(near)
    relays = Relays(monkeypatch, client)
    async with asyncio.timeout(PATIENCE):
        await client.start()
        running = asyncio.ensure_future(clock.run(clock.read_options([command]), sleep=relays.sleep))
        far.close(0, "server shutdown")
        with pytest.raises(asyncio.CancelledError):
            await running
    assert "server shutdown; trying again in 0.5 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [away("tls"), away("protocol"), away("url"), away("rejected", 401), away("rejected", 404)]
)
async def test_what_will_not_change_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, error: ConnectError
) -> None:
    relays = Relays(monkeypatch, error)
    with pytest.raises(Refused, match="cannot connect"):
        await clock.run(options(), sleep=relays.sleep)


@pytest.mark.parametrize(
    "code, ends", [(2, True), (6, True), (0x18, True), (465, True), (0, False), (1, False), (564, False)]
)
async def test_a_refusal_inside_the_session_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, code: int, ends: bool
) -> None:
    relays = Relays(monkeypatch, SessionEnded(code, "no", by_peer=True))
    with pytest.raises(Refused if ends else asyncio.CancelledError):
        await clock.run(options(), sleep=relays.sleep)


# -- command line


def test_the_defaults() -> None:
    found = options()
    assert (found.command, found.target.url) == ("watch", "http://localhost:4443/")
    assert (found.broadcast, found.track) == ("clock", "seconds")
    assert found.target.versions == ALL_VERSIONS
    assert (found.target.roots, found.target.fingerprints, found.target.disable_verify) == (None, (), False)


def test_the_flags() -> None:
    found = options(
        *(
            "moqt://relay:1",
            "--broadcast",
            "/a//b/",
            "--track",
            "t",
            "--version",
            "moq-lite-04",
            "--version",
            "6",
        ),
        *("--tls-root", "ca.pem", "--tls-disable-verify", "--tls-fingerprint", ":".join(["AB"] * 32)),
    )
    assert (found.broadcast, found.track) == ("a/b", "t")
    assert found.target.versions == (Version.LITE_06, Version.LITE_04)
    assert (found.target.roots, found.target.disable_verify) == ((Path("ca.pem"),), True)
    assert found.target.fingerprints == ("ab" * 32,)


FLAGS = (["--version", "moq-transport-18"], ["--tls-disable-verify"], ["--broadcast", "a"])


@pytest.mark.parametrize("before", range(3))
@pytest.mark.parametrize("between", range(4))
def test_flags_stand_before_between_and_after_command_and_url(before: int, between: int) -> None:
    flags = [*FLAGS[before:], *FLAGS[:before]]
    words = [flags[:between], [["watch"]], flags[between:][:1], [["moqt://h:1/demo"]], flags[between:][1:]]
    found = clock.read_options([word for part in words for flag in part for word in flag])
    assert (found.command, found.target.url) == ("watch", "moqt://h:1/demo")
    assert (found.target.versions, found.target.disable_verify, found.broadcast) == (
        (Draft.DRAFT_18,),
        True,
        "a",
    )


@pytest.mark.parametrize(
    "url, expected",
    [
        ("https://h/a", "https://h/a?jwt=a%2Fb"),
        ("https://h/a?cost=2", "https://h/a?cost=2&jwt=a%2Fb"),
        ("moqt://h:1", "moqt://h:1?jwt=a%2Fb"),
    ],
)
def test_the_token_goes_into_the_query(url: str, expected: str) -> None:
    assert options(url, "--jwt", "a/b\n").target.url == expected


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["listen"],
        [f"https://h/?jwt={TOKEN}"],
        ["watch", f"ftp://h/?jwt={TOKEN}"],
        ["watch", f"https:///?jwt={TOKEN}"],
        ["watch", f"https://h:99999/?jwt={TOKEN}"],
        ["watch", "https://h/", "--jtw", TOKEN],
        ["watch", "https://h/", f"--jtw={TOKEN}"],
        ["watch", "https://h/", TOKEN],
        ["watch", "--version", "6", "https://h/", TOKEN],
        ["watch", "--jtw", TOKEN, "https://h/"],
        ["watch", "--broadcast", "/"],
        ["watch", "--version", "7"],
        ["watch", "--tls-fingerprint", "abc"],
        ["watch", "--track", "\udcff"],
    ],
)
def test_wrong_usage_is_said_in_a_line_that_tells_no_token(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert clock.main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("moq-clock: ")
    assert said.endswith("\nTry: moq-clock --help\n")
    assert said.count("\n") == 2
    assert TOKEN not in said


def test_help_fits_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert clock.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(len(line) <= 120 for line in text.splitlines())
    for flag in (
        "--version",
        "--tls-disable-verify",
        "--tls-root",
        "--tls-fingerprint",
        "--jwt",
        "--broadcast",
    ):
        assert flag in text


@pytest.mark.parametrize(
    "failure, status, said",
    [
        (Refused("the relay says no"), 1, "moq-clock: the relay says no\n"),
        (KeyError("oh"), 1, "moq-clock: internal error: KeyError('oh')\n"),
        (None, 0, ""),
    ],
)
def test_the_exit_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failure: Exception | None,
    status: int,
    said: str,
) -> None:
    async def run(_: clock.Options) -> None:
        if failure is not None:
            raise failure
        raise asyncio.CancelledError  # as a signal does

    monkeypatch.setattr(clock, "run", run)
    assert clock.main(["watch"]) == status
    assert capsys.readouterr().err == said
