"""One session's publication of one path, and its requested tracks.

After `Withdraw` it ends with its last track.
"""

from __future__ import annotations

from relay.actors import messages as m
from relay.actors.counters import AddCounts
from relay.actors.runtime import LoopActor, Ref, halt, send
from relay.actors.track import TrackActor
from relay.logger import get_logger
from relay.model.limits import Limits
from relay.model.pace import LogOnce
from relay.runtime import Runtime
from relay.wire.errors import StreamCode

logger = get_logger("relay.broadcast")


class TrackEntry:
    """A running track, with the number of requests forwarded to it."""

    __slots__ = ("forwarded", "ref")

    def __init__(self, ref: Ref) -> None:
        self.ref = ref
        self.forwarded = 0


class BroadcastActor(LoopActor):
    """Tracks by path and name: a prefix route serves several paths."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        path: str,
        source: Ref,
        limits: Limits,
        counters: Ref | None = None,
        cache_budget: Ref | None = None,
        directory: Ref | None = None,
    ) -> None:
        super().__init__(runtime)
        self._directory = directory
        self._counters = counters
        self._cache_budget = cache_budget
        self._log_once = LogOnce()
        self._path = path
        self._source = source
        self._limits = limits
        self._tracks: dict[tuple[str, str], TrackEntry] = {}
        self._withdrawn: m.Withdraw | None = None

    def __str__(self) -> str:
        return f"broadcast {self._path}"

    def on_receive(self, message: object) -> object:  # noqa: C901 - one line per message
        match message:
            case m.Subscribe() | m.Describe() | m.Fetch():
                self._forward(message)
            case m.TrackIdle():
                entry = self._tracks.get((message.path, message.track))
                if entry is not None and entry.forwarded == message.handled:
                    del self._tracks[(message.path, message.track)]
                    halt(entry.ref)
            case m.TrackEnded():
                entry = self._tracks.get((message.path, message.track))
                if entry is not None and entry.ref is message.ref:
                    del self._tracks[(message.path, message.track)]
            case m.Withdraw():
                self._withdrawn = message
            case m.RouteChanged():
                for entry in self._tracks.values():
                    send(entry.ref, message)
            case m.ListTracks():
                return tuple(entry.ref for _, entry in sorted(self._tracks.items()))
            case _:
                return super().on_receive(message)
        if self._withdrawn is not None and not self._tracks:
            self.stop()
        return None

    def on_end(self, error: BaseException | None) -> None:  # noqa: ARG002 - the same either way
        for entry in self._tracks.values():
            halt(entry.ref)
        self._tracks.clear()
        if self._withdrawn is not None:
            send(self._withdrawn.origin, m.BroadcastOver(self._withdrawn.publication, self._path))

    def on_dead_letter(self, message: object) -> None:
        if isinstance(message, m.Subscribe | m.Describe | m.Fetch):
            send(message.subscriber, m.Refused(message.key, StreamCode.UNROUTABLE))
        elif isinstance(message, m.Withdraw):
            send(message.origin, m.BroadcastOver(message.publication, self._path))

    def _forward(self, request: m.Subscribe | m.Describe | m.Fetch) -> None:
        key = (request.path, request.track)
        entry = self._tracks.get(key)
        if entry is None or not entry.ref.is_alive():
            if len(self._tracks) >= self._limits.tracks:
                send(request.subscriber, m.Refused(request.key, StreamCode.NO_CAPACITY))
                if self._log_once.begins("tracks", self.runtime.now()):
                    logger.warning(
                        "over limit",
                        session=request.session,
                        broadcast=request.path,
                        limit="tracks",
                        value=self._limits.tracks,
                    )
                if self._counters is not None:
                    send(self._counters, AddCounts({("refused", "tracks"): 1}))
                return
            ref = TrackActor.start(
                self.runtime,
                broadcast=self.actor_ref,
                source=self._source,
                path=request.path,
                name=request.track,
                limits=self._limits,
                counters=self._counters,
                cache_budget=self._cache_budget,
                directory=self._directory,
                life=request.life,
            )
            entry = self._tracks[key] = TrackEntry(ref)
        entry.forwarded += 1
        if not send(entry.ref, request):
            send(request.subscriber, m.Refused(request.key, StreamCode.UNROUTABLE))
