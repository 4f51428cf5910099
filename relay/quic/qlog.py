"""qlog files: the packets of each QUIC connection, for qvis and other tools.

One file per closed connection, limited in number and events. aioquic logs the handshake, `ConnectionTrace` what
follows. Must never record payloads and tokens, nor change what a connection does.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from aioquic.quic.logger import QLOG_VERSION, QuicLogger, QuicLoggerTrace
from aioquic.quic.packet import QuicTransportParameters

from relay.logger import get_logger
from relay.quic import errors
from relay.quic.acks import DELAY_EXPONENT
from relay.quic.handler import Close
from relay.quic.handler import Trace as PacketTrace
from relay.quic.recovery import Recovery, Sent
from relay.quic.reset_tokens import TOKEN
from relay.quic.varint import read_varint

logger = get_logger("relay.transport")

NAME: Final = re.compile(r"[0-9a-f]{16,40}\.qlog")
"""Our file names, by the client's first connection id. Other files are left alone."""


class Trace(QuicLoggerTrace):
    """The events of one connection. Beyond `most`, the first half and the newest half are kept."""

    def __init__(self, directory: QlogDirectory, *, is_client: bool, odcid: bytes, most: int) -> None:
        super().__init__(is_client=is_client, odcid=odcid)
        self.name = f"{odcid.hex()}.qlog"
        self.directory = directory
        self.newest = 0.0  # of the newest event in milliseconds
        self.received = False  # a packet of the peer was decrypted
        self.over = False
        self._half = most // 2
        self._first: list[dict[str, Any]] = []
        self._first_weight = 0
        self._last: deque[tuple[int, dict[str, Any]]] = deque()
        self._last_weight = 0
        self._dropped = 0
        self._open: dict[str, Any] | None = None  # the newest, whose frames may still be filled in

    def log_event(self, *, category: str, event: str, data: dict[str, Any]) -> None:
        """Log an event of the handshake, whose frames may be filled in until the next one."""
        if self.over:
            return
        super().log_event(category=category, event=event, data=data)
        self.add(self._events.pop())

    def add(self, event: dict[str, Any]) -> None:
        self._settle()
        self.received = self.received or event["name"] == "transport:packet_received"
        self.newest = event["time"]
        self._open = event

    def encode_transport_parameters(self, owner: str, parameters: QuicTransportParameters) -> dict[str, Any]:
        """Omit the token: who knows it can end the connection."""
        data = super().encode_transport_parameters(owner, parameters)
        data.pop("stateless_reset_token", None)
        return data

    def to_dict(self) -> dict[str, Any]:
        self._settle()
        trace = super().to_dict()
        trace["events"] = [*self._first, *(event for _, event in self._last)]
        if self._dropped:
            trace["common_fields"]["dropped_events"] = self._dropped
        return trace

    def _settle(self) -> None:
        """Store the newest event. Its weight counts frames and ranges: a packet may be full of them."""
        event, self._open = self._open, None
        if event is None:
            return
        weight = 1 + sum(map(_weight, event["data"].values()))
        if not self._last and self._first_weight + weight <= self._half:
            self._first.append(event)
            self._first_weight += weight
            return
        self._last.append((weight, event))
        self._last_weight += weight
        while self._last_weight > self._half:
            self._last_weight -= self._last.popleft()[0]
            self._dropped += 1


