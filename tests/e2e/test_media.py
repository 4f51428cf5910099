"""The commands moq-publish, moq-watch and moq-list as their users run them, through a relay."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import av
import pytest

from relay.app import Relay
from relay.client import Client
from relay.commands import publish as publishing
from relay.commands import watch as watching
from tests.e2e.auth_support import guarded, http, token
from tests.e2e.harness import WITHIN, free_udp_port
from tests.e2e.media_support import number_of, write_media
from tests.e2e.support import running
from tests.e2e.test_command import OPEN, Command, command, program
from tests.e2e.test_command import relay as relay_command

RATE = 10  # pictures a second, of the files here
SECONDS = 2
"""Two groups of pictures."""


def publish(
    source: Path | str, relay: Relay | str, *flags: str
) -> contextlib.AbstractAsyncContextManager[Command]:
    return command("relay.commands.publish", str(source), url(relay), *flags)


def watch(relay: Relay | str, *words: str) -> contextlib.AbstractAsyncContextManager[Command]:
    return command("relay.commands.watch", url(relay), *words)


def url(relay: Relay | str) -> str:
    return relay if isinstance(relay, str) else relay.url


class Recorded(NamedTuple):
    """What a recording shows: times in seconds from its first picture on."""

    numbers: list[int]
    pictures: list[float]
    sounds: list[float]


def recorded(path: Path) -> Recorded:
    with av.open(str(path)) as container:
        pictures = [(float(frame.time or 0), number_of(frame)) for frame in container.decode(video=0)]
    sounds: list[float] = []
    with av.open(str(path)) as container:
        if container.streams.audio:
            sounds = [float(frame.time or 0) for frame in container.decode(audio=0)]
    start = pictures[0][0]
    return Recorded(
        [number for _, number in pictures],
        [time - start for time, _ in pictures],
        [time - start for time in sounds],
    )


async def published(relay: Relay | str, path: str) -> None:
    async with await Client.connect(url(relay)) as client:
        await client.announced().wait_for(path)


@pytest.mark.parametrize(
    ("name", "video", "audio", "out", "container"),
    [
        ("film.webm", "libvpx-vp9", "libopus", "out.mkv", "legacy"),
        ("film.mp4", "libx264", "aac", "out.mp4", "legacy"),
        ("film.ts", "libx264", "aac", "out.ts", "legacy"),
        ("film.ts", "libx264", "aac", "out.mp4", "cmaf"),
        ("film.mkv", "libx265", "libopus", "out.mkv", "legacy"),
        ("film.ts", "libx265", None, "out.mp4", "legacy"),
        ("film.webm", "libvpx", None, "out.webm", "cmaf"),
    ],
)
async def test_a_recording_has_the_pictures_and_the_sound_of_the_file(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    video: str,
    audio: str | None,
    out: str,
    container: str,
) -> None:
    film = write_media(tmp_path / name, video=video, audio=audio, seconds=SECONDS, rate=RATE)
    async with running() as relay, asyncio.TaskGroup() as group:
        options = watching.read_options([relay.url, "film", "--out", str(tmp_path / out)])
        group.create_task(watching.run(options))
        await until(capsys, "waiting for film")
        await publishing.run(publishing.read_options([str(film), relay.url, "--container", container]))
    found = recorded(tmp_path / out)
    assert found.numbers == list(range(SECONDS * RATE))
    assert found.pictures == pytest.approx([number / RATE for number in found.numbers], abs=0.002)
    if audio is not None:
        assert found.sounds[0] == pytest.approx(0, abs=0.05)
        assert found.sounds[-1] == pytest.approx(SECONDS, abs=0.25)


async def until(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Wait until a command has said this."""
    said = ""
    async with asyncio.timeout(WITHIN):
        while text not in said:
            await asyncio.sleep(0.01)
            said += capsys.readouterr().err


