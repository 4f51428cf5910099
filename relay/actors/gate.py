"""Admits sessions, owns their actors and numbers, limits `sessions` and `readers`. `drain.py` ends them."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections import Counter
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, NamedTuple

from relay.actors import messages as m
from relay.actors.admission import Rejection, decide
from relay.actors.connection import ConnectionActor
from relay.actors.drain import Drain, DrainOver
from relay.actors.environment import Environment
from relay.actors.runtime import LoopActor, LoopFuture, Ref, send
from relay.auth.permissions import Permissions
from relay.logger import get_logger
from relay.transport.session import Session, SessionRequest
from relay.wire.errors import SessionCode

logger = get_logger("relay")


class Decided(NamedTuple):
    """The outcome of authorization."""

    number: int
    outcome: Permissions | Rejection


class Admission(NamedTuple):
    """A peer without an answer yet."""

    request: SessionRequest
    environment: Environment
    answered: LoopFuture
    task: asyncio.Task[None]


class Traffic:
    """Bytes of all sessions since the start. The transports count; asking each actor would cost too much."""

    def __init__(self) -> None:
        self._sessions: dict[int, Session] = {}
        self._received = self._sent = 0  # of ended sessions

    def begin(self, number: int, session: Session) -> None:
        self._sessions[number] = session

    def end(self, number: int) -> None:
        session = self._sessions.pop(number, None)
        if session is not None:
            stats = session.stats()
            self._received += stats.bytes_received
            self._sent += stats.bytes_sent

    def total(self) -> tuple[int, int]:
        """Received, and sent."""
        received, sent = self._received, self._sent
        for session in self._sessions.values():
            stats = session.stats()
            received += stats.bytes_received
            sent += stats.bytes_sent
        return received, sent


class GateActor(LoopActor):
    """One per relay."""

    def __init__(
        self,
        *,
        environment: Environment,
        dialled: Permissions,
        connections: dict[int, Ref],
        failed: asyncio.Event,
    ) -> None:
        """`dialled`: permissions of relays we dial. Only the gate changes `connections`; its failure sets `failed`."""
        super().__init__(environment.runtime)
        self._environment = environment
        self._dialled = dialled
        self._connections = connections
        self._failed = failed
        self._numbers = itertools.count(1)
        self._admissions: dict[int, Admission] = {}
        self._readers: set[object] = set()
        self._refused: Counter[str] = Counter()
        self._drain = Drain(self.runtime, connections, self._readers)
        self._traffic = Traffic()

    def __str__(self) -> str:
        return "gate"

    # --- life

    def on_receive(self, message: object) -> object:  # noqa: C901, PLR0912 - one line per message
        match message:
            case m.Admit():
                return self._on_admit(message)
            case Decided():
                self._on_decided(message)
            case m.OpenDialled():
                self._on_dialled(message)
            case m.SessionGone():
                self._connections.pop(message.session, None)
                self._traffic.end(message.session)
                self._drain.on_gone(message.session)
            case m.EnterReader():
                return self._on_reader(message.reader)
            case m.LeaveReader():
                self._readers.discard(message.reader)
                self._drain.end_if_empty()
            case m.DescribeGate():
                sessions = tuple(self._connections.values())
                return m.GateReport(self._drain.begun, sessions, dict(self._refused))
            case m.MeasureGate():
                return m.GateFigures(len(self._connections), *self._traffic.total(), dict(self._refused))
            case m.CloseByOperator():
                return self._on_operator(message.session)
            case m.NewLimits():
                self._environment = replace(self._environment, limits=message.limits)
            case m.UseCluster():
                self._environment = replace(self._environment, cluster=message.cluster)
            case m.DrainSessions():
                return self._drain.begin(self._environment, self.call_later)
            case m.Draining():
                self._drain.on_draining(message)
            case DrainOver():
                self._drain.end()
            case m.CloseSessions():
                self._cancel_admissions()
                self._drain.close(message.reason)
            case _:
                return super().on_receive(message)
        return None

    def on_dead_letter(self, message: object) -> None:
        match message:
            case m.Admit():
                message.request.reject(503, "the relay is about to end")
            case m.OpenDialled():
                message.session.close()

    def on_end(self, error: BaseException | None) -> None:
        if error is not None:
            self._failed.set()
            for connection in self._connections.values():
                send(connection, m.CloseSession(SessionCode.INTERNAL, "internal error"))
        self._cancel_admissions()
        self._connections.clear()
        self._drain.reply()

    # --- admission

    def _on_admit(self, message: m.Admit) -> LoopFuture | None:
        """A future if the peer's answer comes later."""
        request, environment = message.request, self._environment
        if message.versions is not None:
            environment = replace(environment, versions=message.versions)
        number = next(self._numbers)
        if self._rejected(request):
            return None
        if len(self._connections) + len(self._admissions) >= environment.limits.sessions:
            self._refused["sessions"] += 1
            request.reject(503, "too many sessions")
            return None
        if request.path is None:  # not known yet
            self._accept(number, request, environment, None)
            return None
        task = begin(self._authorize(number, request.path, request))
        admission = self._admissions[number] = Admission(request, environment, LoopFuture(), task)
        return admission.answered

    async def _authorize(self, number: int, path: str, request: SessionRequest) -> None:
        log = logger.bind(session=number)
        outcome = await decide(self._environment, request, path, request.query, log)
        send(self.actor_ref, Decided(number, outcome))

    def _on_decided(self, message: Decided) -> None:
        admission = self._admissions.pop(message.number, None)
        if admission is None:
            return
        request, outcome = admission.request, message.outcome
        if isinstance(outcome, Rejection) and outcome.lacks_token and request.token_may_follow:
            self._accept(message.number, request, admission.environment, None)
        elif not isinstance(outcome, Permissions):
            request.reject(outcome.status, outcome.reason)
        elif not self._rejected(request):
            self._accept(message.number, request, admission.environment, outcome)
        admission.answered.set()

    def _rejected(self, request: SessionRequest) -> bool:
        if not self._drain.begun:
            return False
        self._refused["draining"] += 1
        request.reject(503, "the relay is about to end")
        return True

    def _accept(
        self, number: int, request: SessionRequest, environment: Environment, permissions: Permissions | None
    ) -> None:
        try:
            session = request.accept()
        except Exception:  # a listener's fault affects its own peers alone
            logger.exception("a session cannot be accepted", session=number)
            return
        self._start(number, session, environment, permissions, offered=request.offered)

    def _start(
        self,
        number: int,
        session: Session,
        environment: Environment,
        permissions: Permissions | None,
        **options: Any,
    ) -> Ref | None:
        """The connection, or None if the actor did not start: the session is closed."""
        try:
            connection: Ref = ConnectionActor.start(
                session=session,
                number=number,
                environment=environment,
                permissions=permissions,
                gate=self.actor_ref,
                **options,
            )
        except Exception:  # other sessions go on
            logger.exception("a session cannot begin", session=number)
            session.close(SessionCode.INTERNAL, "internal error")
            return None
        self._connections[number] = connection
        self._traffic.begin(number, session)
        return connection

    def _on_dialled(self, message: m.OpenDialled) -> None:
        number, peer = next(self._numbers), message.peer
        connection = self._start(number, message.session, self._environment, self._dialled, peer=peer)
        if connection is not None:
            self._drain.peers.add(number)
            if not send(peer, m.DialledOpened(connection)):
                send(connection, m.CloseSession(SessionCode.NO_ERROR, "no longer a peer"))
        else:
            send(peer, m.DialledOpened(None))

    def _on_reader(self, reader: object) -> m.ReaderEntered:
        if self._drain.begun:
            return m.ReaderEntered(None, draining=True)
        if len(self._readers) >= self._environment.limits.readers:
            self._refused["readers"] += 1
            return m.ReaderEntered(None, draining=False)
        self._readers.add(reader)
        return m.ReaderEntered(next(self._numbers), draining=False)

    def _on_operator(self, number: int) -> bool:
        connection = self._connections.get(number)
        close = m.CloseSession(SessionCode.NO_ERROR, "closed by the operator")
        return connection is not None and send(connection, close)

    def _cancel_admissions(self) -> None:
        for admission in self._admissions.values():
            admission.task.cancel()
            admission.answered.set()
        self._admissions.clear()


def begin(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run `work` as a task. From Python 3.12 on it starts at once, and mostly ends without blocking."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=asyncio.get_running_loop(), eager_start=True)
    return asyncio.get_running_loop().create_task(work)
