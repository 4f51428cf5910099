"""UDP sockets for QUIC and their send queues. Must never block."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from relay.logger import Seconds, get_logger
from relay.model.address import readable_address
from relay.model.pace import LogThrottle
from relay.quic import offload

logger = get_logger(__name__)

Address: TypeAlias = tuple[Any, ...]
"""An address as the kernel gives it, (host, port) or (host, port, flow, scope). On a wildcard socket the last
element is the `offload.Source` of answers: QUIC's path is both addresses (RFC 9000, 9).
"""

DRAIN_DATAGRAMS = 256  # per socket and loop turn: a flood leaves time for other work
DRAIN_TIME = 0.01  # seconds of receiving after which the turn ends early
SEND_QUEUE = 1024  # datagrams for a full socket; beyond it the newest is dropped, as in a router
SEND_FLUSH = 64  # datagrams per turn once the socket is writable
MAX_DATAGRAM = 65536

REFUSAL_TIME = 60.0  # seconds without segmentation to a destination after the kernel's refusal: routes change
MOST_REFUSING = 10_000  # destinations; beyond it the oldest is retried early
CERTAIN = 8  # after so many single reads in a row, the next so many skip the second read


class Receiver(Protocol):
    """A receiver of datagrams."""

    def on_datagram(self, sock: Sender, data: bytes, address: Address) -> None: ...

    def on_merged(self, sock: Sender, view: memoryview, each: int, address: Address) -> None:
        """Datagrams of `each` bytes, the last one possibly shorter. `view` is reused after the call."""


class Sender(Protocol):
    """A UDP socket, as drivers see it."""

    unfragmented: bool
    closed: bool

    @property
    def address(self) -> tuple[str, int]: ...
    def send(self, data: bytes, address: Address) -> None: ...
    def send_all(self, buffers: list[bytes], size: int, address: Address) -> None: ...


class UdpSocket:
    """Non-blocking, on the event loop.

    Size: the state of receiving, sending and offload is flat, because every packet of every connection passes
    here.
    """

    def __init__(
        self,
        sock: socket.socket,
        receiver: Receiver,
        *,
        buffer: int,
        now: Callable[[], float],
        answers: bool = False,
    ) -> None:
        """`answers`: a bound socket with many peers, which sends from the address that received."""
        self.sock = sock
        self.dropped = 0  # datagrams, the queue was full
        self.failed = 0  # datagrams that the kernel refused
        self.segments_refused = 0
        self.on_error: Callable[[OSError], None] | None = None  # of receiving: the peer's port is closed
        self.on_drained: Callable[[], None] | None = None
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._receiver = receiver
        self._waiting: deque[tuple[bytes, Address]] = deque()
        self._buffer = bytearray(MAX_DATAGRAM)
        self._view = memoryview(self._buffer)
        self._views = [self._view]
        self._connected = False
        self._alone = 0  # consecutive single reads, less those skipped since
        self.closed = False
        self.unfragmented = offload.forbid_fragments(sock)  # datagrams above the path MTU are dropped
        self._segments = offload.can_segment(sock)
        self._refusing: dict[Address, float] = {}  # peers without segmentation, and until when
        self._refusals = LogThrottle()
        self._merged = offload.receive_merged(sock)
        self._sources = answers and offload.receive_destinations(sock)
        """The last element of each address is the source of answers."""
        sock.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            try:
                sock.setsockopt(socket.SOL_SOCKET, option, buffer)
            except OSError:
                logger.debug("the kernel refuses a socket buffer", bytes=buffer)
        self._loop.add_reader(sock.fileno(), self._readable)

    @property
    def address(self) -> tuple[str, int]:
        name = self.sock.getsockname()
        return str(name[0]), int(name[1])

    def connect(self, address: Address) -> Address:
        """Connect to one peer, and receive ICMP errors. Returns the peer's address as received from."""
        self.sock.connect(address)
        self._connected = True
        peer: Address = self.sock.getpeername()
        return peer

    def send(self, data: bytes, address: Address) -> None:
        if self._waiting:
            self._enqueue(data, address)
            return
        try:
            self._send(data, address)
        except (BlockingIOError, InterruptedError):
            self._enqueue(data, address)
            self._loop.add_writer(self.sock.fileno(), self._writable)
        except OSError as error:
            self._failed(error)

    def send_all(self, buffers: list[bytes], size: int, address: Address) -> None:
        """Datagrams of `size` bytes, a buffer's last maybe less: in one call if the kernel segments."""
        if len(buffers) == 1:
            if len(buffers[0]) <= size:
                self.send(buffers[0], address)
                return
            if self._send_batch(buffers, size, address):
                return
        for batch in offload.batches(buffers, size):
            alone = len(batch) == 1 and len(batch[0]) <= size
            if alone or not self._send_batch(batch, size, address):
                for buffer in batch:
                    for start in range(0, len(buffer), size):
                        self.send(buffer[start : start + size], address)

    def _send_batch(self, batch: list[bytes], size: int, address: Address) -> bool:
        """Returns False if the socket is full."""
        if not self._segments or self._waiting or (self._refusing and self._refuses(address)):
            return False
        message = offload.segment_message(size)
        try:
            if self._connected:
                self.sock.sendmsg(batch, message)
            elif self._sources:
                self.sock.sendmsg(batch, message + address[-1], 0, address[:-1])
            else:
                self.sock.sendmsg(batch, message, 0, address)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if error.errno in offload.REFUSALS:
                self._note_refusal(address, error)
                return False
            self._failed(error)
        return True

    def _refuses(self, address: Address) -> bool:
        """The kernel refused segmentation to it recently."""
        until = self._refusing.get(address)
        if until is None:
            return False
        if self._now() < until:
            return True
        del self._refusing[address]
        return False

    def _note_refusal(self, address: Address, error: OSError) -> None:
        # The device of one route cannot segment, or not packets this large; others can.
        self.segments_refused += 1
        now = self._now()
        if len(self._refusing) >= MOST_REFUSING:
            del self._refusing[next(iter(self._refusing))]
        self._refusing[address] = now + REFUSAL_TIME
        if self._refusals.passes(now):
            text, remote = "the kernel does not segment", readable_address(*address[:2])
            logger.info(text, remote=remote, reason=error.strerror, retry=Seconds(REFUSAL_TIME))

    def _send(self, data: bytes, address: Address) -> None:
        if self._connected:
            self.sock.send(data)
        elif self._sources:
            self.sock.sendmsg((data,), address[-1], 0, address[:-1])
        else:
            self.sock.sendto(data, address)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self.sock.fileno())
        self._loop.remove_writer(self.sock.fileno())
        self._waiting.clear()
        self._views.clear()
        self._view.release()
        self.sock.close()

    def _enqueue(self, data: bytes, address: Address) -> None:
        if len(self._waiting) >= SEND_QUEUE:
            self.dropped += 1
        else:
            self._waiting.append((data, address))

    def _failed(self, error: OSError) -> None:
        self.failed += 1  # unreachable peer, datagram too large, firewall: QUIC treats it as loss
        if error.errno == errno.ENOBUFS:
            self.dropped += 1
        if self.on_error is not None:
            self.on_error(error)

    def _writable(self) -> None:
        for _ in range(min(SEND_FLUSH, len(self._waiting))):
            data, address = self._waiting[0]
            try:
                self._send(data, address)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._failed(error)
                if self.closed:
                    return
            self._waiting.popleft()
        if not self._waiting:
            self._loop.remove_writer(self.sock.fileno())

    def _readable(self) -> None:
        receive = self._receive_merged if self._merged or self._sources else self._receive_one
        taken = reads = 0
        end = self._now() + DRAIN_TIME  # uvloop's clock stands still within a turn
        while taken < DRAIN_DATAGRAMS:
            try:
                taken += receive()
                reads += 1
                if self._alone >= CERTAIN:
                    # Under light load datagrams come one by one; the loop calls again if there are more.
                    self._alone += 1
                    if self._alone >= 2 * CERTAIN:
                        self._alone = CERTAIN - 1
                    break
            except (BlockingIOError, InterruptedError):
                self._alone = self._alone + 1 if reads == 1 else 0
                break
            except OSError as error:
                taken += 1  # an ICMP error for an earlier datagram; the socket itself works
                if self.on_error is not None:
                    self.on_error(error)
            if self.closed:
                return
            if self._now() > end:
                break
        if self.on_drained is not None:
            self.on_drained()

    def _receive_one(self) -> int:
        size, address = self.sock.recvfrom_into(self._view)
        if size:
            self._receiver.on_datagram(self, bytes(self._view[:size]), address)
        return 1

    def _receive_merged(self) -> int:
        size, messages, _, address = self.sock.recvmsg_into(self._views, offload.CONTROL_SPACE)
        each = 0
        if messages:
            each, source = offload.read_messages(messages)
            if self._sources:
                address = (*address, source)
        elif self._sources:
            address = (*address, ())
        view = self._view
        if not each or each >= size:
            if size:
                self._receiver.on_datagram(self, bytes(view[:size]), address)
            return 1
        self._receiver.on_merged(self, view[:size], each, address)
        return -(-size // each)
