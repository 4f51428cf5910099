"""Keeps a session with one other relay, and dials again when it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from relay.actors import messages as m
from relay.actors.events import Happened
from relay.actors.rows import PeerRow
from relay.actors.runtime import LoopActor, Ref, Timer, send
from relay.logger import Seconds, get_logger
from relay.model.events import Kind
from relay.runtime import Runtime
from relay.transport.session import Session
from relay.wire.errors import SessionCode

FIRST_DELAY: Final = 1.0  # seconds between attempts: doubled up to the longest,
LONGEST_DELAY: Final = 10.0  # less a random part of up to a half
HEALTHY: Final = 10.0  # seconds of a session that reset the delay
PATIENCE: Final = 3.0  # seconds that a relay whose name comes first has to dial us
STALE: Final = 60.0  # seconds to redial a relay that withdrew its name after its session broke off


class State(StrEnum):
    """The state of a peer, as `/state` shows it."""

    WAITING = "waiting"  # until the next attempt, or to be dialled
    DIALLING = "dialling"
    CONNECTED = "connected"  # by either side's session


class Dial(NamedTuple):
    """Timer: the next attempt."""


class Dialled(NamedTuple):
    """A session that has not begun."""

    session: Session


class DialFailed(NamedTuple):
    """An attempt failed."""

    reason: str


class Connected(NamedTuple):
    """Our session, while it lasts."""

    session: int
    since: float  # seconds, by the runtime's clock


class Stale(NamedTuple):
    """Timer: the relay is gone for too long."""


@dataclass(frozen=True, slots=True)
class Dialling:
    """The parts of the relay that a peer uses."""

    dial: Callable[[str], Awaitable[Session]]  # takes a target; raises with a readable text, free of secrets
    gate: Ref  # starts the connection actor
    events: Ref | None = None

    def report(self, kind: Kind, session: int | None, peer: str, reason: str | None) -> None:
        """Report an event of a session with another relay."""
        if self.events is not None:
            send(self.events, Happened(kind, session, peer, None, reason))


class PeerActor(LoopActor):
    """Keeps a session with one relay."""

    def __init__(
        self, runtime: Runtime, *, cluster: Ref, target: str, dialling: Dialling, first: bool
    ) -> None:
        """`target` is `host[:port]` or a URL. `first`: dial at once; else the other relay may dial first."""
        super().__init__(runtime)
        self._cluster = cluster
        self.target = target
        self._log = get_logger("relay.cluster", peer=target)
        self._dialling = dialling
        self._first = first
        self._attempt: asyncio.Task[None] | None = None  # until the session has a connection actor
        self._connection: Ref | None = None
        self._other_session: int | None = None  # with the same relay
        self._timer: Timer | None = None
        self._stale: Timer | None = None
        self._delay = FIRST_DELAY
        self._up: Connected | None = None
        self._unclean = False
        self._withdrawn = False
        self._error: str | None = None  # why there is no session; else None

    def __str__(self) -> str:
        return f"peer {self.target}"

    # --- life

    def on_start(self) -> None:
        self._dial_in(0.0 if self._first else PATIENCE)

    def on_receive(self, message: object) -> object:  # noqa: C901, PLR0912 - one line per message
        match message:
            case Dial():
                self._timer = None
                self._dial()
            case Dialled():
                self._on_dialled(message.session)
            case m.DialledOpened():
                self._on_opened(message.connection)
            case DialFailed():
                self._attempt = None
                if message.reason != self._error:
                    self._dialling.report(Kind.PEER_DOWN, None, self.target, message.reason)
                self._fail(message.reason)
            case m.PeerConnected():
                self._on_connected(message)
            case m.PeerDisconnected():
                self._on_disconnected(message)
            case m.OtherSession():
                self._on_other_session(message.session)
            case m.PeerSessionLost():
                self._unclean = True
            case m.MemberGone():
                self._withdrawn = True
                self._leave_if_gone()
            case m.MemberBack():
                self._withdrawn = False
                self._cancel_stale()
            case Stale():
                self._stale = None
                if self._state is not State.CONNECTED:
                    self._log.info("gone for good")
                    self.stop()
            case m.DescribePeer():
                return self._describe()
            case _:
                return super().on_receive(message)
        return None

    def on_end(self, error: BaseException | None) -> None:
        if self._attempt is not None:
            self._attempt.cancel()
        if self._connection is not None:
            reason = "internal error" if error else "no longer a peer"
            send(self._connection, m.CloseSession(SessionCode.NO_ERROR, reason))
        send(self._cluster, m.PeerEnded(self.target, self.actor_ref))

    def on_dead_letter(self, message: object) -> None:
        if isinstance(message, Dialled):
            message.session.close()
        elif isinstance(message, m.DialledOpened) and message.connection is not None:
            send(message.connection, m.CloseSession(SessionCode.NO_ERROR, "no longer a peer"))

    @property
    def _state(self) -> State:
        if self._other_session is not None or self._up is not None:
            return State.CONNECTED
        if self._attempt is not None or self._connection is not None:
            return State.DIALLING
        return State.WAITING

    # --- attempts

    def _dial_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.call_later(seconds, Dial())

    def _dial(self) -> None:
        if self._other_session is None and self._connection is None and self._attempt is None:
            self._attempt = asyncio.get_running_loop().create_task(self._try())

    async def _try(self) -> None:
        try:
            session = await self._dialling.dial(self.target)
        except Exception as error:  # noqa: BLE001 - the boundary of a task; the next attempt comes
            outcome: Dialled | DialFailed = DialFailed(str(error) or type(error).__name__)
        else:
            outcome = Dialled(session)
        send(self.actor_ref, outcome)

    def _on_dialled(self, session: Session) -> None:
        if self._other_session is not None:
            self._attempt = None
            session.close(SessionCode.NO_ERROR, "one session is enough")
        elif not send(self._dialling.gate, m.OpenDialled(session, self.actor_ref)):
            self._attempt = None
            session.close(SessionCode.INTERNAL, "internal error")
            self._fail("internal error")

    def _on_opened(self, connection: Ref | None) -> None:
        self._attempt = None
        self._connection = connection
        if connection is None:
            self._fail("internal error")
        elif self._other_session is not None:
            send(connection, m.CloseSession(SessionCode.NO_ERROR, "one session is enough"))

    def _fail(self, reason: str) -> None:
        """Dial again later, unless the other relay has dialled."""
        if self._other_session is not None:
            return
        delay = self._delay * self.runtime.random.uniform(0.5, 1.0)
        self._delay = min(2 * self._delay, LONGEST_DELAY)
        # log the same error once; /state always shows it
        level = logging.DEBUG if reason == self._error else logging.WARNING
        self._log.log(level, "failed", reason=reason, next_attempt=Seconds(delay))
        self._error = reason
        self._dial_in(delay)

    # --- the session

    def _on_connected(self, message: m.PeerConnected) -> None:
        if message.connection != self._connection:
            return
        self._up = Connected(message.session, self.runtime.now())
        self._connected()
        self._log.info("connected", session=message.session)
        send(self._cluster, message._replace(peer=self.actor_ref))

    def _connected(self) -> None:
        self._error = None
        self._unclean = False
        self._cancel_stale()

    def _on_disconnected(self, message: m.PeerDisconnected) -> None:
        if message.connection != self._connection:
            return
        self._connection = None
        self._unclean = message.lost
        if self._up is not None and self.runtime.now() - self._up.since >= HEALTHY:
            self._delay = FIRST_DELAY
        self._up = None
        send(self._cluster, message._replace(peer=self.actor_ref))
        self._fail(message.reason)
        self._leave_if_gone()

    def _on_other_session(self, session: int | None) -> None:
        """Another session with the same relay began or ended."""
        if session == self._other_session:
            return
        self._other_session = session
        if session is None:
            if self._connection is None and self._attempt is None:
                self._dial_in(0.0 if self._first else PATIENCE * self.runtime.random.random())
            self._leave_if_gone()
            return
        self._connected()
        if self._connection is not None:
            send(self._connection, m.CloseSession(SessionCode.NO_ERROR, "one session is enough"))

    def _leave_if_gone(self) -> None:
        """The relay has withdrawn its name: after `STALE` if its session broke off, since it may return."""
        if not self._withdrawn or self._connection is not None or self._other_session is not None:
            return
        if self._unclean:
            self._cancel_stale()
            self._stale = self.call_later(STALE, Stale())
        else:
            self.stop()

    def _cancel_stale(self) -> None:
        if self._stale is not None:
            self._stale.cancel()
            self._stale = None

    def _describe(self) -> PeerRow:
        session = None if self._up is None else self._up.session
        return PeerRow(
            node=self.target,
            state=self._state,
            dialled_by="us" if self._other_session is None else "it",
            since=None,
            session=session if self._other_session is None else self._other_session,
            error=self._error,
        )
