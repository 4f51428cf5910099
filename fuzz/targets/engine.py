"""QUIC after the handshake: any frames and packets of a peer that has the keys, beside acts of our session and time."""

from __future__ import annotations

import itertools
from typing import Any

from fuzz.source import Source
from fuzz.targets.quic import edited, frame, payload
from relay.quic import errors
from relay.quic.acks import MOST_RANGES
from relay.quic.cids import MOST_RETIRED, OURS, THEIRS
from relay.quic.connection import CLOSED, MOST_DATAGRAMS, OPEN, Connection
from relay.quic.paths import AMPLIFICATION, MOST_PATHS, MOST_RESPONSES
from relay.quic.recovery import MOST_SKIPPED
from tests.quic.lab import HOST_CID, Hand, Packet, ack_frame, generous, new_cid, numbers, stream_frame

WINDOW = 1 << 16
STREAMS = 16
FINAL = 3000  # bytes of each stream of a peer that behaves
OPENED = 40  # most streams that our session opens
ADDRESSES = 3  # besides the first


class Play:
    """A connection, its session and its peer, all played by the input."""

    def __init__(self, source: Source) -> None:
        self.source = source
        flags = source.byte()
        self.hand = Hand(
            is_client=bool(flags & 1),
            peer=generous(
                max_data=50_000,
                max_stream_data_uni=20_000,
                max_streams_uni=8,
                min_ack_delay=0.001 if flags & 2 else -1.0,
                max_datagram_frame_size=0 if flags & 4 else 65535,
                active_connection_id_limit=2 + (flags >> 3 & 7),
            ),
            seed=source.byte(),
            rtt=0.0 if flags & 0x40 else 0.05,
            stream_window=WINDOW // 2,
            connection_window=WINDOW,
            max_streams_bidi=STREAMS,
            max_streams_uni=STREAMS,
            congestion=source.pick(("cubic", "reno", "bbr")),
            native=bool(flags & 0x80),
            keep_alive=4.0 if source.flag() else 0.0,
        )
        self.first = self.hand.address
        self.mine: list[Any] = []  # streams of our session
        self.late: list[bytes] = []  # packets that may come again
        self.received: dict[Any, int] = {}  # bytes from each address
        self.sent: dict[Any, int] = {}
        self.validated = {self.first}
        self.issued = 0  # ids of the peer
        self.retired: set[int] = set()  # ids of ours
        self.known: set[bytes] = {HOST_CID}  # ids of ours that the peer has seen

    @property
    def quic(self) -> Connection:
        return self.hand.quic

    def run(self) -> None:
        steps = (
            self.peer,
            self.peer,
            self.peer_honest,
            self.session,
            self.peer_acks,
            self.time,
            self.peer_train,
        )
        while self.source and self.quic.state != CLOSED:
            self.source.pick(steps)()
            if self.source.byte() % 4:
                self.flush()
            self.check()
        self.finish()

    # -- the peer

    def address(self) -> Any:
        number = self.source.byte() % 16
        if not 1 <= number <= ADDRESSES:
            return self.first
        return ("203.0.113.1" if number == 1 else self.first[0], 4000 + number)

    def deliver(self, *packets: bytes, address: Any) -> None:
        self.received[address] = self.received.get(address, 0) + sum(map(len, packets))
        self.late = [*self.late, *packets][-4:]
        self.hand.deliver(*packets, address=address)

    def sealed(self, *frames: bytes) -> bytes:
        source = self.source
        number = self.hand.number
        match source.byte() % 16:
            case 1:
                number += 1 + source.byte() % 3
            case 2:
                number = max(0, number - source.byte() % 40)
            case 3:
                self.hand.keys.update()
        cid = source.pick([HOST_CID, *sorted(self.known)][:256]) if source.byte() % 8 == 1 else b""
        flags = 0x08 if number % 128 == 1 and source.byte() % 32 == 1 else 0
        return self.hand.seal(*frames, number=number, cid=cid, flags=flags)

    def peer(self) -> None:
        """Any frames, sealed; sometimes damaged, repeated, or from another address."""
        source = self.source
        packets = []
        for _ in range(1 + source.byte() % 3):
            match source.byte() % 16:
                case 1 if self.late:
                    packets.append(source.pick(self.late))
                case 2 if source.byte() % 4 == 1:
                    packets.append(edited(source, self.sealed(payload(source, self.quic._number))) or b"\x40")
                case 3:
                    packets.append(b"\x40" + source.chunk())
                case 4 if source.byte() % 8 == 1:
                    packets.append(self.sealed(payload(source, self.quic._number)))
                case _:
                    frames = [self.plausible() for _ in range(1 + source.byte() % 5)]
                    packets.append(self.sealed(b"".join(frames)[:1200]))
        self.deliver(*packets, address=self.address())

    def plausible(self) -> bytes:
        """A frame that an honest peer may send, as a rule."""
        source, quic = self.source, self.quic
        number = source.byte()
        theirs = 4 * (number % STREAMS) + (2 if number & 0x20 else 0) + (1 if quic.is_client else 0)
        both = [stream.id for stream in self.mine if stream.id >= 0 and not stream.unidirectional]
        ours = source.pick(both) if both else theirs & ~2
        match source.byte() % 16:
            case 0:
                return numbers(errors.RESET_STREAM, theirs, source.byte(), FINAL)
            case 1:
                return numbers(errors.STOP_SENDING, ours, source.byte())
            case 2:
                return numbers(errors.MAX_STREAM_DATA, ours, source.byte() * 400)
            case 3:
                return numbers(errors.MAX_DATA, source.byte() * 1000)
            case 4:
                return numbers(errors.MAX_STREAMS_UNI - source.byte() % 2, source.byte() % OPENED)
            case 5:
                self.issued += 1 + source.byte() % 8 // 7
                return new_cid(self.issued, max(0, self.issued - 1 - source.byte() % 4))
            case 6:
                known = [each for each, cid in quic.host_cids._by_number.items() if cid in self.known]
                unused = [each for each in known if each and each not in self.retired]
                if not unused:
                    return b"\x01"
                self.retired.add(source.pick(unused))
                return numbers(errors.RETIRE_CONNECTION_ID, max(self.retired))
            case 7:
                return b"\x1a" + source.take(8).ljust(8, b"p")
            case 8:
                return b"\x31\x04data"
            case 9:
                return b"\x01" if source.flag() else numbers(source.pick((0x14, 0x16, 0x17)), source.byte())
            case 10 if quic.is_client:
                return b"\x1e"
            case _:
                offset = source.byte() * (12 if source.flag() else 1)
                stop = min(FINAL, offset + source.byte())
                data = bytes(index & 0xFF for index in range(offset, stop))
                return stream_frame(theirs if source.byte() % 4 else ours, offset, data, fin=stop == FINAL)

    def peer_honest(self) -> None:
        """What keeps a connection alive and moving: large packets, answers to challenges, credit."""
        source, hand = self.source, self.hand
        frames = []
        match source.byte() % 6:
            case 0:
                found = hand.frames(errors.PATH_CHALLENGE)[-1 - source.byte() % 2 :]
                for asked in found[:1]:
                    frames.append(b"\x1b" + asked[1])
                    asker = next(packet for packet in hand.heard if asked in packet.frames)
                    self.validated.add(asker.address)
            case 1:
                table = self.quic.streams
                frames.append(numbers(errors.MAX_DATA, table.send_limit + 30_000))
            case 2:
                frames.append(self.plausible())
            case 3:
                frames += [self.plausible() for _ in range(source.byte() % 4)]
            case 4 if source.byte() % 16 == 1:
                frames.append(frame(source, self.quic._number))
            case _:
                frames.append(b"\x01")
        self.deliver(self.sealed(*frames, b"\x01", bytes(source.byte() * 4)), address=self.address())

    def peer_acks(self) -> None:
        """Truly, with gaps."""
        ranges = self.hand.ranges()
        if self.source.byte() % 4 == 1:
            ranges = [part for part in ranges if self.source.byte() % 4] or ranges
        if ranges:
            self.deliver(self.sealed(ack_frame(*ranges[:20])), address=self.first)

    def peer_train(self) -> None:
        """Adjacent data of one stream, merged."""
        source, hand = self.source, self.hand
        stream_id = 4 * (source.byte() % STREAMS) + 2 + (1 if self.quic.is_client else 0)
        offset, size = source.byte(), 1 + source.byte()
        packets = []
        for _ in range(1 + source.byte() % 6):
            packets.append(
                self.sealed(stream_frame(stream_id, offset, bytes(size), fin=source.byte() % 64 == 1))
            )
            offset += size + source.byte() % 16 // 15
        address = self.address()
        buffer = memoryview(b"".join(packets))
        each = len(packets[0])
        self.received[address] = self.received.get(address, 0) + len(buffer)
        at = 0
        while at < len(buffer):
            taken = self.quic.receive_train(buffer[at:], each, address, hand.now)
            if not taken:
                self.quic.receive(bytes(buffer[at : at + each]), address, hand.now)
            at += each * max(1, taken)
        self.quic.end_of_drain(hand.now)

    # -- our side

    def session(self) -> None:
        source, quic = self.source, self.quic
        streams = [*self.mine, *self.hand.log.streams.values()]
        choice = source.byte() % 11
        if choice == 0 and len(self.mine) < OPENED:
            self.mine.append(quic.open_stream(source.byte() % 4, unidirectional=source.flag()))
            self.mine[-1].write([source.chunk(), bytes(source.byte() * 40)], fin=source.flag())
        elif choice == 1:
            quic.send_datagram(source.chunk())
        elif choice == 2:
            quic.ping()
        elif choice == 3:
            quic.update_keys()
        elif choice == 4 and source.byte() % 8 == 1:
            quic.close(source.byte(), "bye", transport=source.flag())
        elif choice > 4 and streams:
            stream = source.pick(streams)
            match choice:
                case 5:
                    stream.reset(source.byte())
                case 6:
                    stream.stop(source.byte())
                case 7:
                    stream.prioritize(source.byte() % 4)
                case _:
                    stream.write([source.chunk(), source.chunk()], fin=source.byte() % 4 == 1)

    def time(self) -> None:
        before = len(self.hand.heard)
        self.hand.wait((self.source.byte() + 1) ** 2 / 4096)
        self.count(self.hand.heard[before:])

    def flush(self) -> None:
        self.count(self.hand.flush())

    def count(self, packets: list[Packet]) -> None:
        for packet in packets:
            self.sent[packet.address] = self.sent.get(packet.address, 0) + packet.size
            assert packet.size <= 1200, packet.size
            for found in packet.frames:
                if found[0] == errors.NEW_CONNECTION_ID:
                    cid: Any = found[3]
                    self.known.add(cid)
        used = [packet.number for packet in self.hand.heard[-len(packets) - 1 :]]
        assert used == sorted(set(used)) or not packets or self.quic.state != OPEN, used

    # -- what holds at any time

    def check(self) -> None:
        quic = self.quic
        recovery, streams = quic.recovery, quic.streams
        records = recovery.sent
        in_flight = sum(record.bytes for record in records if not record.probe)
        assert recovery.congestion.in_flight == in_flight, (recovery.congestion.in_flight, in_flight)
        assert recovery.outstanding == sum(record.last + 1 - record.first for record in records)
        assert all(one.last < two.first for one, two in itertools.pairwise(records))
        assert len(recovery.skipped) <= MOST_SKIPPED
        assert len(quic.received.older) <= MOST_RANGES
        assert len(streams) <= 2 * STREAMS + OPENED
        assert streams.send_used <= streams.send_limit
        buffered = 0
        for stream in (*self.mine, *(streams.get(number) for number in range(4 * STREAMS))):
            if stream is None:
                continue
            out, into = stream.out, stream.into
            assert 0 <= out.acked <= out.sent <= out.written
            assert out.sent <= out.limit
            assert out.reset_code >= 0 or 0 <= out.cursor <= len(out.chunks)
            assert out.reset_code >= 0 or sum(map(len, out.chunks)) >= out.written - out.acked
            assert all(start < stop <= out.sent for start, stop in out.lost)
            if not stream.unidirectional or stream.opened_by_peer:
                assert into.offset <= into.highest <= into.limit
            buffered += into.buffered
        assert buffered <= 2 * WINDOW
        assert len(quic._frames) <= 4 * STREAMS + 4 * OPENED + 2 * MOST_RETIRED + 200, len(quic._frames)
        assert len(quic._datagrams) <= MOST_DATAGRAMS
        assert len(quic._other_paths) <= MOST_PATHS + 1
        assert all(len(path.responses) <= MOST_RESPONSES for path in quic._other_paths)
        assert len(quic.host_cids.all()) <= OURS
        assert len(quic.peer_cids._known) <= 2 * THEIRS
        assert len(quic.peer_cids.retiring) <= MOST_RETIRED + THEIRS
        for address, size in self.sent.items():
            assert address in self.validated or size <= AMPLIFICATION * self.received.get(address, 0), address
        if quic.state != OPEN:
            assert self.hand.log.close_event is quic.close_event

    def finish(self) -> None:
        """The peer falls silent: in the end nothing is left."""
        before = len(self.hand.heard)
        for _ in range(20):
            if self.quic.state == CLOSED:
                break
            self.flush()
            before = len(self.hand.heard)
            self.hand.wait(100.0)
        self.count(self.hand.heard[before:])
        assert self.quic.state == CLOSED
        assert self.hand.log.close_event is not None
        self.quic.release()
        assert self.quic.flush(self.hand.now) == []


def connection(data: bytes) -> None:
    """Frames, packets, acts and time in any order: limits and counts hold, and the connection ends."""
    Play(Source(data)).run()


TARGETS = {"quic-engine": connection}