class ConnectionTrace(PacketTrace):
    """The events of our connection, after those of its handshake."""

    def __init__(self, events: Trace, now: float, ack_delay_exponent: int = DELAY_EXPONENT) -> None:
        """`ack_delay_exponent` is the peer's."""
        self._events = events
        self._exponent = ack_delay_exponent
        self._offset = (
            events.newest - 1000 * now
        )  # milliseconds from our clock to that of the handshake's events
        self._metrics: dict[str, float] = {}

    def sent(self, now: float, number: int, size: int, plain: bytes) -> None:
        self._packet(now, "packet_sent", number, size, frames_of(plain))

    def sent_train(self, now: float, record: Sent, stream_id: int) -> None:
        for number in range(record.first, record.last + 1):
            last = number == record.last
            start = record.start + (number - record.first) * record.step
            stop = record.stop if last else start + record.step
            frame = _stream_frame(stream_id, start, stop - start, fin=last and record.fin)
            self._packet(now, "packet_sent", number, record.last_size if last else record.size, [frame])

    def received(self, now: float, number: int, size: int, plain: bytes) -> None:
        self._packet(now, "packet_received", number, size, frames_of(plain, self._exponent))

    def lost(self, now: float, first: int, last: int) -> None:
        for number in range(first, last + 1):
            self._add(now, "recovery:packet_lost", {"type": "1RTT", "packet_number": number})

    def dropped(self, now: float, size: int, reason: str) -> None:
        self._add(now, "transport:packet_dropped", {"trigger": reason, "raw": {"length": size}})

    def key_updated(self, now: float, *, by_peer: bool) -> None:
        trigger = "remote_update" if by_peer else "local_update"
        for key in ("client_1rtt_secret", "server_1rtt_secret"):
            self._add(now, "security:key_updated", {"key_type": key, "trigger": trigger})

    def metrics(self, now: float, recovery: Recovery) -> None:
        """Log the ones that have changed."""
        metrics: dict[str, float] = {
            "bytes_in_flight": recovery.congestion.in_flight,
            "cwnd": recovery.congestion.window,
            "latest_rtt": 1000 * recovery.rtt_latest,
            "min_rtt": 1000 * recovery.rtt_min,
            "smoothed_rtt": 1000 * recovery.rtt,
            "rtt_variance": 1000 * recovery.rtt_variance,
        }
        former, self._metrics = self._metrics, metrics
        changed = {name: value for name, value in metrics.items() if value != former.get(name)}
        if changed:
            self._add(now, "recovery:metrics_updated", changed)

    def closed(self, now: float, close: Close) -> None:
        data: dict[str, Any] = {"owner": "remote" if close.by_peer else "local", "reason": close.reason}
        data["application_code" if close.application else "connection_code"] = close.code
        if close.idle or close.reset:
            data["trigger"] = "idle_timeout" if close.idle else "stateless_reset"
        self._add(now, "connectivity:connection_closed", data)

    def end(self) -> None:
        self._events.directory.end_trace(self._events)

    def _packet(self, now: float, event: str, number: int, size: int, frames: list[dict[str, Any]]) -> None:
        header = {"packet_number": number, "packet_type": "1RTT"}
        self._add(now, f"transport:{event}", {"frames": frames, "header": header, "raw": {"length": size}})

    def _add(self, now: float, name: str, data: dict[str, Any]) -> None:
        self._events.add({"data": data, "name": name, "time": self._offset + 1000 * now})


_FRAMES: Final[dict[int, tuple[str, tuple[str, ...]]]] = {
    errors.PING: ("ping", ()),
    errors.RESET_STREAM: ("reset_stream", ("stream_id", "error_code", "final_size")),
    errors.STOP_SENDING: ("stop_sending", ("stream_id", "error_code")),
    errors.CRYPTO: ("crypto", ("offset", "length")),
    errors.NEW_TOKEN: ("new_token", ("length",)),
    errors.MAX_DATA: ("max_data", ("maximum",)),
    errors.MAX_STREAM_DATA: ("max_stream_data", ("stream_id", "maximum")),
    errors.MAX_STREAMS_BIDI: ("max_streams", ("maximum",)),
    errors.MAX_STREAMS_UNI: ("max_streams", ("maximum",)),
    errors.DATA_BLOCKED: ("data_blocked", ("limit",)),
    errors.STREAM_DATA_BLOCKED: ("stream_data_blocked", ("stream_id", "limit")),
    errors.STREAMS_BLOCKED_BIDI: ("streams_blocked", ("limit",)),
    errors.STREAMS_BLOCKED_UNI: ("streams_blocked", ("limit",)),
    errors.NEW_CONNECTION_ID: ("new_connection_id", ("sequence_number", "retire_prior_to")),
    errors.RETIRE_CONNECTION_ID: ("retire_connection_id", ("sequence_number",)),
    errors.PATH_CHALLENGE: ("path_challenge", ()),
    errors.PATH_RESPONSE: ("path_response", ()),
    errors.TRANSPORT_CLOSE: ("connection_close", ("error_code", "trigger_frame_type", "length")),
    errors.APPLICATION_CLOSE: ("connection_close", ("error_code", "length")),
    errors.HANDSHAKE_DONE: ("handshake_done", ()),
    errors.IMMEDIATE_ACK: ("immediate_ack", ()),
    errors.DATAGRAM: ("datagram", ()),
    errors.DATAGRAM | 1: ("datagram", ("length",)),
    errors.ACK_FREQUENCY: (
        "ack_frequency",
        ("sequence_number", "ack_eliciting_threshold", "request_max_ack_delay", "reordering_threshold"),
    ),
}
"""The frames besides STREAM and ACK."""

