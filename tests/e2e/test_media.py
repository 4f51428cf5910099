"""The commands moq-publish, moq-watch and moq-list as their users run them, through a relay."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import av
import pytest

from relay.app import Relay
from relay.client import Client
from relay.commands import list as listing
from relay.commands import publish as publishing
from relay.commands import watch as watching
from relay.commands.sessions import Refused
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


@contextlib.asynccontextmanager
async def playing(source: Path | str, relay: Relay, *flags: str) -> AsyncIterator[None]:
    """moq-publish in this process, from its announcement on."""
    options = publishing.read_options([str(source), relay.url, *flags])
    task = asyncio.create_task(publishing.run(options))
    try:
        await published(relay, options.broadcast)
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def record(relay: Relay | str, *words: str) -> None:
    """moq-watch in this process."""
    await watching.run(watching.read_options([url(relay), *words]))


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
    async with running() as relay, playing(film, relay, "--loop"):
        await record(relay, "film", "--seconds", "2.5", "--out", str(out))
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
    config = tmp_path / "relay.toml"
    config.write_text("[limits]\ndrain = 0\n")
    async with (
        publish(film, place, "--loop") as source,
        watch(place, "film", "--out", str(out)) as recording,
    ):
        for number in range(2):
            async with relay_command(str(config), "--listen", f"localhost:{port}", *OPEN) as server:
                await server.line("try it")
                await published(place, "film")
                async with await Client.connect(place) as client:
                    groups = await client.subscribe("film", "video/hd")
                    # with the second one the recording has seen the first
                    await anext(groups)
                    await anext(groups)
                if number:
                    recording.process.send_signal(signal.SIGINT)
                    assert await recording.exit() == 0
                    source.process.send_signal(signal.SIGINT)
                    assert await source.exit() == 0
                server.process.send_signal(signal.SIGTERM)
                await server.exit()
        assert any("trying again" in line for line in recording.err)
        assert any("trying again" in line for line in source.err)
    found = recorded(out)
    assert found.pictures == sorted(found.pictures)
    assert len(found.numbers) > RATE


async def test_a_stream_that_breaks_off_is_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its times go on, though those of the stream begin anew."""
    film = write_media(tmp_path / "film.ts", audio=None, seconds=1, rate=RATE).read_bytes()
    sent: asyncio.Queue[None] = asyncio.Queue()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(film)
        writer.close()
        await writer.wait_closed()
        sent.put_nowait(None)

    out = tmp_path / "out.mkv"
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    place = f"tcp://user:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with running() as relay, server:
        reading = publishing.run(publishing.read_options([place, relay.url, "--broadcast", "cam"]))
        source = asyncio.create_task(reading)
        recording = watching.run(
            watching.read_options([relay.url, "cam", "--seconds", "1.5", "--out", str(out)])
        )
        await recording
        source.cancel()
        await asyncio.gather(source, return_exceptions=True)
    said = capsys.readouterr().err
    assert "has ended; trying again in 0.5 s" in said
    assert "secret" not in said
    found = recorded(out)
    # the last ones that the encoder has put out of order may be missing
    assert found.numbers[: RATE + 1] == [*range(RATE), 0]
    assert found.pictures == sorted(set(found.pictures))
    assert found.pictures[RATE] >= 1


async def test_the_test_picture_goes_into_a_pipe(tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    async with running() as relay, playing("testsrc", relay, "--broadcast", "demo/test"):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relay.commands.watch", relay.url, "demo/test", "--seconds", "1"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        data, said = await process.communicate()
        assert process.returncode == 0
        assert b", 1280x720, 30 fps" in said
    out.write_bytes(data)
    with av.open(str(out)) as container:
        frames = list(container.decode(video=0))
        assert (frames[0].width, frames[0].height) == (1280, 720)
        assert len(frames) >= 29
    with av.open(str(out)) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) > 24_000


@pytest.mark.parametrize(
    ("out", "status", "said"),
    [("| head -c 100 > /dev/null", 0, ""), ("> /dev/full", 1, "cannot write standard output: No space left")],
)
async def test_output_that_cannot_be_written(tmp_path: Path, out: str, status: int, said: str) -> None:
    film = write_media(tmp_path / "film.mp4", audio=None, seconds=2, rate=RATE)
    async with running() as relay, playing(film, relay, "--loop"):
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", f'set -o pipefail; "$@" {out}', "bash"),
            *(sys.executable, "-m", "relay.commands.watch", relay.url, "film"),
            stderr=asyncio.subprocess.PIPE,
        )
        _, lines = await process.communicate()
    assert process.returncode == status
    _, *others = lines.decode().splitlines()  # what the track is
    assert len(others) == (1 if said else 0)
    assert said in "".join(others)


async def test_a_recording_that_is_stopped_can_be_played(tmp_path: Path) -> None:
    film = write_media(tmp_path / "film.mp4", seconds=2, rate=RATE)
    out = tmp_path / "out.mp4"
    async with (
        running() as relay,
        playing(film, relay, "--loop"),
        watch(relay, "film", "--out", str(out)) as recording,
    ):
        await recording.line("video/hd")
        async with await Client.connect(relay.url) as client:
            first = None
            async for group in await client.subscribe("film", "video/hd"):
                first = group.sequence if first is None else first
                if group.sequence > first + 1:
                    break
        recording.process.send_signal(signal.SIGINT)
        assert await recording.exit() == 0
        assert recorded(out).numbers


