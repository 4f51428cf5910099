"""A logged connection: the same bytes as without a log, and a log of all of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.quic.connection import CLOSED, Connection
from relay.quic.qlog import ConnectionTrace, QlogDirectory, Trace, frames_of
from relay.quic.start import Start
from tests.quic.handshaking import CLIENT, SERVER, token_of
from tests.quic.lab import (
    SECRETS,
    Hand,
    Lab,
    Network,
    Pairing,
    Recorder,
    ack_frame,
    generous,
    new_cid,
    numbers,
    stream_frame,
)

SIZE = 200_000
NETWORKS = {
    "loss": Network(loss=0.05),
    "all": Network(loss=0.02, duplicate=0.05, jitter=0.005),
    "drains": Network(loss=0.01, jitter=0.002, tick=0.004),
}


def trace_in(folder: Path, events: int = 1_000_000) -> Trace:
    return QlogDirectory(folder, files=10, events=events).start_trace(False, b"12345678")


def events_of(trace: Trace, name: str = "") -> list[dict[str, Any]]:
    return [event for event in trace.to_dict()["events"] if not name or event["name"] == name]


class Fixed(Lab):
    """Two ends with known secrets and ids, so that equal runs send equal bytes."""

    def __init__(self, pairing: Pairing, seed: int, network: Network, log: Trace | None) -> None:
        super().__init__(pairing, seed, Network())
        self.establish()
        self._flying.clear()
        self.now = 100.0
        self.dice.seed(seed)
        self.network = network
        self.sent: list[tuple[float, str, bytes]] = []
        for name, secrets, cids, address in (
            ("client", SECRETS, (b"client-1", b"server-1"), SERVER),
            ("server", SECRETS[::-1], (b"server-1", b"client-1"), CLIENT),
        ):
            end = self.ends[name]
            start = Start(
                is_client=name == "client",
                version=1,
                suite=0x1301,
                send_secret=secrets[0],
                receive_secret=secrets[1],
                host_cid=cids[0],
                host_token=b"",
                peer_cid=cids[1],
                peer_token=b"",
                peer=generous(),
                address=address,
                rtt=0.02,
                rtt_variance=0.01,
                rtt_min=0.02,
                rtt_latest=0.02,
                packet_number=0,
            )
            end.log = Recorder()
            end.handshake = None
            end.quic = Connection(
                start, end.settings, random.Random(f"{seed} {name}"), self.now, waker=end, token_of=token_of
            )
            end.quic.handler = end.log
            end.quic.mtu.enabled = True
            end.send = self._recorded(name, end.send)
        if log is not None:
            self.server.open.log_to(ConnectionTrace(log, self.now))

    def _recorded(self, name: str, send: Any) -> Any:
        def sending(now: float) -> Any:
            found = send(now)
            self.sent += [(now, name, data) for data, _ in found]
            return found

        return sending


def exchange(lab: Fixed) -> None:
    """Streams both ways, a key update of each side, datagrams, a reset, and a close."""
    dice = random.Random(7)
    up, down = dice.randbytes(SIZE), dice.randbytes(SIZE)
    lab.client.give(up)
    lab.server.give(down)
    given_up = lab.server.give(dice.randbytes(SIZE), priority=-1)
    lab.send_all()
    lab.run(lambda: len(lab.client.log.received.get(3, b"")) > SIZE / 3)
    lab.server.update_keys()
    lab.server.datagram(b"datagram" * 100)
    given_up.reset(5)
    lab.send_all()
    lab.run(lambda: 2 in lab.server.log.finished and 3 in lab.client.log.finished, within=1000)
    assert lab.server.log.received[2] == up
    assert lab.client.log.received[3] == down
    lab.client.update_keys()
    lab.send_all()
    lab.rest(3.0)
    lab.network = Network()
    lab.client.open.close(9, "the end")
    lab.send_all()
    lab.rest(0.03)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", ["ours", "pure"])
def test_a_log_changes_no_byte_and_no_time(kind: str, network: str, seed: int, tmp_path: Path) -> None:
    log = trace_in(tmp_path)
    plain, logged = (Fixed((kind, kind), seed, NETWORKS[network], trace) for trace in (None, log))
    for lab in (plain, logged):
        exchange(lab)
    assert logged.sent == plain.sent
    assert logged.server.log.received == plain.server.log.received

    # ... and each packet that the server sent is in the log.
    sent = [data for _, name, data in logged.sent if name == "server"]
    written = events_of(log, "transport:packet_sent")
    assert [event["raw"]["length"] for event in (event["data"] for event in written)] == list(map(len, sent))
    sent_numbers = [event["data"]["header"]["packet_number"] for event in written]
    assert sent_numbers == sorted(set(sent_numbers))
    lost = [event["data"]["packet_number"] for event in events_of(log, "recovery:packet_lost")]
    recovery = logged.server.open.recovery
    assert set(lost) <= set(sent_numbers)
    assert len(lost) == len(set(lost)) >= recovery.lost_packets > 0
    stream = [
        frame
        for event in written
        for frame in event["data"]["frames"]
        if frame["frame_type"] == "stream" and frame["stream_id"] == 3
    ]
    assert covered(stream) == SIZE
    assert any(frame["fin"] and frame["offset"] + frame["length"] == SIZE for frame in stream)
    updates = [event["data"]["trigger"] for event in events_of(log, "security:key_updated")]
    assert updates == ["local_update"] * 2 + ["remote_update"] * 2
    assert events_of(log, "recovery:metrics_updated")
    [closed] = events_of(log, "connectivity:connection_closed")
    assert closed["data"] == {"owner": "remote", "application_code": 9, "reason": "the end"}
    times = [event["time"] for event in events_of(log)]
    assert times == sorted(times)


def covered(frames: list[dict[str, Any]]) -> int:
    """Bytes of a stream that at least one of its frames holds."""
    reached = 0
    for start, length in sorted((frame["offset"], frame["length"]) for frame in frames):
        assert start <= reached
        reached = max(reached, start + length)
    return reached


def test_what_is_not_logged_costs_no_record() -> None:
    lab = Fixed(("ours", "ours"), 1, NETWORKS["loss"], None)
    exchange(lab)
    assert lab.server.open.trace is None
    assert not lab.server.open.recovery.lost_traced


FRAMES: dict[str, tuple[bytes, list[dict[str, Any]]]] = {
    "padding": (bytes(9), [{"frame_type": "padding"}]),
    "ping": (b"\1\1", [{"frame_type": "ping"}] * 2),
    "ack": (
        ack_frame((7, 9), (3, 3), (0, 1), delay=800),
        [{"frame_type": "ack", "ack_delay": 0.8, "acked_ranges": [[0, 1], [3, 3], [7, 9]]}],
    ),
    "ack with ecn": (
        numbers(3, 5, 0, 0, 2, 1, 2, 3) + b"\1",
        [{"frame_type": "ack", "ack_delay": 0.0, "acked_ranges": [[3, 5]]}, {"frame_type": "ping"}],
    ),
    "stream": (
        stream_frame(4, 1000, b"secret", fin=True) + b"\x08\5secret",
        [
            {"frame_type": "stream", "stream_id": 4, "offset": 1000, "length": 6, "fin": True},
            {"frame_type": "stream", "stream_id": 5, "offset": 0, "length": 6, "fin": False},
        ],
    ),
    "crypto": (
        numbers(6, 10, 6) + b"secret\1",
        [{"frame_type": "crypto", "offset": 10, "length": 6}, {"frame_type": "ping"}],
    ),
    "new token": (
        numbers(7, 6) + b"secret\1",
        [{"frame_type": "new_token", "length": 6}, {"frame_type": "ping"}],
    ),
    "reset, stop": (
        numbers(4, 8, 9, 10) + numbers(5, 8, 9),
        [
            {"frame_type": "reset_stream", "stream_id": 8, "error_code": 9, "final_size": 10},
            {"frame_type": "stop_sending", "stream_id": 8, "error_code": 9},
        ],
    ),
    "limits": (
        numbers(0x10, 70) + numbers(0x11, 4, 80) + numbers(0x12, 3) + numbers(0x13, 5),
        [
            {"frame_type": "max_data", "maximum": 70},
            {"frame_type": "max_stream_data", "stream_id": 4, "maximum": 80},
            {"frame_type": "max_streams", "maximum": 3, "stream_type": "bidirectional"},
            {"frame_type": "max_streams", "maximum": 5, "stream_type": "unidirectional"},
        ],
    ),
    "blocked": (
        numbers(0x14, 70) + numbers(0x15, 4, 80) + numbers(0x16, 3) + numbers(0x17, 5),
        [
            {"frame_type": "data_blocked", "limit": 70},
            {"frame_type": "stream_data_blocked", "stream_id": 4, "limit": 80},
            {"frame_type": "streams_blocked", "limit": 3, "stream_type": "bidirectional"},
            {"frame_type": "streams_blocked", "limit": 5, "stream_type": "unidirectional"},
        ],
    ),
    "connection ids": (
        new_cid(3, 1, b"abcdefgh", b"secret of 16 by.") + numbers(0x19, 2),
        [
            {
                "frame_type": "new_connection_id",
                "sequence_number": 3,
                "retire_prior_to": 1,
                "length": 8,
                "connection_id": b"abcdefgh".hex(),
            },
            {"frame_type": "retire_connection_id", "sequence_number": 2},
        ],
    ),
    "paths": (
        b"\x1asecret.." + b"\x1bsecret..",
        [{"frame_type": "path_challenge"}, {"frame_type": "path_response"}],
    ),
    "closes": (
        numbers(0x1C, 10, 6, 3) + b"why" + numbers(0x1D, 300, 0),
        [
            {
                "frame_type": "connection_close",
                "error_code": 10,
                "trigger_frame_type": 6,
                "error_space": "transport",
                "reason": "why",
            },
            {"frame_type": "connection_close", "error_code": 300, "error_space": "application", "reason": ""},
        ],
    ),
    "handshake done": (b"\x1e", [{"frame_type": "handshake_done"}]),
    "datagrams": (
        b"\x31\x06secret\x30secret",
        [{"frame_type": "datagram", "length": 6}, {"frame_type": "datagram", "length": 6}],
    ),
    "ack frequency": (
        numbers(0xAF, 1, 9, 25_000, 1),
        [
            {
                "frame_type": "ack_frequency",
                "sequence_number": 1,
                "ack_eliciting_threshold": 9,
                "request_max_ack_delay": 25_000,
                "reordering_threshold": 1,
            }
        ],
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames(name: str) -> None:
    plain, frames = FRAMES[name]
    assert frames_of(plain) == frames
    assert "secret" not in repr(frames_of(plain))
    assert b"secret".hex() not in repr(frames_of(plain))


def shortened() -> Iterator[bytes]:
    for plain, _ in FRAMES.values():
        for size in range(len(plain)):
            yield plain[:size]


def test_a_frame_that_ends_early_is_the_last() -> None:
    for plain in shortened():
        for frame in frames_of(plain)[:-1]:
            assert frame["frame_type"] != "unknown"
    assert frames_of(b"\1\x21\1") == [
        {"frame_type": "ping"},
        {"frame_type": "unknown", "raw_frame_type": 0x21},
    ]


def test_what_cannot_be_read_and_the_end(tmp_path: Path) -> None:
    hand = Hand().quiet()
    log = trace_in(tmp_path)
    hand.quic.log_to(ConnectionTrace(log, hand.now))
    packet = hand.seal(b"\1")
    hand.deliver(packet, packet, packet[:-1] + bytes((packet[-1] ^ 1,)))
    dropped = [event["data"] for event in events_of(log, "transport:packet_dropped")]
    assert dropped == [
        {"trigger": "duplicate", "raw": {"length": len(packet)}},
        {"trigger": "payload_decrypt_error", "raw": {"length": len(packet)}},
    ]
    hand.wait(100)
    assert hand.quic.state == CLOSED
    [closed] = events_of(log, "connectivity:connection_closed")
    assert closed["data"] == {
        "owner": "local",
        "connection_code": 0,
        "reason": "idle timeout",
        "trigger": "idle_timeout",
    }


def test_our_close_is_logged_once(tmp_path: Path) -> None:
    hand = Hand().quiet()
    log = trace_in(tmp_path)
    hand.quic.log_to(ConnectionTrace(log, hand.now))
    hand.say(numbers(0x21))
    hand.say(b"\1")
    hand.wait(10)
    [closed] = events_of(log, "connectivity:connection_closed")
    assert closed["data"] == {"owner": "local", "connection_code": 7, "reason": "unknown frame type"}
    assert events_of(log, "transport:packet_received")[0]["data"]["frames"] == [
        {"frame_type": "unknown", "raw_frame_type": 0x21},
    ]
