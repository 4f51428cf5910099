"""Part of the connection actor: what the peer publishes, by one upstream subscription per track."""

from __future__ import annotations

from typing import NamedTuple

from relay.actors import messages as m
from relay.actors.announcements import Announcements
from relay.actors.environment import Context
from relay.actors.runtime import Ref, send
from relay.model.path import join
from relay.model.track import SubscribeParams, TrackProperties
from relay.model.track_end import LATE_AT_LEAST
from relay.moq import session as moq
from relay.wire.errors import StreamCode

UPSTREAM_LATENCY_MS = 5_000  # below it, a publisher drops groups after a short stall
PAST_MS = 3_600_000  # history requested along with a first group, which alone brings none on 06


class Question(NamedTuple):
    """An unanswered TRACK or FETCH."""

    track: Ref
    sequence: int | None  # of the fetched group


class Past(NamedTuple):
    """A subscription to groups before those of another."""

    track: Ref
    number: int  # given by the track


class Ingest:
    """The publishing side of one session."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._moq = context.moq
        self.announcements = Announcements(context)
        self._tracks: dict[int, Ref] = {}  # by request
        self._requests: dict[str, int] = {}  # by the track's URN
        self._ended: set[int] = set()  # subscriptions with a reported end
        self._questions: dict[int, Question] = {}
        self._pasts: dict[int, Past] = {}  # by request; at most one per track

    def end(self) -> None:
        tracks = [*self._tracks.values(), *(question.track for question in self._questions.values())]
        for track in tracks:
            send(track, m.UpstreamFailed(StreamCode.INTERNAL, gone=True))
        self._tracks.clear()
        self._requests.clear()
        self._questions.clear()
        self._pasts.clear()

    def count(self) -> int:
        return len(self._tracks)

    # --- messages of tracks

    def on_message(self, message: object) -> bool:  # noqa: C901 - one line per message
        """True if the message was a track's."""
        match message:
            case m.OpenUpstream():
                self._open(message)
            case m.DescribeUpstream():
                self._describe(message.track, message.path, message.name)
            case m.FetchUpstream():
                self._fetch(message)
            case m.UpdateUpstream():
                request = self._requests.get(message.track.actor_urn)
                if request is not None and self._moq.features.updates:
                    self._moq.requests.update(request, self._asked(message.params))
            case m.StopGroup():
                track = message.track
                request = self._past_of(track) if message.past else self._requests.get(track.actor_urn)
                if request is not None:
                    self._moq.requests.stop_group(request, message.sequence, message.code)
            case m.OpenPast():
                self._open_past(message)
            case m.ClosePast():
                self._close_past(message.track)
            case m.StopFetch():
                self._stop_questions(message.track, message.sequence)
            case m.CloseUpstream():
                self._close(message.track)
            case _:
                return False
        return True

    def _relative(self, path: str) -> str:
        root = self._context.permissions.root
        return path[len(root) + 1 :] if root else path

    def _asked(self, params: SubscribeParams) -> SubscribeParams:
        """Lateness limits are the subscribers': upstream we take what we would cache. 06 asks for history."""
        explicit = params.start_group is not None and not params.start_is_floor
        return SubscribeParams(
            priority=params.priority,
            ordered=params.ordered,
            latency_ms=max(params.latency_ms, UPSTREAM_LATENCY_MS),
            history_ms=PAST_MS if explicit else params.history_ms,
            any_age=params.any_age,
            start_group=params.start_group,
        )

    def _open(self, message: m.OpenUpstream) -> None:
        track = message.track
        if message.describe:
            self._describe(track, message.path, message.name)
        request = self._moq.requests.subscribe(
            self._relative(message.path), message.name, self._asked(message.params)
        )
        self._tracks[request] = track
        self._requests[track.actor_urn] = request

    def _past_of(self, track: Ref) -> int | None:
        return next((request for request, past in self._pasts.items() if past.track == track), None)

    def _open_past(self, message: m.OpenPast) -> None:
        params, moq_session = message.params, self._moq
        self._close_past(message.track)
        by_age = params.start_group is None or params.start_is_floor
        if not (
            moq_session.features.history if by_age else moq_session.features.updates
        ):  # it has no field for that
            send(message.track, m.PastOver(message.number, 0.0))
            return
        asked = self._asked(params)._replace(end_group=params.end_group, any_age=False)
        request = moq_session.requests.subscribe(self._relative(message.path), message.name, asked)
        self._pasts[request] = Past(message.track, message.number)

    def _close_past(self, track: Ref) -> None:
        request = self._past_of(track)
        if request is not None:
            del self._pasts[request]
            self._moq.requests.cancel(request)

    def _on_past(self, event: moq.Event, past: Past) -> None:
        match event:
            case moq.GroupData():
                send(past.track, m.PastGroups(past.number, event.parts))
            case moq.SubscriptionStarted():
                send(past.track, m.PastStarted(past.number, event.group))
            case moq.SubscriptionEnded() | moq.RequestRejected():
                send(past.track, m.PastOver(past.number, self._moq.patience(LATE_AT_LEAST)))

    def _describe(self, track: Ref, path: str, name: str) -> None:
        if self._moq.features.descriptions:
            request = self._moq.requests.request_info(self._relative(path), name)
            self._questions[request] = Question(track, None)
        else:
            send(track, m.UpstreamProperties(TrackProperties(), answered=False))

    def _fetch(self, message: m.FetchUpstream) -> None:
        track, sequence = message.track, message.sequence
        if self._moq.features.descriptions:
            request = self._moq.requests.fetch(
                self._relative(message.path), message.name, sequence, priority=message.priority
            )
            self._questions[request] = Question(track, sequence)
        else:
            part = moq.GroupPart(sequence, 0, (), False, StreamCode.NOT_FOUND)
            send(track, moq.FetchedData(0, part))

    def _stop_questions(self, track: Ref, sequence: int | None = None) -> None:
        """Cancel one fetch of a track, or all its questions."""
        for request, question in list(self._questions.items()):
            if question.track == track and sequence in (None, question.sequence):
                del self._questions[request]
                self._moq.requests.cancel(request, StreamCode.CANCELLED)

    def _close(self, track: Ref) -> None:
        self._close_past(track)
        self._stop_questions(track)
        request = self._requests.get(track.actor_urn)
        if request is not None:
            self._forget(request)
            self._moq.requests.cancel(request)

    def _forget(self, request: int) -> Ref:
        track = self._tracks.pop(request)
        self._requests.pop(track.actor_urn, None)
        self._ended.discard(request)
        return track

    # --- events of the session

    def on_event(self, event: moq.Event) -> bool:  # noqa: C901, PLR0912 - one line per event
        """True if the event was of the publishing side."""
        if self._pasts and (past := self._pasts.get(getattr(event, "request", 0))) is not None:
            self._on_past(event, past)
            return True
        match event:
            case moq.GroupData() | moq.DatagramReceived() | moq.SubscriptionDropped():
                track = self._tracks.get(event.request)
                if track is not None:
                    send(track, event)
            case moq.SubscriptionStarted():
                self._tell(event.request, m.UpstreamStarted(event.group, self._moq.patience(LATE_AT_LEAST)))
            case moq.SubscriptionEnded():
                if event.request in self._tracks and event.request not in self._ended:
                    self._ended.add(event.request)
                    self._tell(event.request, m.UpstreamEnded(event.final, self._moq.patience(LATE_AT_LEAST)))
            case moq.InfoReceived():
                question = self._questions.pop(event.request, None)
                if question is not None:
                    send(question.track, m.UpstreamProperties(event.properties))
            case moq.FetchedData():
                self._on_fetched(event)
            case moq.RequestRejected():
                self._on_rejected(event)
            case moq.Announced():
                self.announcements.announced(event)
            case moq.Unannounced():
                self.announcements.withdrawn(event)
            case moq.TrackOffered():
                context = self._context
                path = join(context.permissions.root, event.path)
                offer = m.OfferTrack(context.number, path, event.track, event.offered)
                send(context.environment.origin, offer)
            case _:
                return False
        return True

    def _tell(self, request: int, message: object) -> None:
        track = self._tracks.get(request)
        if track is not None:
            send(track, message)

    def _on_fetched(self, event: moq.FetchedData) -> None:
        question = self._questions.get(event.request)
        if question is not None:
            if event.part.fin:
                del self._questions[event.request]
            send(question.track, event)

    def _on_rejected(self, event: moq.RequestRejected) -> None:
        question = self._questions.pop(event.request, None)
        if event.request in self._tracks:
            if event.request not in self._ended:
                track = self._forget(event.request)
                self._moq.requests.cancel(event.request)
                send(track, m.UpstreamFailed(event.code, gone=self._is_elsewhere(event.code)))
        elif question is not None and question.sequence is not None:
            part = moq.GroupPart(question.sequence, 0, (), False, event.code)
            send(question.track, moq.FetchedData(event.request, part))
        elif question is not None:
            # A track without a description does not exist: end its other requests.
            self._close(question.track)
            send(question.track, m.UpstreamFailed(event.code, gone=self._is_elsewhere(event.code)))

    def _is_elsewhere(self, code: int) -> bool:
        """True if a relay lost the track; False if the publisher refuses."""
        return self._context.permissions.cluster and code != StreamCode.NOT_FOUND