# -- single tracks, and the list


async def test_a_track_is_copied_as_it_is(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    film = write_media(tmp_path / "film.webm", video="libvpx-vp9", audio=None, seconds=2, rate=RATE)
    out, lines = tmp_path / "catalog", tmp_path / "lines"
    async with running() as relay, playing(film, relay, "--loop"):
        await record(relay, "film", "catalog.json", "--seconds", "0.3", "--out", str(out))
        catalog = json.loads(out.read_bytes())
        assert catalog["video"]["renditions"]["video/hd"]["codec"] == "vp09.00.10.08"
        fetched = f"{relay.url}fetch/film/catalog.json"
        async with aiohttp.ClientSession() as session, session.get(fetched) as reply:
            assert out.read_bytes() == await reply.read()
        await record(relay, "film", "video/hd", "--frames", "--seconds", "1.5", "--out", str(lines))
    frames = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [frame["frame"] for frame in frames[:RATE]] == list(range(RATE))
    for frame in frames:
        assert frame["size"] == len(base64.b64decode(frame["payload"]))


async def test_the_list_tells_what_comes_and_goes(capsys: pytest.CaptureFixture[str]) -> None:
    async with running() as relay, command("relay.commands.list", relay.url, "demo") as told:
        async with await Client.connect(relay.url) as client:
            client.publish("other/cam")
            publication = client.publish("demo/cam")
            await told.line(r"^\+ demo/cam$")
            await listing.run(listing.read_options([relay.url, "demo", "--once"]))
            assert capsys.readouterr().out == "+ demo/cam\n"
            await listing.run(listing.read_options([relay.url, "--once", "--json"]))
            found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
            assert [(line["path"], line["active"]) for line in found] == [
                ("demo/cam", True),
                ("other/cam", True),
            ]
            publication.close()
            await told.line("^- demo/cam$")
        told.process.send_signal(signal.SIGINT)
        assert await told.exit() == 0
        assert told.out == ["+ demo/cam", "- demo/cam"]


# -- what cannot work

NO_PYAV = "import sys; sys.modules['av'] = None; from relay.commands.publish import main; sys.exit(main())"


async def test_a_failure_is_one_clear_line_and_status_1(tmp_path: Path) -> None:
    missing = tmp_path / "missing.mp4"
    nowhere = f"http://localhost:{free_udp_port()}/"
    async with command("relay.commands.publish", str(missing), nowhere) as failing:
        assert await failing.exit() == 1
        assert failing.out == []
        assert failing.err == [f"moq-publish: cannot open {missing}: No such file or directory"]
    async with program(NO_PYAV, "testsrc") as failing:
        assert await failing.exit() == 1
        assert failing.err == [
            "moq-publish: this needs PyAV, FFmpeg's libraries for Python: pip install 'moq-relay[media]'"
        ]


async def test_what_cannot_be_published(tmp_path: Path) -> None:
    old = write_media(tmp_path / "old.avi", video="mpeg4", audio=None, seconds=0.5)
    text = tmp_path / "notes.mp4"
    text.write_bytes(bytes(range(256)))
    secret = "nothing://user:secret@example.com/film?token=secret"
    async with running() as relay:
        for source, fault in (
            (text, f"^cannot open {text}: Invalid data"),
            (old, "players do not take mpeg4, its video; --transcode"),
            (secret, "^cannot open nothing://example.com/film: Protocol not found$"),
        ):
            with pytest.raises(Refused, match=fault):
                await publishing.run(publishing.read_options([str(source), relay.url]))
        out = tmp_path / "out.mkv"
        async with asyncio.TaskGroup() as group:
            group.create_task(record(relay, "old", "--out", str(out)))
            await publishing.run(publishing.read_options([str(old), relay.url, "--transcode"]))
    assert len(recorded(out).numbers) == 5


async def test_a_token_that_is_refused_ends_the_commands_and_is_not_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = write_media(tmp_path / "film.mp4", seconds=0.5)
    secret = token(get="other")
    kept = tmp_path / "token"
    kept.write_text(f"{secret}\n")
    async with guarded(tmp_path) as relay:
        place = http(relay, "demo")
        trust = ("--token-file", str(kept))
        out = str(tmp_path / "out.mkv")
        for running_command in (
            publishing.run(publishing.read_options([str(film), place, *trust])),
            watching.run(watching.read_options([place, "film", "--out", out, *trust])),
            listing.run(listing.read_options([place, "--jwt", secret])),
        ):
            with pytest.raises(Refused, match="the server answered 401") as refused:
                await running_command
            assert secret not in str(refused.value)
    assert secret not in capsys.readouterr().err


async def test_a_recording_that_cannot_be_written(tmp_path: Path) -> None:
    film = write_media(tmp_path / "film.webm", video="libvpx-vp9", audio=None, seconds=1)
    taken = tmp_path / "out.mkv"
    taken.mkdir()
    async with running() as relay, playing(film, relay, "--loop"):
        for words, fault in (
            (("--out", str(taken)), f"cannot write {taken}: Is a directory"),
            (("--out", str(tmp_path / "out.ts")), "mpegts does not hold vp09"),
            (("--out", "/dev/full", "video/hd"), "cannot write /dev/full: No space left"),
            (("--out", str(taken), "video/hd"), f"cannot write {taken}: Is a directory"),
        ):
            with pytest.raises(Refused, match=fault):
                await record(relay, "film", *words)