async def test_a_file_that_is_repeated_goes_on_in_time(tmp_path: Path) -> None:
    film = write_media(tmp_path / "film.mp4", seconds=1, rate=RATE)
    out = tmp_path / "out.mkv"
    async with (
        running() as relay,
        publish(film, relay, "--loop") as source,
        watch(relay, "film", "--seconds", "2.5", "--out", str(out)) as recording,
    ):
        assert await recording.exit() == 0
        source.process.send_signal(signal.SIGINT)
        assert await source.exit() == 0
    found = recorded(out)
    first = found.numbers[0]
    # a picture that comes out of order may be missing at the end
    numbers, times = found.numbers[:-2], found.pictures[:-2]
    assert numbers == [(first + step) % RATE for step in range(len(numbers))]
    assert len(numbers) >= 2 * RATE
    # the sound is a little longer than the picture
    steps = [after - before for before, after in itertools.pairwise(times)]
    assert all(0.09 < step < 0.15 for step in steps), steps


async def test_both_go_on_after_a_restart_of_the_relay(tmp_path: Path) -> None:
    port = free_udp_port()
    film = write_media(tmp_path / "film.mp4", seconds=2, rate=RATE)
    out, place = tmp_path / "out.mkv", f"http://localhost:{port}/"
    async with (
        publish(film, place, "--loop") as source,
        watch(place, "film", "--out", str(out)) as recording,
    ):
        for _ in range(2):
            async with relay_command("--listen", f"localhost:{port}", *OPEN) as server:
                await server.line("try it")
                before = len(source.err), len(recording.err)
                await published(place, "film")
                async with await Client.connect(place) as client:
                    groups = [anext(await client.subscribe("film", "video/hd"))]
                    await asyncio.gather(*groups)
                    # a group that begins after the recording has seen the one before
                    async for group in await client.subscribe("film", "audio/data"):
                        if group.sequence > 15:
                            break
                server.process.send_signal(signal.SIGTERM)
                await server.exit()
            assert (len(source.err), len(recording.err)) != before
        recording.process.send_signal(signal.SIGINT)
        assert await recording.exit() == 0
        assert any("trying again" in line for line in recording.err)
        assert any("trying again" in line for line in source.err)
    found = recorded(out)
    assert found.pictures == sorted(found.pictures)
    assert len(found.numbers) > RATE


async def test_the_test_picture_goes_into_a_pipe(tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    async with running() as relay, publish("testsrc", relay, "--broadcast", "demo/test") as source:
        await source.line("publishing demo/test")
        await source.line(r"video/hd: \S+, 1280x720, 30 fps")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relay.commands.watch", relay.url, "demo/test", "--seconds", "1"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        data, _ = await process.communicate()
        assert process.returncode == 0
        out.write_bytes(data)
    with av.open(str(out)) as container:
        frames = list(container.decode(video=0))
        assert (frames[0].width, frames[0].height) == (1280, 720)
        assert len(frames) >= 29
    with av.open(str(out)) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) > 24_000


async def test_a_recording_that_is_stopped_can_be_played(tmp_path: Path) -> None:
    film = write_media(tmp_path / "film.mp4", seconds=2, rate=RATE)
    out = tmp_path / "out.mp4"
    async with (
        running() as relay,
        publish(film, relay, "--loop"),
        watch(relay, "film", "--out", str(out)) as recording,
    ):
        await recording.line("video/hd")
        async with await Client.connect(relay.url) as client:
            async for group in await client.subscribe("film", "video/hd"):
                if group.sequence == 1:
                    break
        recording.process.send_signal(signal.SIGINT)
        assert await recording.exit() == 0
        assert recorded(out).numbers


# -- single tracks, and the list


async def test_a_track_is_copied_as_it_is(tmp_path: Path) -> None:
    film = write_media(tmp_path / "film.webm", video="libvpx-vp9", audio=None, seconds=2, rate=RATE)
    out = tmp_path / "catalog"
    async with running() as relay, publish(film, relay, "--loop"):
        await published(relay, "film")
        async with watch(relay, "film", "catalog.json", "--seconds", "0.3", "--out", str(out)) as copying:
            assert await copying.exit() == 0
        catalog = json.loads(out.read_bytes())
        assert catalog["video"]["renditions"]["video/hd"]["codec"] == "vp09.00.10.08"
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{relay.url}fetch/film/catalog.json") as reply,
        ):
            assert out.read_bytes() == await reply.read()
        async with watch(relay, "film", "video/hd", "--frames") as lines:
            await lines.more(RATE + 1)
            lines.process.send_signal(signal.SIGINT)
            assert await lines.exit() == 0
    frames = [json.loads(line) for line in lines.out]
    assert [frame["frame"] for frame in frames[:RATE]] == list(range(RATE))
    for frame in frames:
        assert frame["size"] == len(base64.b64decode(frame["payload"]))


