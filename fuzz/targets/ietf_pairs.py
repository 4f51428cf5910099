"""Two joined sessions of moq-transport, in every draft: both owners keep the rules and act in any order.

Neither session finds a fault. When all has arrived, both have the same requests; a viewer has what was announced to it, and
of each group a beginning of what was sent, or all of it if the group is complete: but subgroups may come too late for it.
When both owners have left all requests, nothing is kept for any.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, TypeAlias

from fuzz.source import Source
from fuzz.targets.ietf_sessions import DRAFTS, IETF_OWNER, IetfPlay
from fuzz.targets.moq import AMPLE, VERSIONS, FuzzSession, Pair, act
from relay.model.group import Object, Part
from relay.model.path import join
from relay.moq import session as moq
from relay.moq.core import State
from relay.moq.ietf import IetfSession
from relay.moq.ietf_announce import NamespaceWriter
from relay.moq.ietf_exchange import Exchange, StreamExchange
from relay.moq.ietf_requests import LATE as LATE_AT_LEAST
from relay.moq.lite import LiteSession
from relay.moq.session import Offer
from relay.moq.setup import Options
from relay.wire.frame import FrameHeader
from relay.wire.ietf.codes import RequestKind
from relay.wire.version import Draft

LATE = 200.0
"""Seconds after which nothing waits for time to pass."""

LATE_SUBGROUP = LATE_AT_LEAST / 2  # seconds

MOST_TURNS = 2_000
"""Deadlines until then."""

Place: TypeAlias = tuple[int, int]
"""The id of a SUBSCRIBE on the wire, and a group."""


Lanes: TypeAlias = dict[int, list[tuple[int, int]]]
"""Id and size of the objects of each subgroup. Those of several may come in any order."""


def lanes_of(parts: list[Part]) -> Lanes:
    lanes: Lanes = {}
    frames = itertools.count()
    for part in parts:
        if isinstance(part, Object):
            lanes.setdefault(part.subgroup.number, []).append((part.id, part.size))
        elif isinstance(part, FrameHeader):
            lanes.setdefault(0, []).append((next(frames), part.size))
    return lanes


class JoinedPlay(IetfPlay):
    """One side of a pair."""

    def __init__(self, source: Source, session: FuzzSession, draft: Draft, **options: Any) -> None:
        super().__init__(source, session, draft, limits=AMPLE, **options)
        self.wire_ids: dict[int, int] = {}
        """Of subscriptions, by request: ours and those of the peer."""
        self.sent: dict[Place, Lanes] = {}
        self.whole: set[Place] = set()
        self.joined_at: dict[int, int] = {}
        """Groups that begin with fetched frames, by id of the subscription."""
        self.received: dict[Place, list[Part]] = {}
        self.complete: dict[Place, float] = {}
        """The times at which groups were whole."""
        self.shown: dict[int, set[str]] = {}
        """Announced to the peer, by its request."""
        self.offers: set[str] = set()
        self.published: set[str] = set()
        """Broadcasts of tracks that were ever offered: these announce them, too."""
        self.silent = 0
        """Interests of the peer that we left: 14 has no message for it, once they are accepted."""
        self.interests = 0
        """In namespaces, of both sides, where they end by name: of two equal ones either may end."""
        self.live: dict[int, set[str]] = {}
        """Announced by the peer, by our request."""

    # --- events

    def check(self) -> None:
        if isinstance(self.moq, LiteSession):
            for event in self.moq.poll():
                self.on_event(event)
        if not isinstance(self.moq, LiteSession):
            super().check()

    def wait_for_setup(self) -> None:
        """Begin with the machine of moq-lite, until SETUP chooses the draft."""
        drafts, admitted = (self.moq.version,), self.moq.setup.admitted
        self.session.version = None
        self.moq = LiteSession(
            self.session, limits=AMPLE, hop=77, versions=VERSIONS, drafts=drafts, admitted=admitted
        )

    def on_event(self, event: moq.Event) -> None:
        super().on_event(event)
        match event:
            case moq.DialectChosen():
                self.moq = IetfSession(
                    self.session,
                    limits=AMPLE,
                    hop=77,
                    version=event.version,
                    admitted=self.moq.setup.admitted,
                )
                self.moq.start(self.now)
                self.moq.receive(event.events, self.now)
            case moq.AnnouncementsEnded():
                self.live.pop(event.request, None)
            case moq.Announced():
                self.live.setdefault(event.request, set()).add(event.path)
            case moq.Unannounced():
                self.live[event.request].remove(event.path)
            case moq.SubscribeRequested():
                self.wire_ids[event.request] = self.moq.serving._deliveries[event.request].exchange.id
            case moq.RequestCancelled():
                self.shown.pop(event.request, None)
                self.announcing.discard(event.request)
            case moq.GroupData():
                self.on_group_data(event)
            case _:
                pass

    def on_group_data(self, event: moq.GroupData) -> None:
        if event.request not in self.wire_ids:
            return  # asked for its properties first
        for part in event.parts:
            place = self.wire_ids[event.request], part.sequence
            self.received.setdefault(place, []).extend(part.parts)
            if part.fin:
                self.complete[place] = self.now

    # --- commands

    def ask(self, kind: str, command: Callable[[], int]) -> None:
        super().ask(kind, command)
        for request, subscription in self.moq.requests._subscriptions.items():
            if request not in self.wire_ids and subscription.exchange is not None:
                self.wire_ids[request] = subscription.exchange.id

    def own_cancel(self) -> None:
        super().own_cancel()
        self.live = {request: paths for request, paths in self.live.items() if request in self.asked}

    def serve_accept(self) -> None:
        request = self.their(moq.SubscribeRequested)
        if request is None:
            return
        largest = self.source.pick((None, (3, 1), (0, 0)))
        if request not in self.accepted and largest is not None:
            self.joined_at[self.wire_ids[request]] = largest[0]
        self.accepted.add(request)
        self.moq.serving.accept(request, largest)

    def serve_groups(self) -> None:
        before = {key: len(entry[1]) for key, entry in self.encoders.items()}
        super().serve_groups()
        for key, (_, parts, _) in self.encoders.items():
            place = self.wire_ids[key[0]], key[1]
            if before.get(key) == len(parts):
                continue
            self.sent[place] = lanes_of(parts)
            if self.groups[key[0]].get(key[1]) is False:
                self.whole.add(place)

    def serve_announcements(self) -> None:
        request = self.their(moq.AnnounceRequested)
        if request is None:
            return
        serving, prefix = self.moq.serving, self.theirs[request].prefix
        if request not in self.announcing:
            self.announcing.add(request)
            paths = [join(prefix, name) for name in ("a", "b", "a")[: self.source.byte() % 4]]
            self.shown[request] = set(paths)
            serving.announce_initial(request, [Offer(path) for path in paths])
            return
        path = join(prefix, self.source.pick(("cam", "mic/low", "x" * 100)))
        if self.source.flag():
            self.shown[request].add(path)
            serving.announce(request, path, Offer(path))
        else:
            self.shown[request].discard(path)
            serving.announce(request, path, None)

    def serve_rejection(self) -> None:
        before = set(self.theirs)
        writers = dict(self.moq.serving._writers)
        super().serve_rejection()
        for request in before - set(self.theirs):
            self.shown.pop(request, None)
            self.silent += request in writers

    def serve_offer(self) -> None:
        path = self.source.pick(("demo/cam", "other"))
        offered = self.source.flag()
        if self.moq.state is not State.ESTABLISHED or not self.session.is_client:
            return
        (self.offers.add if offered else self.offers.discard)(path)
        self.moq.serving.offer(path, Offer(path) if offered else None)

    def serve_tracks(self) -> None:
        super().serve_tracks()
        if isinstance(self.moq, IetfSession):
            for tracks in self.moq.serving._tracks.values():
                self.published.update(path for path, _ in tracks)

    def leave_all(self) -> None:
        """Every request of ours."""
        for request in (*self.asked, *self.ended):
            self.moq.requests.cancel(request)
            self.asked.pop(request, None)
            self.ended.discard(request)
            self.check()
        self.live.clear()
        for path in self.offers:
            self.moq.serving.offer(path, None)
        self.offers.clear()

    # --- what both know

    def requests(self) -> set[tuple[str, int]]:
        """Those that are not over, by kind and id."""
        exchanges = self.moq.exchanges
        found: list[Exchange] = [exchange for exchange in exchanges._by_id.values() if not exchange.over]
        streams = [stream for stream in self.session.streams if not (stream.over and stream.peer_over)]
        found += [stream.context for stream in streams if isinstance(stream.context, StreamExchange)]
        by_name = not self.profile.namespace_streams
        self.interests = sum(
            by_name and exchange.kind is RequestKind.SUBSCRIBE_NAMESPACE for exchange in found
        )
        return {
            (exchange.kind.name, exchange.id)
            for exchange in found
            if not (by_name and exchange.kind is RequestKind.SUBSCRIBE_NAMESPACE)
        }

    def check_announced(self, there: JoinedPlay) -> None:
        """Each request has its own namespaces, but those of PUBLISH_NAMESPACE: one of the requests has them."""
        if not self.session.is_client or not self.profile.namespace_streams:
            live = [path for paths in self.live.values() for path in paths]
            assert len(live) == len(set(live)), live
            shown = there.offers.union(there.published, *there.shown.values())
            assert set(live) <= shown, (live, shown)
            return
        for request, paths in self.live.items():
            interest = self.moq.requests.namespaces._interests[request][1]
            number = interest.exchange.id
            told = [
                there.shown.get(theirs, set())
                for theirs, writer in there.moq.serving._writers.items()
                if isinstance(writer, NamespaceWriter) and writer._exchange.id == number
            ]
            own = paths - there.published
            assert told == [own] or not (told or own), (told, own)

    def check_groups(self, there: JoinedPlay) -> None:
        for place, parts in self.received.items():
            number, sequence = place
            if there.joined_at.get(number) == sequence or place not in there.sent:
                continue
            came, sent = lanes_of(parts), there.sent[place]
            for number, objects in came.items():
                assert objects == sent[number][: len(objects)], (place, objects, sent)
            if place in self.complete:
                assert place in there.whole, place
                late = self.complete[place] >= LATE_SUBGROUP  # then none is awaited any more
                assert came == sent or (late and came.keys() < sent.keys()), (place, came, sent)

    def check_nothing_left(self) -> None:
        requests, serving, exchanges = self.moq.requests, self.moq.serving, self.moq.exchanges
        tables = {
            name: table
            for part in (requests, requests.namespaces, serving, exchanges)
            for name in dir(part)  # native classes have no `__dict__`
            if not name.startswith("__")
            and isinstance(table := getattr(part, name), dict | set | list)
            and table
        }
        assert not tables, tables
        assert not self.moq._parked


class IetfPair(Pair[JoinedPlay]):
    """Both sides."""

    def wait(self) -> None:
        """Until nothing more happens by itself."""
        self.move_all()
        for play in self.plays:
            play.admit()
            play.check()
        self.move_all()
        end = max(play.now for play in self.plays) + LATE
        for turn in itertools.count():
            assert turn < MOST_TURNS, [play.moq.deadline for play in self.plays]
            for play in self.plays:
                play.peer_reads()
            due = min(play.moq.deadline for play in self.plays)
            if due >= end:
                break
            for play in self.plays:
                play.now = max(play.now, due)
                play.moq.on_time(play.now)
                play.check()
            self.move_all()

    def has_lost_headers(self) -> bool:
        """A stream was reset before anything came: its FETCH has no other end."""
        streams = [stream for play in self.plays for stream in play.session.streams]
        return any(stream.reset_code is not None and stream.twin is None for stream in streams)

    def finish(self) -> None:
        self.wait()
        client, server = self.plays
        if not (client.moq.closed or server.moq.closed):
            ours, theirs = (play.requests() for play in self.plays)
            if not client.profile.request_streams and self.has_lost_headers():
                ours, theirs = ({each for each in known if each[0] != "FETCH"} for known in (ours, theirs))
            assert ours == theirs, (ours, theirs)
            assert abs(client.interests - server.interests) <= client.silent + server.silent
            client.check_announced(server)
            server.check_announced(client)
        client.check_groups(server)
        server.check_groups(client)
        if not (client.moq.closed or server.moq.closed):
            for play in self.plays:
                play.leave_all()
                play.check()
            self.wait()
            for play in self.plays:
                assert play.theirs.keys() == set(), play.theirs
                play.check_nothing_left()
                play.read_all()
            client.moq.close(0, "enough")
            client.check()
            self.move_all()
        for play in self.plays:
            assert play.moq.closed
            play.finish()


OWNER = tuple(getattr(JoinedPlay, step.__name__) for step in IETF_OWNER)


def pairs(data: bytes) -> None:
    """Two ends of one draft; 14 may also be the choice of SETUP."""
    source = Source(data)
    known = source.pick((*DRAFTS, None))
    draft = known or Draft.DRAFT_14
    options = Options(token=source.pick((None, "a.b.c")), target=source.pick((None, "/demo")))
    ends = [FuzzSession(draft, is_client=is_client) for is_client in (True, False)]
    client = JoinedPlay(source, ends[0], draft, admitted=True, options=options)
    server = JoinedPlay(source, ends[1], draft, admitted=source.flag())
    if known is None:
        server.wait_for_setup()
    pair = IetfPair(source, (client, server))
    act(pair, OWNER)
    pair.finish()


TARGETS = {"ietf-pairs": pairs}
