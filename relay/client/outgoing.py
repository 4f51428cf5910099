"""Sending groups: what of a publication goes out on the streams of one subscription, or of one fetch.

Owns which groups were begun, and which frames have gone out on each stream. Must never hold a payload; it writes what
the publication has. `serve` makes one per request of the peer, the publication's writers drive it.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from relay.wire.decoder import RequestItem
from relay.wire.errors import StreamCode, WireError
from relay.wire.frame import frame_header_plain, frame_header_timed, group_header
from relay.wire.messages import Fetch, GroupHeader, Subscribe, SubscribeEnd, SubscribeOk, SubscribeUpdate
from relay.wire.varint import MAX_VARINT
from relay.wire.version import Version

if TYPE_CHECKING:
    from relay.client.peer import Peer
    from relay.client.publish import GroupWriter, TrackWriter
    from relay.transport.session import Stream

_SEQUENCE_BITS: Final = 48
"""Of a group's send priority; the track's own priority stands above them."""

FIN_POLL: Final = 0.02
"""Seconds between looks whether all groups are delivered, before the end of a subscription on 01..04. There the end
alone says that nothing more comes; it may overtake the groups, and a peer that takes it at its word would refuse them."""


class FrameSender:
    """Writes the frames of a group to one stream, as far as they are there, each byte once."""

    __slots__ = ("_chunks", "_last", "_next", "_time", "_timed", "done", "group", "stream")

    def __init__(
        self, stream: Stream, group: GroupWriter, *, timed: bool, first: int, last: int | None
    ) -> None:
        self.group = group
        self.done = False
        self.stream = stream
        self._timed = timed
        self._next = first - group.frame_start  # index of the frame under way
        self._last = None if last is None else last - group.frame_start
        self._chunks = -1  # of that frame, how many are written; -1 also lacks the header
        self._time = 0

    def pump(self) -> None:
        """Write what is new; end the stream if that was all."""
        if self.done:
            return
        frames = self.group.frames
        parts: list[bytes] = []
        while self._next < len(frames) and not self._past():
            frame = frames[self._next]
            if self._chunks < 0:
                if self._timed:
                    parts.append(frame_header_timed(frame.timestamp - self._time, frame.size))
                    self._time = frame.timestamp
                else:
                    parts.append(frame_header_plain(frame.size))
                self._chunks = 0
            parts += frame.chunks[self._chunks :]
            self._chunks = len(frame.chunks)
            if frame.missing:
                break
            self._next += 1
            self._chunks = -1
        self.done = self._past() or (self.group.finished and self._next >= len(frames))
        if parts or self.done:
            self.stream.write(parts, fin=self.done)

    def abort(self, code: int) -> None:
        """Give up."""
        if not self.done:
            self.done = True
            self.stream.reset(code)

    def _past(self) -> bool:
        return self._last is not None and self._next > self._last


class _GroupStream:
    """Handler of a group stream of ours, of which only a stop can be heard."""

    def __init__(self, owner: SubscriptionOut, group: GroupWriter) -> None:
        self._owner = owner
        self._group = group

    def on_data(self, data: bytes, *, fin: bool) -> None:
        """The peer has no half to send on."""

    def on_reset(self, code: int) -> None:
        """The peer has no half to send on."""

    def on_stop(self, code: int) -> None:
        self._owner.stopped(self._group, code)

    def on_fault(self, error: WireError) -> None:
        """The peer has no half to send on."""


class SubscriptionOut:
    """Serves a subscription of the peer, from what the track holds on to what is written later."""

    def __init__(self, peer: Peer, stream: Stream, request: Subscribe, track: TrackWriter) -> None:
        self.request = request
        self._peer = peer
        self._stream = stream
        self._track = track
        self._senders: dict[GroupWriter, FrameSender] = {}
        self._accepted = False
        self._ending = False
        self._over = False
        self._draining: list[Stream] = []  # of complete groups, not all of which has been delivered
        self._timer: asyncio.TimerHandle | None = None
        self._served: int = -1
        """The highest sequence sent."""
        track.joined(self)
        if peer.version <= Version.LITE_04:
            self._accept(0)
        for group in self._replay():
            self.offer(group)
        if track.end is not None:
            self.end()
        else:
            self._end_if_range_done()

    @property
    def ending(self) -> bool:
        """Whether the end is due as soon as the groups are delivered."""
        return self._timer is not None and not self._over

    def offer(self, group: GroupWriter) -> None:
        """Begin to send a group, if it was asked for."""
        request, last, first = self.request, None, group.frame_start
        if group.sequence < (request.start_group or 0):
            return
        if request.end_group is not None:
            if group.sequence > request.end_group:
                return
            if group.sequence == request.end_group:
                last = request.end_frame
        if request.start_frame and group.sequence == (request.start_group or 0):
            if group.finished and request.start_frame >= group.frame_start + len(group.frames):
                return
            first = max(first, request.start_frame)
        self._accept(group.sequence)
        self._served = max(self._served, group.sequence)
        order = min(group.sequence, (1 << _SEQUENCE_BITS) - 1)
        stream = self._peer.session.open_uni((request.priority << _SEQUENCE_BITS) | order)
        stream.context = _GroupStream(self, group)
        version = self._peer.version
        stream.write([group_header(version, GroupHeader(request.id, group.sequence, first))])
        timed = version >= Version.LITE_05
        self._senders[group] = FrameSender(stream, group, timed=timed, first=first, last=last)
        group.outs[self] = None
        self.pump(group)

    def pump(self, group: GroupWriter) -> None:
        """Send on."""
        sender = self._senders[group]
        sender.pump()
        if sender.done:
            self._draining = [stream for stream in self._draining if stream.undelivered]
            self._draining.append(sender.stream)
            self._drop(group)

    def abort_group(self, group: GroupWriter, code: int) -> None:
        """The group was given up."""
        self._senders[group].abort(self._peer.code(code))
        self._drop(group)

    def stopped(self, group: GroupWriter, code: int) -> None:
        """The peer wants no more of a group."""
        group.stopped.append(code)
        if group in self._senders:
            self._drop(group)

    def end(self) -> None:
        """No new group will come: say so, and end the stream after the open groups."""
        if not self._ending:
            self._say_end(self._track.end or 0)

    def _say_end(self, final: int) -> None:
        if self._peer.version >= Version.LITE_05:
            self._stream.write([SubscribeEnd(final).encode(self._peer.version)])
        self._ending = True
        self._end_if_done()

    def _end_if_range_done(self) -> None:
        """End a subscription that has the last group it asked for, and all that were begun before."""
        last = self.request.end_group
        if last is not None and self._served >= last and not (self._senders or self._ending or self._over):
            self._say_end(min(last + 1, MAX_VARINT))

    def abort(self, code: int) -> None:
        """The track was given up."""
        if not self._over:
            self._peer.refuse(self._stream, code)
            self._leave(code)

    def on_message(self, message: RequestItem) -> None:
        """Take an update: what was not due before may be now."""
        if not isinstance(message, SubscribeUpdate) or self._over:
            return
        self.request = replace(
            self.request,
            priority=message.priority,
            ordered=message.ordered,
            max_latency=message.max_latency,
            start_group=message.start_group,
            end_group=message.end_group,
            start_frame=message.start_frame,
            end_frame=message.end_frame,
        )
        self._track.updates.append(message)
        self._track.noted()
        for group in self._replay() if self._served < 0 else list(self._track.held.values()):
            if group.sequence > self._served:
                self.offer(group)
        self._end_if_range_done()

    def on_end(self, code: int | None) -> None:
        if self._over:
            return
        self._stream.write((), fin=True)
        self._track.departed.append((self.request, code))
        self._leave(StreamCode.CANCELLED)

    def _replay(self) -> list[GroupWriter]:
        """The groups held that the subscription starts with, oldest first."""
        held = self._track.held
        sequences = sorted(held)
        if not sequences:
            return []
        floor = self.request.start_group
        if self._peer.version >= Version.LITE_06:
            fresh = self._fresh(sequences)
            floor = fresh if floor is None else max(floor, fresh)
        elif floor is None:
            floor = sequences[-1]
        return [held[sequence] for sequence in sequences if sequence >= floor]

    def _fresh(self, sequences: list[int]) -> int:
        """06: the oldest group that has not expired.

        One has when its successor's first frame is at least the wanted age older than the newest frame of all.
        """
        held = self._track.held
        newest = next((held[one].frames[-1].timestamp for one in reversed(sequences) if held[one].frames), 0)
        limit = newest - self.request.max_latency * self._track.info.timescale // 1000
        for sequence, successor in itertools.pairwise(sequences):
            frames = held[successor].frames
            if not frames or frames[0].timestamp > limit:
                return sequence
        return sequences[-1]

    def _accept(self, group: int) -> None:
        if not self._accepted:
            self._accepted = True
            ok = SubscribeOk(priority=self.request.priority, group=group)
            self._stream.write([ok.encode(self._peer.version)])

    def _drop(self, group: GroupWriter) -> None:
        self._senders.pop(group, None)
        group.outs.pop(self, None)
        self._end_if_range_done()
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._ending and not self._senders and not self._over and self._timer is None:
            if self._peer.version >= Version.LITE_05 or not self._draining:
                self._finish()
            else:
                self._finish_later()

    def _finish_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(FIN_POLL, self._finish_if_delivered)

    def _finish_if_delivered(self) -> None:
        if self._over or self._peer.ended is not None:
            return
        if any(stream.undelivered for stream in self._draining):
            self._finish_later()
        else:
            self._finish()

    def _finish(self) -> None:
        self._draining.clear()
        self._stream.write((), fin=True)
        self._leave(StreamCode.CANCELLED)

    def _leave(self, code: int) -> None:
        self._over = True
        for stream in self._draining:
            if stream.unsent:
                stream.reset(self._peer.code(code))
        self._draining.clear()
        for group, sender in list(self._senders.items()):
            sender.abort(self._peer.code(code))
            self._drop(group)
        self._track.left(self)


class FetchOut:
    """Sends one group as the answer to a FETCH."""

    def __init__(self, peer: Peer, stream: Stream, request: Fetch, group: GroupWriter) -> None:
        self._peer = peer
        self._group = group
        self._sender = FrameSender(
            stream, group, timed=True, first=request.start_frame, last=request.end_frame
        )
        group.outs[self] = None
        self.pump(group)

    def pump(self, group: GroupWriter) -> None:
        """Send on."""
        self._sender.pump()
        if self._sender.done:
            group.outs.pop(self, None)

    def abort_group(self, group: GroupWriter, code: int) -> None:
        """The group was given up."""
        self._sender.abort(self._peer.code(code))
        group.outs.pop(self, None)

    def on_message(self, message: RequestItem) -> None:
        """There is none."""

    def on_end(self, code: int | None) -> None:
        """A FIN after the request is its natural end; anything else gives the answer up."""
        if code is not None:
            self.abort_group(self._group, code)