async def test_the_list_tells_what_comes_and_goes() -> None:
    async with running() as relay, command("relay.commands.list", relay.url, "demo") as listing:
        async with await Client.connect(relay.url) as client:
            client.publish("other/cam")
            publication = client.publish("demo/cam")
            await listing.line(r"^\+ demo/cam$")
            for flags, line in (((), "+ demo/cam"), (("--json",), '{"path": "demo/cam", "active": true}')):
                async with command("relay.commands.list", relay.url, "demo", "--once", *flags) as once:
                    assert await once.exit() == 0
                    assert [line.partition(', "hops"')[0].rstrip("}") for line in once.out] == [
                        line.rstrip("}")
                    ]
            publication.close()
            await listing.line("^- demo/cam$")
        listing.process.send_signal(signal.SIGINT)
        assert await listing.exit() == 0
        assert listing.out == ["+ demo/cam", "- demo/cam"]


# -- what cannot work

NO_PYAV = "import sys; sys.modules['av'] = None; from relay.commands.publish import main; sys.exit(main())"


async def fails(running_command: Any, *words: str) -> list[str]:
    """The lines of a command that fails with status 1, all but what it says about the tracks."""
    async with running_command as failing:
        assert await failing.exit() == 1
        assert failing.out == []
        for word in words:
            assert word in failing.err[-1], failing.err
        assert not any("Traceback" in line for line in failing.err)
        return list(failing.err)


async def test_what_cannot_be_published_is_one_clear_line(tmp_path: Path) -> None:
    old = write_media(tmp_path / "old.avi", video="mpeg4", audio=None, seconds=0.5)
    text = tmp_path / "notes.mp4"
    text.write_bytes(bytes(range(256)))
    async with running() as relay:
        missing = tmp_path / "missing.mp4"
        assert await fails(publish(missing, relay), f"cannot open {missing}: No such file or directory")
        assert len(await fails(publish(text, relay), f"cannot open {text}: Invalid data")) == 1
        await fails(publish(old, relay), "players do not take mpeg4", "--transcode")
        await fails(
            publish("nothing://user:secret@example.com/film?token=secret", relay),
            "cannot open nothing://example.com/film:",
        )
        async with program(NO_PYAV, "testsrc", relay.url) as failing:
            assert await failing.exit() == 1
            assert failing.err == [
                "moq-publish: this needs PyAV, FFmpeg's libraries for Python: pip install 'moq-relay[media]'"
            ]
        out = tmp_path / "out.mkv"
        async with watch(relay, "old", "--out", str(out)) as recording:
            await recording.line("waiting")
            async with publish(old, relay, "--transcode") as source:
                assert await source.exit() == 0
            assert await recording.exit() == 0
        assert len(recorded(out).numbers) == 5


async def test_a_token_that_is_refused_ends_the_commands_and_is_not_told(tmp_path: Path) -> None:
    film = write_media(tmp_path / "film.mp4", seconds=0.5)
    secret = token(get="other")
    kept = tmp_path / "token"
    kept.write_text(f"{secret}\n")
    async with guarded(tmp_path) as relay:
        place = http(relay, "demo")
        for failing in (
            publish(film, place, "--token-file", str(kept)),
            watch(place, "film", "--out", str(tmp_path / "out.mkv"), "--token-file", str(kept)),
            command("relay.commands.list", place, "--once", "--jwt", secret),
        ):
            said = await fails(failing, "the server answered 401")
            assert not any(secret in line for line in said)


async def test_a_recording_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    film = write_media(tmp_path / "film.webm", video="libvpx-vp9", audio=None, seconds=1)
    async with running() as relay, publish(film, relay, "--loop"):
        await published(relay, "film")
        taken = tmp_path / "out.mkv"
        taken.mkdir()
        await fails(watch(relay, "film", "--out", str(taken)), f"cannot write {taken}: Is a directory")
        await fails(
            watch(relay, "film", "--out", str(tmp_path / "out.ts")), "mpegts does not hold vp09", ".mkv"
        )
        await fails(watch(relay, "film", "--out", "/dev/full", "video/hd"), "No space left")
