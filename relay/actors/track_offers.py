"""Part of the origin actor: tracks that publishers offer (PUBLISH of moq-transport), and the sessions that watch them."""

from __future__ import annotations

from typing import NamedTuple

from relay.actors import messages as m
from relay.actors.runtime import Ref, send
from relay.model.path import covers


class Watcher(NamedTuple):
    """An interest in tracks."""

    ref: Ref
    session: int
    watch: int
    prefixes: tuple[str, ...]

    def wants(self, path: str) -> bool:
        return any(covers(prefix, path) for prefix in self.prefixes)


class TrackOffers:
    """Offered tracks, by path and name, with the sessions that offer them."""

    def __init__(self) -> None:
        self._offers: dict[tuple[str, str], set[int]] = {}
        self._watchers: dict[tuple[int, int], Watcher] = {}

    def on_message(self, message: object) -> bool:
        """True if the message was about offered tracks."""
        match message:
            case m.OfferTrack():
                self._offer(message)
            case m.WatchTracks():
                watcher = Watcher(message.watcher, message.session, message.watch, message.prefixes)
                self._watchers[message.session, message.watch] = watcher
                for (path, track), sessions in self._offers.items():
                    if watcher.wants(path) and sessions != {watcher.session}:
                        send(watcher.ref, m.TrackChanged(watcher.watch, path, track, offered=True))
            case m.UnwatchTracks():
                self._watchers.pop((message.session, message.watch), None)
            case _:
                return False
        return True

    def gone(self, session: int) -> None:
        """A session has ended."""
        for key in [key for key in self._watchers if key[0] == session]:
            del self._watchers[key]
        for (path, track), sessions in list(self._offers.items()):
            if session in sessions:
                self._offer(m.OfferTrack(session, path, track, offered=False))

    def _offer(self, message: m.OfferTrack) -> None:
        key = message.path, message.track
        before = self._offers.get(key, set())
        after = before | {message.session} if message.offered else before - {message.session}
        if after:
            self._offers[key] = after
        else:
            self._offers.pop(key, None)
        for watcher in self._watchers.values():
            had, has = bool(before - {watcher.session}), bool(after - {watcher.session})
            if had != has and watcher.wants(message.path):
                send(watcher.ref, m.TrackChanged(watcher.watch, *key, offered=has))