_STREAM_TYPES: Final = {
    errors.MAX_STREAMS_BIDI: "bidirectional",
    errors.MAX_STREAMS_UNI: "unidirectional",
    errors.STREAMS_BLOCKED_BIDI: "bidirectional",
    errors.STREAMS_BLOCKED_UNI: "unidirectional",
}


def frames_of(plain: bytes, ack_delay_exponent: int = DELAY_EXPONENT) -> list[dict[str, Any]]:
    """The frames of a packet, without payload and tokens. An invalid one is `unknown`, and ends the list."""
    found: list[dict[str, Any]] = []
    at = 0
    try:
        while at < len(plain):
            frame, at = _read_frame(plain, at, ack_delay_exponent)
            found.append(frame)
    except IndexError:
        found.append({"frame_type": "unknown", "raw_frame_type": plain[at]})
    return found


def _read_frame(plain: bytes, at: int, ack_delay_exponent: int) -> tuple[dict[str, Any], int]:
    """A frame, and the position after it. Raises IndexError for an invalid one."""
    kind, begin = read_varint(plain, at)
    if kind == errors.PADDING:
        return {"frame_type": "padding"}, len(plain) - len(plain[at:].lstrip(b"\0"))
    if kind & 0xF8 == errors.STREAM:
        frame, at = _read_stream(plain, kind, begin)
    elif kind in (errors.ACK, errors.ACK_ECN):
        frame, at = _read_ack(plain, kind, begin, ack_delay_exponent)
    else:
        frame, at = _read_other(plain, kind, begin)
    if at > len(plain):
        raise IndexError
    return frame, at


def _stream_frame(stream_id: int, offset: int, length: int, *, fin: bool) -> dict[str, Any]:
    return {"frame_type": "stream", "stream_id": stream_id, "offset": offset, "length": length, "fin": fin}


def _read_stream(plain: bytes, kind: int, at: int) -> tuple[dict[str, Any], int]:
    stream_id, at = read_varint(plain, at)
    offset = 0
    if kind & errors.STREAM_OFFSET:
        offset, at = read_varint(plain, at)
    length = len(plain) - at
    if kind & errors.STREAM_LENGTH:
        length, at = read_varint(plain, at)
    return _stream_frame(stream_id, offset, length, fin=kind & errors.STREAM_FIN != 0), at + length


def _read_ack(plain: bytes, kind: int, at: int, exponent: int) -> tuple[dict[str, Any], int]:
    high, at = read_varint(plain, at)
    delay, at = read_varint(plain, at)
    count, at = read_varint(plain, at)
    length, at = read_varint(plain, at)
    ranges = [[high - length, high]]
    for _ in range(count):
        gap, at = read_varint(plain, at)
        length, at = read_varint(plain, at)
        high = ranges[-1][0] - gap - 2
        ranges.append([high - length, high])
    if kind == errors.ACK_ECN:
        for _ in range(3):
            _, at = read_varint(plain, at)
    return {"frame_type": "ack", "ack_delay": (delay << exponent) / 1000, "acked_ranges": ranges[::-1]}, at


