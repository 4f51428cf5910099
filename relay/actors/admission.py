"""Authorization of a peer: by the gate if the path is known before the session, else by the connection actor."""

from __future__ import annotations

from http import HTTPStatus
from typing import NamedTuple

from relay.actors.environment import Environment
from relay.actors.events import Happened
from relay.actors.runtime import send
from relay.auth.permissions import Permissions, Reason, UnauthorizedError
from relay.logger import Logger
from relay.model.events import Kind
from relay.transport.session import Session, SessionRequest


class Rejection(NamedTuple):
    """HTTP status, and the reason that the peer gets."""

    status: int
    reason: str
    lacks_token: bool = False  # one could still change it
    expired: bool = False  # its token


async def decide(
    environment: Environment, peer: Session | SessionRequest, path: str, query: str, log: Logger
) -> Permissions | Rejection:
    """`log` is bound to the session."""
    try:
        return await environment.authorize(path, query, peer.remote)
    except UnauthorizedError as error:
        log.info("refused", transport=peer.transport, remote=peer.remote, path=path, reason=error)
        if environment.events is not None:
            send(environment.events, Happened(Kind.REFUSED, None, peer.remote, path, error.answer))
        needed, expired = error.reason is Reason.NEEDED, error.reason is Reason.EXPIRED
        return Rejection(error.status, error.answer, needed, expired)
    except Exception:  # the peer must get an answer
        log.exception("authorisation failed")
        return Rejection(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error")
