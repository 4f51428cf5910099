"""Parts of moq-publish, moq-watch and moq-list without a relay: options, the order of groups, what is shown."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.client import ConnectError
from relay.commands import list as listing
from relay.commands import publish, sessions, watch
from relay.commands.progress import Progress
from relay.commands.sessions import Refused
from relay.media.catalog import Rendition

TOKEN = "eyJhbGciOiJIUzI1NiJ9.e30.x"
URL = f"https://relay.example.com/?jwt={TOKEN}"
COMMANDS = {"moq-publish": publish, "moq-watch": watch, "moq-list": listing}

NO_TEXT = os.fsdecode(b"\xff")

# -- command lines


def test_the_defaults() -> None:
    found = publish.read_options(["dir/My film.v2.mp4"])
    assert (found.input.place, found.broadcast, found.loop) == ("dir/My film.v2.mp4", "My-film.v2", False)
    assert found.target.url == "http://localhost:4443/"
    assert (found.input.format, found.input.options, found.input.transcode) == (None, (), False)
    seen = watch.read_options([URL, "demo/cam", "--out", "a.mp4"])
    assert (seen.broadcast, seen.track, seen.out, seen.seconds) == ("demo/cam", None, "a.mp4", None)
    told = listing.read_options([])
    assert (told.prefix, told.once, told.json) == ("", False, False)


def test_the_flags() -> None:
    words = ["cam", URL, "--format", "v4l2", "--option", "a=b=c", "--option", "d=", "--transcode"]
    found = publish.read_options([*words, "--container", "cmaf", "--broadcast", "/demo//cam"])
    assert found.input.options == (("a", "b=c"), ("d", ""))
    assert (found.input.format, found.input.transcode, found.input.container) == ("v4l2", True, "cmaf")
    assert found.broadcast == "demo/cam"
    assert watch.read_options([URL, "a", "t", "--frames", "--seconds", "1.5"]).seconds == 1.5
    assert listing.read_options([URL, "/room//1/", "--json"]).prefix == "room/1"


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("testsrc", "testsrc"),
        ("rtsp://u:p@camera/", "live"),
        ("rtsp://camera/stage?x=1", "stage"),
        ("srt://[x", "live"),
    ],
)
def test_the_name_of_a_broadcast(place: str, name: str) -> None:
    assert publish.read_options([place]).broadcast == name


def test_where_the_token_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "token"
    kept.write_text(f"{TOKEN}\n")
    bare = "https://h/"
    assert listing.read_options([bare]).target.url == bare
    monkeypatch.setenv("MOQ_TOKEN", "other")
    assert listing.read_options([bare]).target.url == f"{bare}?jwt=other"
    assert listing.read_options([URL]).target.url == URL
    assert listing.read_options([bare, "--token-file", str(kept)]).target.url == f"{bare}?jwt={TOKEN}"


@pytest.mark.parametrize(
    ("command", "words", "fault"),
    [
        ("moq-publish", [], "INPUT"),
        ("moq-publish", ["film.mp4", f"ftp://h/?jwt={TOKEN}"], "want http://"),
        ("moq-publish", ["film.mp4", URL, TOKEN], "too many arguments"),
        ("moq-publish", ["film.mp4", "--option", "x"], "want NAME=VALUE"),
        ("moq-publish", ["film.mp4", "--container", "loc"], "want legacy or cmaf"),
        ("moq-publish", ["rtsp://camera/1", "--loop"], "this input is live"),
        ("moq-publish", ["film.mp4", "--token-file", "/nowhere"], "--token-file /nowhere: No such file"),
        ("moq-publish", ["film.mp4", "--jwt", TOKEN, "--token-file", "x"], "not allowed with"),
        ("moq-watch", [URL], "BROADCAST"),
        ("moq-watch", [URL, "a", "--out", "a.avi"], "want a file that ends in .mp4"),
        ("moq-watch", [URL, "a", "--out", "/nowhere/a.mp4"], "no such directory"),
        ("moq-watch", [URL, "a", "--frames"], "--frames needs a TRACK"),
        ("moq-watch", [URL, "a", "--out", "a.mp4", "--seconds", "0"], "seconds above 0"),
        ("moq-watch", [URL, "a", "--out", "a.mp4", "--seconds", "soon"], "seconds above 0"),
        ("moq-list", [URL, "a", "b"], "too many arguments"),
        ("moq-list", [URL, "a/" * 5000], "a path has at most"),
        ("moq-list", [URL, NO_TEXT], "want UTF-8"),
        ("moq-list", [f"https://h/{NO_TEXT}?jwt={TOKEN}"], "want UTF-8"),
        ("moq-list", [URL, "--jwt", f"{TOKEN}{NO_TEXT}"], "the token is not UTF-8"),
        ("moq-publish", ["film.mp4", "--broadcast", NO_TEXT], "want UTF-8"),
        ("moq-watch", [URL, "a", NO_TEXT], "want UTF-8"),
    ],
)
def test_wrong_usage_is_one_line_that_tells_no_token(
    command: str, words: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert COMMANDS[command].main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{command}: ")
    assert fault in said
    assert said.endswith(f"\nTry: {command} --help\n")
    assert said.count("\n") == 2
    assert TOKEN not in said


def test_a_terminal_gets_no_media(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.isatty", lambda _: True)
    assert watch.main([URL, "a"]) == 2
    assert "a terminal cannot show media" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_and_fits_the_terminal(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMANDS[command].main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(len(line) <= 120 for line in text.splitlines())
    for part in ("examples:", "exit status:", "--token-file", "--tls-root", f"  {command} "):
        assert part in text


# -- sessions


async def test_a_command_that_is_not_to_wait_ends_at_the_first_failure() -> None:
    async def dial() -> Any:
        raise ConnectError("nobody listens", kind="refused")

    async def work(_: Any) -> None:
        raise AssertionError

    with pytest.raises(Refused, match="nobody listens"):
        await sessions.run(dial, work, print, again=False)


# -- groups


class Group:
    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True


class Groups:
    """A subscription whose groups come as told: a number, or a pause until all others wait."""

    def __init__(self, *sequences: int | None) -> None:
        self.coming = list(sequences)
        self.groups: list[Group] = []
        self.updates: list[dict[str, int]] = []

    def __aiter__(self) -> AsyncIterator[Group]:
        return self

    async def __anext__(self) -> Group:
        while self.coming:
            sequence = self.coming.pop(0)
            if sequence is not None:
                group = Group(sequence)
                self.groups.append(group)
                return group
            await asyncio.sleep(3 * watch.ORDERED)
        raise StopAsyncIteration

    def update(self, **wanted: int) -> None:
        self.updates.append(wanted)


@pytest.mark.parametrize(
    ("coming", "past", "expected", "stopped"),
    [
        ((5, 6, 7), False, [5, 6, 7], []),
        ((5, 7, 6, 8), False, [5, 6, 7, 8], []),
        ((5, 4, 6), False, [4, 5, 6], []),
        ((5, None, 4, 6), False, [5, 6], [4]),
        ((5, 7, None, 6, 8), False, [5, 7, 8], [6]),
        ((7, 6, 5, 8), True, [5, 6, 7, 8], []),
        ((5, 9, 7), False, [5, 7, 9], []),
        ((), False, [], []),
    ],
)
async def test_groups_come_in_order(
    monkeypatch: pytest.MonkeyPatch,
    coming: tuple[int | None, ...],
    past: bool,
    expected: list[int],
    stopped: list[int],
) -> None:
    monkeypatch.setattr(watch, "ORDERED", 0.05)
    monkeypatch.setattr(watch, "PAST", 0.05)
    groups: Any = Groups(*coming)
    assert [group.sequence async for group in watch.in_order(groups, past=past)] == expected
    assert [group.sequence for group in groups.groups if group.stopped] == stopped
    if expected and not past:
        assert groups.updates == [{"start_group": expected[0], "max_latency_ms": watch.LATENCY}]


# -- what is shown


class Terminal(io.StringIO):
    def __init__(self, *, interactive: bool) -> None:
        super().__init__()
        self._interactive = interactive
        self._news = asyncio.Event()

    def isatty(self) -> bool:
        return self._interactive

    def write(self, text: str) -> int:
        self._news.set()
        return super().write(text)

    async def shows(self, text: str) -> None:
        async with asyncio.timeout(60):
            while text not in self.getvalue():
                self._news.clear()
                await self._news.wait()


def rendition(kind: str, **fields: Any) -> Rendition:
    return Rendition(kind, f"{kind}/x", "codec", **fields)


async def test_a_terminal_has_one_line_that_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(interactive=True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("relay.commands.progress.RENEWED", 0.01)
    said: list[str] = []
    with Progress("moq-publish", said.append) as progress:
        progress.describe(
            [
                rendition("video", width=640, height=360, framerate=25.0),
                rendition("audio", sample_rate=1, channels=2),
            ]
        )
        progress.count("video", 1000, 3_661_000_000)
        progress.watched = ["video"]
        await terminal.shows("watched: video")
        progress.watched = []
        await terminal.shows("nobody watches")
        progress.say("hello")
    assert said == ["video/x: codec, 640x360, 25 fps", "audio/x: codec, 1 Hz, 2 channels", "hello"]
    assert "\r\x1b[Kmoq-publish: 1:01:01, 1 frames, " in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")


async def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(interactive=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("relay.commands.progress.LOGGED", 0.01)
    with Progress("moq-watch", watch.say) as progress:
        progress.count("audio", 10, 0)
        await terminal.shows("moq-watch: 0:00:00, 1 frames, 0 fps, ")