def _read_other(plain: bytes, kind: int, at: int) -> tuple[dict[str, Any], int]:
    if kind not in _FRAMES:
        raise IndexError
    name, numbers = _FRAMES[kind]
    frame: dict[str, Any] = {"frame_type": name}
    for number in numbers:
        frame[number], at = read_varint(plain, at)
    if kind in _STREAM_TYPES:
        frame["stream_type"] = _STREAM_TYPES[kind]
    elif kind in (errors.PATH_CHALLENGE, errors.PATH_RESPONSE):
        at += 8
    elif kind == errors.NEW_CONNECTION_ID:
        length = plain[at]
        frame["length"] = length
        frame["connection_id"] = plain[at + 1 : at + 1 + length].hex()
        at += 1 + length + TOKEN
    elif kind in (errors.TRANSPORT_CLOSE, errors.APPLICATION_CLOSE):
        end = at + frame.pop("length")
        frame["error_space"] = "transport" if kind == errors.TRANSPORT_CLOSE else "application"
        frame["reason"] = plain[at:end].decode("utf-8", "replace")
        at = end
    elif kind == errors.DATAGRAM:
        frame["length"] = len(plain) - at
        at = len(plain)
    else:
        at += frame.get("length", 0)
    return frame, at


def _weight(value: object) -> int:
    if isinstance(value, dict):
        return sum(map(_weight, value.values()))
    if isinstance(value, list):
        return sum(1 + _weight(each) for each in value)
    return 0


class QlogDirectory(QuicLogger):
    """The files, and the connections being logged. A thread writes."""

    def __init__(self, directory: Path, *, files: int, events: int) -> None:
        """Keep `files` files, log as many connections at a time, with `events` events each."""
        super().__init__()
        self._directory = directory
        self._files = files
        self._events = events
        self._live: set[Trace] = set()  # of open connections, or not yet written
        self._writer = ThreadPoolExecutor(1, "qlog")
        self._failing = False

    @property
    def full(self) -> bool:
        return len(self._live) >= self._files

    def start_trace(self, is_client: bool, odcid: bytes) -> Trace:  # noqa: FBT001 - as the original
        trace = Trace(self, is_client=is_client, odcid=odcid, most=self._events)
        self._live.add(trace)
        return trace

    def end_trace(self, trace: QuicLoggerTrace) -> None:
        """Write the file, unless the closed connection received only noise."""
        assert isinstance(trace, Trace)
        trace.over = True
        if not trace.received:
            self._live.discard(trace)
            return

        def done(_: Future[None]) -> None:
            self._live.discard(trace)

        self._writer.submit(self._write, trace).add_done_callback(done)

    async def close(self) -> None:
        """Wait until everything is written."""
        await asyncio.get_running_loop().run_in_executor(None, self._writer.shutdown)

    def _write(self, trace: Trace) -> None:
        document = {"qlog_format": "JSON", "qlog_version": QLOG_VERSION, "traces": [trace.to_dict()]}
        path = self._directory / trace.name
        unfinished = path.with_suffix(".part")
        try:
            unfinished.write_text(json.dumps(document, separators=(",", ":")))
            unfinished.replace(path)
            self._prune()
        except OSError as error:
            if not self._failing:
                logger.warning("no qlog", directory=self._directory, reason=error.strerror or error)
            self._failing = True
        else:
            self._failing = False

    def _prune(self) -> None:
        with os.scandir(self._directory) as entries:
            found = [entry for entry in entries if NAME.fullmatch(entry.name)]
        if len(found) > self._files:
            found.sort(key=lambda entry: entry.stat().st_mtime_ns)
            for entry in found[: len(found) - self._files]:
                Path(entry.path).unlink(missing_ok=True)
