"""Part of the track actor: requests upstream, by the publisher's group numbers, and timeouts."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from relay.actors import messages as m
from relay.actors.groups import Stopped
from relay.actors.numbers import GROUPS, Numbers
from relay.actors.runtime import Ref, Timer, send
from relay.model.track import SubscribeParams

SUBSCRIBE = "subscribe"
DESCRIBE = "describe"


class AnswerDue(NamedTuple):
    """An answer is overdue. `what`: a fetched group's sequence, or a word."""

    what: int | str


class Owner(Protocol):
    """The track actor, as its parts see it."""

    @property
    def actor_ref(self) -> Ref: ...

    def call_later(self, delay: float, message: object) -> Timer: ...

    def flush(self) -> None:
        """Deliver all changes of groups."""


class Upstream:
    """The publisher's connection, as one track sees it."""

    __slots__ = (
        *("_due", "_name", "_numbers", "_owner", "_path", "_source", "_timeout", "_track", "_wanted"),
        *("answered", "asked", "asked_properties", "opened"),
    )

    def __init__(
        self, owner: Owner, source: Ref, path: str, name: str, numbers: Numbers, timeout: float
    ) -> None:
        """`timeout`: seconds."""
        self._owner, self._track, self._source = owner, owner.actor_ref, source
        self._path, self._name, self._numbers = path, name, numbers
        self._timeout = timeout
        self._due: dict[int | str, Timer] = {}  # unanswered questions
        self._wanted: SubscribeParams | None = None
        self.opened: SubscribeParams | None = None  # the subscription's first parameters
        self.asked = self.asked_properties = False  # the connection may hold state for us
        self.answered = False  # the publisher answered or sent anything

    # --- questions: False if the connection has ended

    def want(self, params: SubscribeParams) -> bool:
        """Subscribe, or update the subscription."""
        if params == self._wanted:
            return True
        begins, self._wanted = self._wanted is None, params
        asked = self._numbers.asked(params)
        if not begins:
            send(self._source, m.UpdateUpstream(self._track, asked))
            return True
        self.asked, self.opened = True, params
        describe = self._numbers.properties is None and not self.asked_properties
        if not send(self._source, m.OpenUpstream(self._track, self._path, self._name, asked, describe)):
            return False
        if not self.answered:
            self.expect(SUBSCRIBE)
        return True

    def describe(self) -> bool:
        """Ask for the properties, unless a subscription brings them."""
        self.expect(DESCRIBE)
        if self.opened is not None or self.asked_properties:
            return True
        self.asked_properties = self.asked = True
        return send(self._source, m.DescribeUpstream(self._track, self._path, self._name))

    def may_number(self, sequences: list[int]) -> bool:
        """True if numbers and unit of these groups are known; else they are asked for, and messages have to wait."""
        numbers = self._numbers
        if numbers.timescale is not None and numbers.properties is None:
            # viewers count in one unit
            numbers.deferred.begin(GROUPS)
            self.expect(DESCRIBE)
            return False
        missing = numbers.missing(sequences)
        if missing is not None:
            numbers.ask(*missing)
        return missing is None

    def fetch(self, number: int, published: int, priority: int) -> bool:
        """`number` is the viewers', `published` the publisher's."""
        self.asked = True
        self.expect(number)
        return send(self._source, m.FetchUpstream(self._track, self._path, self._name, published, priority))

    def open_past(self, number: int, params: SubscribeParams) -> None:
        """Subscribe to groups before those of the subscription. `number` names the request."""
        send(self._source, m.OpenPast(self._track, self._path, self._name, number, params))

    # --- cancellation

    def close_past(self) -> None:
        send(self._source, m.ClosePast(self._track))

    def stop(self, groups: list[Stopped]) -> None:
        for stopped in groups:
            if stopped.limit:
                self.over_limit(stopped.limit, group=stopped.sequence)
            published = self._numbers.published(stopped.sequence)
            if published is not None:
                self.stop_published(published, stopped.code, past=stopped.past)

    def stop_published(self, sequence: int, code: int, *, past: bool = False) -> None:
        """`sequence` is the publisher's."""
        send(self._source, m.StopGroup(self._track, sequence, code, past))

    def stop_fetch(self, number: int) -> None:
        self._answer(number)
        published = self._numbers.published(number)
        if published is not None:
            send(self._source, m.StopFetch(self._track, published))

    def close(self) -> None:
        if self.asked:  # also after a failure: an answer may be missing
            send(self._source, m.CloseUpstream(self._track))

    def over_limit(self, limit: str, **fields: object) -> None:
        fields |= {"broadcast": self._path, "track": self._name}
        send(self._source, m.OverLimit(limit, fields))

    # --- answers

    def expect(self, what: int | str) -> None:
        """The owner gets `AnswerDue` after the timeout."""
        if what not in self._due:
            self._due[what] = self._owner.call_later(self._timeout, AnswerDue(what))

    def answer(self, what: int | str = SUBSCRIBE, *, real: bool = True) -> None:
        """`real`: from the publisher, which hence knows the track."""
        self._answer(what)
        if real:
            self.answered = True
            self._answer(SUBSCRIBE)

    def _answer(self, what: int | str) -> None:
        timer = self._due.pop(what, None)
        if timer is not None:
            timer.cancel()

    def is_overdue(self, what: int | str) -> bool:
        """False if the answer came in this turn."""
        if self._due.pop(what, None) is None:
            return False
        self.over_limit("answer_timeout", **{"request": what} if isinstance(what, str) else {"fetch": what})
        return True
