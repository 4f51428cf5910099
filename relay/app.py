"""The relay as a whole: builds, connects and closes servers and actors.

Programs embed it: `async with Relay(config) as relay: print(relay.url)`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Self

from relay.actors.runtime import Ref
from relay.actors.system import ActorSystem
from relay.certificates import Certificates
from relay.config import Config
from relay.config.changes import listed, taken_over
from relay.credentials import (
    load_authenticator,
    load_membership,
    may_sign,
    public_claims,
    reloaded_keys,
    reset_tokens,
)
from relay.identity import Listening, banner, identity
from relay.logger import get_logger
from relay.model.limits import Limits
from relay.quic.qlog import QlogDirectory
from relay.runtime import Runtime
from relay.transport.quic_server import QuicServer
from relay.transport.session import SessionRequest
from relay.transport.slots import Slots
from relay.web.rows import Identity
from relay.web.server import Services
from relay.web.servers import WebServers
from relay.web.state import Sources
from relay.web.websocket import Sessions
from relay.wire.errors import SessionCode
from relay.wire.version import AnyVersion

logger = get_logger("relay")


class Relay:
    """A relay in this process. Start and stop it with `async with`."""

    def __init__(self, config: Config, runtime: Runtime | None = None) -> None:
        """Raises ConfigError for unusable keys and certificates."""
        self._config = config
        self.runtime = runtime = runtime or Runtime()
        self._authenticator = load_authenticator(config, runtime)
        self._certificates = Certificates(config, runtime)
        self._membership = load_membership(config, runtime)
        self._since = runtime.wall_time()
        self._refused: Counter[str] = Counter()  # of listeners, by limit
        most = config.limits.sessions_address
        self._addresses = Slots("sessions_address", most, self._refused, runtime.now)
        self._listening = Listening()
        self._actors: ActorSystem | None = None
        self._quic: QuicServer | None = None
        self._web: WebServers | None = None
        self.failed = asyncio.Event()  # by a fatal failure

    # --- start and stop

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen and serve. Raises OSError with a human-readable message if an address is not available."""
        server = self._config.server
        self._certificates.start()
        actors = self._actors = ActorSystem(
            self.runtime,
            limits=self.limits,
            versions=server.version,
            spoken=[version.name_on_wire for version in server.version],
            authorize=self._authenticator.admit_session,
            membership=self._membership,
            failed=self.failed,
        )
        qlog, files, events = server.qlog_dir, self.limits.qlog_files, self.limits.qlog_events
        quic = self._quic = QuicServer(
            runtime=self.runtime,
            address=(server.listen.host, server.listen.port),
            certificates=self._certificates.store,
            settings=server.quic,
            limits=self.limits,
            versions=server.version,
            on_request=self.accept,
            addresses=self._addresses,
            qlog=None if qlog is None else QlogDirectory(qlog, files=files, events=events),
            incompatible=actors.incompatible,
            tokens=reset_tokens(server, self.runtime),
        )
        try:
            await quic.start()
            self._listening.quic = quic.addresses
            await self._start_web(actors, quic)
        except BaseException:
            await self.close()
            raise

    async def _start_web(self, actors: ActorSystem, quic: QuicServer) -> None:
        config, listening, runtime = self._config, self._listening, self.runtime
        services = Services(
            sources=Sources(
                runtime=runtime,
                origin=actors.origin,
                gate=actors.gate,
                relay=self.identity,
                counters=actors.counters,
                refused=(self._refused, self._authenticator.refused, quic.refused),
                quic_connections=lambda: len(quic.connections),
                segments_refused=lambda: quic.segments_refused,
                cluster=actors.cluster,
                members=config.cluster.prefix,
                events=actors.events,
                receive_drops=lambda: quic.receive_drops,
            ),
            authorize=self._authenticator.admit,
            fingerprint=self._certificates.renewed_fingerprint,
            expiries=actors.expiries,
            hosts=lambda: self._config.internal.hosts,
        )
        web = self._web = WebServers(services, self.limits, self._refused)
        versions, incompatible = config.server.version, actors.incompatible
        sessions = Sessions(self.admit, versions, lambda: self.limits, self._addresses, incompatible, runtime)
        await web.start(sessions if config.web.ws else None)
        http, https, internal = config.http_listen, config.https_listen, config.internal_listen
        if http is not None:
            port = http.port or (self.port if http == config.server.listen else 0)
            listening.http = await web.listen_public(http.host, port)
        listening.internal = await web.listen_internal(
            internal.host, internal.port, required=config.internal.listen is not None
        )
        if https is not None:
            listening.https = await web.listen_public(https.host, https.port, self._certificates.tls)

    def reload(self, config: Config | None = None) -> None:
        """Apply the keys of `relay.config.changes.LIVE` to new peers; existing sessions continue unchanged.

        Reads certificates and the key file again. Raises ConfigError and changes nothing if one is unusable.
        """
        former = self._config
        wanted = taken_over(former, former if config is None else config)
        loaded = self._certificates.load(wanted)
        keys = reloaded_keys(former, wanted, self._authenticator.keys, self.runtime)
        self._certificates.use(loaded)
        # nothing can fail from here on
        self._config = wanted
        self._authenticator.use(keys, public_claims(wanted.auth), wanted.limits)
        self._addresses.limit = wanted.limits.sessions_address
        for part in (self._actors, self._quic, self._web):
            if part is not None:
                part.use(wanted.limits)
        logger.info("reloaded", sha256=self.fingerprint, changed=listed(former, wanted) or "none")
        if left := "" if config is None else listed(wanted, config):
            logger.warning("needs a restart", changed=left)

    async def drain(self) -> None:
        """Reject new sessions and let others leave, before `close`, for `[limits] drain` seconds at most."""
        if self.limits.drain and self._quic is not None and self._actors is not None:
            self._quic.draining = True
            await self._actors.drain()

    async def close(self, reason: str = "server shutdown") -> None:
        """Close every session, stop listening, end every actor."""
        self._certificates.stop()
        if self._web is not None:
            self._web.end_readers()
        if self._actors is not None:
            await self._actors.close_sessions(reason)
        if self._web is not None:
            await self._web.close()
            self._web = None
        if self._quic is not None:
            await self._quic.close(SessionCode.NO_ERROR, reason, self.limits.close_timeout)
            self._quic = None
        if self._actors is not None:
            await self._actors.end()
            self._actors = None
        await self._authenticator.close()

    def accept(self, request: SessionRequest, versions: tuple[AnyVersion, ...] | None = None) -> None:
        """Answer a session request once the peer's permissions are known. `versions`: the listener's."""
        assert self._actors is not None
        self._actors.accept(request, versions)

    async def admit(self, request: SessionRequest, versions: tuple[AnyVersion, ...] | None = None) -> None:
        """Like `accept`, but returns when the peer has its answer."""
        assert self._actors is not None
        await self._actors.admit(request, versions)

    @property
    def port(self) -> int:
        """UDP port."""
        return self._listening.quic[0][1]

    @property
    def fingerprint(self) -> str:
        return self._certificates.fingerprint

    @property
    def origin(self) -> Ref:
        """The directory actor, for programs that embed the relay."""
        assert self._actors is not None
        return self._actors.origin

    @property
    def connections(self) -> dict[int, Ref]:
        return {} if self._actors is None else dict(self._actors.connections)

    @property
    def limits(self) -> Limits:
        return self._config.limits

    @property
    def internal_url(self) -> str:
        return f"http://localhost:{self._listening.internal[0][1]}/"

    @property
    def url(self) -> str:
        """URL for a client on this machine, which fetches the certificate by itself."""
        return self._listening.url

    def identity(self) -> Identity:
        draining = self._quic is not None and self._quic.draining
        known = self._membership.hop, self._since, self.fingerprint, self._certificates.rows()
        return identity(self._config, self._listening, *known, draining=draining)

    def banner(self) -> str:
        signs = may_sign(self._authenticator.keys)
        return banner(self._config, self._listening, self.fingerprint, may_sign=signs)


def check(config: Config) -> None:
    """Check a configuration without listening. Raises ConfigError."""
    Relay(config)
