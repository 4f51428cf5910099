"""qlog files of a relay: complete, readable, without secrets, and not too many."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.app import Relay
from relay.client import Client
from relay.config import Config
from relay.quic.qlog import QlogDirectory
from relay.quic.trust import ClientTls
from tests.e2e.http_support import guarded, token
from tests.e2e.support import PATIENT, config
from tests.e2e.swarm import swarm

pytestmark = pytest.mark.e2e


def logging_relay(folder: Path, settings: Config | None = None, **server: Any) -> Relay:
    settings = settings or config()
    server["qlog_dir"] = folder
    return Relay(settings.model_copy(update={"server": settings.server.model_copy(update=server)}))


def traces(folder: Path) -> list[dict[str, Any]]:
    """There are no other files."""
    found = []
    for path in sorted(folder.iterdir()):
        document = json.loads(path.read_text())
        assert document["qlog_version"] == "0.3"
        [trace] = document["traces"]
        assert path.name == f"{trace['common_fields']['ODCID']}.qlog"
        found.append(trace)
    return found


def contents(folder: Path) -> list[str]:
    return [path.read_text() for path in folder.iterdir()]


def packets(trace: dict[str, Any]) -> Counter[tuple[str, str]]:
    """By kind and direction."""
    return Counter(
        (event["name"].removeprefix("transport:packet_"), event["data"]["header"]["packet_type"])
        for event in trace["events"]
        if event["name"] in ("transport:packet_sent", "transport:packet_received")
    )


@pytest.mark.parametrize("scheme", ["https", "moqt"])
async def test_a_file_tells_all_packets_of_a_session_and_no_token(scheme: str, tmp_path: Path) -> None:
    payload = b"payload-that-nobody-shall-read" * 3000
    secret, folder = token(root="room", put="", get=""), tmp_path / "qlog"
    folder.mkdir()
    async with logging_relay(folder, guarded(tmp_path)) as relay:
        tls = ClientTls(fingerprints=(relay.fingerprint,))
        url = f"{scheme}://127.0.0.1:{relay.port}/room?jwt={secret}"
        async with await Client.connect(url, tls=tls) as source, await Client.connect(url, tls=tls) as sink:
            track = source.publish("cam").track("video")
            await sink.announced().wait_for("cam")
            subscription = await sink.subscribe("cam", "video")
            await track.used()
            for _ in range(3):
                group = track.group()
                group.write(payload)
                group.finish()
                received = await anext(subscription)
                assert [frame.payload async for frame in received] == [payload]
    found = traces(folder)
    assert len(found) == 2
    for trace in found:
        assert trace["vantage_point"]["type"] == "server"
        kinds = packets(trace)
        for way in ("sent", "received"):
            for kind in ("initial", "handshake", "1RTT"):
                assert kinds[way, kind], (way, kind)
        numbers = [
            event["data"]["header"]["packet_number"]
            for event in trace["events"]
            if event["name"] == "transport:packet_sent" and event["data"]["header"]["packet_type"] == "1RTT"
        ]
        assert numbers == sorted(set(numbers))
        skipped = numbers[-1] + 1 - len(numbers)  # on purpose, against optimistic acknowledgements
        assert skipped <= 1 + len(numbers) // 16  # nothing went around it
        times = [event["time"] for event in trace["events"]]
        assert times == sorted(times)
        assert [event["name"] for event in trace["events"]].count("connectivity:connection_closed") == 1
    sent = sum(
        frame["length"]
        for trace in found
        for event in trace["events"]
        if event["name"] == "transport:packet_received"
        for frame in event["data"]["frames"]
        if frame["frame_type"] == "stream"
    )
    assert sent > 3 * len(payload)
    for text in contents(folder):
        for word in (secret, secret.encode().hex(), "payload-that", "jwt", "/room", "reset_token"):
            assert word not in text


async def test_files_and_events_have_a_limit(tmp_path: Path) -> None:
    (tmp_path / "notes.qlog").write_text("somebody's own")
    limits = replace(PATIENT, qlog_files=3, qlog_events=60)
    async with logging_relay(tmp_path, config(limits=limits)) as relay, swarm(relay.port) as clients:
        for round_ in range(1, 4):
            for _ in range(4):  # one more than logged
                clients.join()
            await clients.until(lambda: len(clients.established) == 4)
            clients.leave()
            await clients.until(lambda count=4 * round_: len(clients.ended) == count)  # type: ignore[misc]
    assert (tmp_path / "notes.qlog").read_text() == "somebody's own"
    (tmp_path / "notes.qlog").unlink()
    found = traces(tmp_path)
    assert len(found) == 3
    for trace in found:
        assert 20 < len(trace["events"]) <= 60
        assert trace["events"][0]["name"] == "transport:datagrams_received"


async def test_what_is_no_connection_leaves_no_file(tmp_path: Path) -> None:
    async with logging_relay(tmp_path) as relay, swarm(relay.port) as clients:
        noise = b"\xc0\x00\x00\x00\x01\x08" + bytes(8) + b"\x08" + bytes(8) + b"\x00\x44\x96" + bytes(1174)
        clients.transport.sendto(noise, clients.target)
        cid = clients.join()
        await clients.until(lambda: cid in clients.established)
        assert relay._quic is not None
        assert relay._quic.refused["noise"] == 1
    assert len(traces(tmp_path)) == 1


async def test_the_beginning_and_the_end_are_kept(tmp_path: Path) -> None:
    directory = QlogDirectory(tmp_path, files=1, events=20)
    trace = directory.start_trace(False, b"12345678")
    assert directory.full
    for number in range(100):
        frames: list[dict[str, Any]] = []
        trace.log_event(category="transport", event="packet_received", data={"n": number, "frames": frames})
        frames += [{"frame_type": "ping"}] * (50 if number == 50 else 1)  # as aioquic does, after the event
    directory.end_trace(trace)
    trace.log_event(category="transport", event="packet_received", data={"n": 100})
    await directory.close()
    assert not directory.full
    [written] = traces(tmp_path)
    assert [event["data"]["n"] for event in written["events"]] == [0, 1, 2, 3, 4, *range(95, 100)]
    assert written["common_fields"]["dropped_events"] == 90


async def test_a_directory_that_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = QlogDirectory(tmp_path / "none", files=5, events=20)
    for number in range(3):
        trace = directory.start_trace(False, b"1234567%d" % number)
        trace.log_event(category="transport", event="packet_received", data={})
        directory.end_trace(trace)
    await directory.close()
    [record] = caplog.records
    assert record.getMessage() == f"no qlog directory={tmp_path / 'none'} reason='No such file or directory'"
