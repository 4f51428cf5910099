"""Log lines about peers without a common version."""

from __future__ import annotations

import logging

import pytest

from relay.model import incompatible
from relay.model.incompatible import IncompatiblePeers
from relay.model.pace import LOG_BURST


class Time:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_an_address_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    time = Time()
    known = IncompatiblePeers(["moq-lite-06", "moq-lite-05"], time)
    for port in range(5):
        known.met(f"192.0.2.1:{port}", "quic", ["moqt-16", "h3x"])
        known.met(f"[2001:db8::{port}]:1", "webtransport", [])
        time.now += 1_000
    assert lines(caplog) == [
        "no common version remote=192.0.2.1:0 transport=quic offered=moqt-16,h3x spoken=moq-lite-06,moq-lite-05",
        "no common version remote=[2001:db8::0]:1 transport=webtransport offered=nothing spoken=moq-lite-06,moq-lite-05",
    ]


def test_forged_addresses_write_a_few_lines(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = Time()
    known = IncompatiblePeers([], time)
    for number in range(1_000):
        known.met(f"10.0.{number // 250}.{number % 250}:1", "quic", ["x"])
    assert len(lines(caplog)) == LOG_BURST
    time.now += 3_600
    known.met("10.0.3.249:1", "quic", ["x"])
    assert len(lines(caplog)) == LOG_BURST + 1, "one that was held back is named when there is room"
    monkeypatch.setattr(incompatible, "REMEMBERED", 2)
    for number in range(10):
        time.now += 3_600
        known.met(f"10.1.0.{number}:1", "quic", ["x"])
    assert len(known._named) <= LOG_BURST + 1


def test_a_peer_cannot_make_the_line_long(caplog: pytest.LogCaptureFixture) -> None:
    known = IncompatiblePeers([], Time())
    known.met("192.0.2.1:1", "quic", ["x" * 5_000] * 5_000)
    [line] = lines(caplog)
    assert len(line) < 500
    assert line.count("xxx,") < 20
