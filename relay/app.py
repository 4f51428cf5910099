"""The relay put together: configuration in, running servers and actors out, and an orderly end.

Owns wiring, start, reload and stop; holds no protocol or routing logic. Called by `relay.process`, and by programs that
embed a relay:

    async with Relay(config) as relay:
        print(relay.url)
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import ssl
import time
from collections import Counter
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from relay.actors import messages as m
from relay.actors.cluster import ClusterActor
from relay.actors.environment import Environment
from relay.actors.expiry import Expiries
from relay.actors.gate import GateActor
from relay.actors.ingest import random_hop
from relay.actors.keeper import KeeperActor
from relay.actors.ledger import LedgerActor
from relay.actors.origin import OriginActor
from relay.actors.peer import Dialling
from relay.actors.runtime import ActorDeadError, Ref, ask, send, stop
from relay.auth.authenticator import Authenticator, Keys, OneKey
from relay.auth.claims import Claims
from relay.auth.key import KeyFileError, unverified_claims
from relay.auth.key_directory import KeyDirectory
from relay.auth.permissions import Permissions, UnauthorizedError
from relay.auth.throttle import Throttle
from relay.config import Auth, Config, ConfigError, Https, listed, taken_over
from relay.model.address import readable_address
from relay.model.limits import Limits
from relay.model.strangers import Strangers
from relay.transport.client import ClientTls
from relay.transport.dialler import Dialler, TokenError
from relay.transport.places import Places
from relay.transport.quic.certificates import (
    CertificateError,
    CertificatePair,
    CertificateStore,
    load_pair,
    load_pairs,
)
from relay.transport.quic.endpoint import QuicServer
from relay.transport.quic.qlog import QlogDirectory
from relay.transport.quic.validity import ValidityWatch
from relay.transport.session import SessionRequest
from relay.transport.sockets import bind_tcp
from relay.version import VERSION
from relay.web.key_server import KeyServer
from relay.web.listener import WebServer
from relay.web.metrics import LoopLag, Metrics
from relay.web.server import Readers, Services, build, internal
from relay.web.state import Sources
from relay.web.websocket import Sessions, accept_sessions
from relay.wire.errors import SessionCode
from relay.wire.version import Version

logger = logging.getLogger("relay")

CERTIFICATES_INTERVAL: Final = 3_600.0
"""Seconds between looks at when certificates end."""


class HttpsCertificate(NamedTuple):
    """What `[web.https]` proves itself with."""

    context: ssl.SSLContext
    pair: CertificatePair


AS_CLIENT: Final = (
    "a relay like this one takes us for a client: it names no other members to us and does not tell them of us, and "
    "what comes through us counts as published by us"
)
"""What a relay does not do for a session without the rights of a relay."""


class Relay:
    """One relay in this process. Start and stop it with `async with`."""

    def __init__(self, config: Config) -> None:
        """Raises ConfigError for keys and certificates that cannot be used."""
        self._config = config
        self._limits = config.limits
        self._authenticator = Authenticator(
            keys=self._load_keys(config.auth),
            public=_public(config.auth),
            throttle=Throttle(
                failures=config.limits.auth_failures, delay=config.limits.auth_delay, clock=time.monotonic
            ),
            waiting=config.limits.auth_waiting,
        )
        tls = config.server.tls
        try:
            pairs = load_pairs(tls.cert, tls.key)
            self._certificates = CertificateStore(pairs, tls.generate, dt.datetime.now(dt.UTC))
        except CertificateError as error:
            raise ConfigError([f"[server.tls]: {error}"]) from None
        self._dialler = self._load_dialler()
        self._connections: dict[int, Ref] = {}
        """The gate's, which alone changes it."""
        self._gate: Ref | None = None
        self._origin: Ref | None = None
        self._cluster: Ref | None = None
        self._ledger: Ref | None = None
        self._keeper: Ref | None = None
        self._hop = random_hop() if config.cluster.id is None else config.cluster.id
        self._quic: QuicServer | None = None
        self._web: WebServer | None = None
        self._internal_web: WebServer | None = None
        self._http: list[tuple[str, int]] = []
        self._https_addresses: list[tuple[str, int]] = []
        self._internal: list[tuple[str, int]] = []
        self._since = time.time()
        self._expiries = Expiries()
        self._strangers = Strangers([v.name_on_wire for v in config.server.version], time.monotonic)
        self._lag = LoopLag()
        self._next_look: asyncio.TimerHandle | None = None
        self._refused: Counter[str] = Counter()
        self._readers = Readers()
        self._retiring: set[asyncio.Task[None]] = set()
        self._addresses = Places("sessions_address", config.limits.sessions_address, self._refused)
        https = config.web.https
        self._https = self._load_https(https) if config.https_listen is not None else None
        self._validity = ValidityWatch()
        self._look_at_certificates()
        self.failed = asyncio.Event()
        """Set if the relay cannot go on."""

    # --- start and stop --------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen and serve. Raises OSError with a message for people if an address cannot be had."""
        cluster = self._config.cluster
        origin = self._origin = OriginActor.start(
            on_failure=lambda _: self.failed.set(), linger=self._limits.linger, members=cluster.prefix
        )
        ledger = self._ledger = LedgerActor.start()
        self._keeper = KeeperActor.start(self._limits.cache)
        self._lag.start()
        self._plan_to_look_at_certificates()
        versions = self._config.server.version
        environment = Environment(
            origin=origin,
            hop=self._hop,
            limits=self._limits,
            versions=versions,
            authorize=self._authenticator.admit,
            ledger=ledger,
            keeper=self._keeper,
            members=cluster.prefix,
            expiries=self._expiries,
            strangers=self._strangers,
        )
        # Without a name of our own, what is published here stays here.
        offered = () if cluster.node is None else ("",)
        gate = self._gate = GateActor.start(
            environment=environment,
            dialled=Permissions("", ("",), offered, cluster=True),
            connections=self._connections,
            failed=self.failed,
        )
        self._cluster = ClusterActor.start(
            origin=origin,
            number=0,  # no session has it
            hop=self._hop,
            node=cluster.node,
            roots=tuple(root.target for root in cluster.root),
            prefix=cluster.prefix,
            mesh=cluster.mesh,
            limits=self._limits,
            dialling=Dialling(dial=self._dialler.dial, gate=gate),
        )
        send(gate, m.UseCluster(self._cluster))
        listen = self._config.server.listen
        self._quic = QuicServer(
            address=(listen.host, listen.port),
            certificates=self._certificates,
            settings=self._config.server.quic,
            limits=self._limits,
            versions=versions,
            on_request=self.accept,
            addresses=self._addresses,
            qlog=self._qlog(),
            strangers=self._strangers,
        )
        try:
            await self._quic.start()
            await self._start_web(origin, gate, ledger)
        except BaseException:
            await self.close()
            raise

    async def _start_web(self, origin: Ref, gate: Ref, ledger: Ref) -> None:
        assert self._quic is not None
        services = Services(
            sources=Sources(
                origin=origin,
                gate=gate,
                relay=self.identity,
                ledger=ledger,
                refused=(self._refused, self._authenticator.refused, self._quic.refused),
                links=lambda: 0 if self._quic is None else len(self._quic.links),
                segments_refused=lambda: 0 if self._quic is None else self._quic.segments_refused,
                cluster=self._cluster,
                members=self._config.cluster.prefix,
            ),
            authorize=self._authenticator.admit,
            fingerprint=self._current_fingerprint,
            readers=self._readers,
            expiries=self._expiries,
        )
        app = build(services)
        if self._config.web.ws:
            versions = self._config.server.version
            sessions = Sessions(self.admit, versions, lambda: self._limits, self._addresses, self._strangers)
            accept_sessions(app, sessions)
        self._web = WebServer(app, self._limits, self._refused)
        await self._web.start()
        http, https = self._config.http_listen, self._config.https_listen
        if http is not None:
            port = http.port or (self.port if http == self._config.server.listen else 0)
            sockets = bind_tcp(http.host, port)
            self._http = [sock.getsockname()[:2] for sock in sockets]
            await self._web.listen(sockets)
        await self._start_internal(services)
        if https is not None:
            sockets = bind_tcp(https.host, https.port)
            self._https_addresses = [sock.getsockname()[:2] for sock in sockets]
            await self._web.listen(sockets, None if self._https is None else self._https.context)

    def _qlog(self) -> QlogDirectory | None:
        directory, limits = self._config.server.qlog_dir, self._limits
        if directory is None:
            return None
        return QlogDirectory(directory, files=limits.qlog_files, events=limits.qlog_events)

    def _load_https(self, files: Https) -> HttpsCertificate:
        assert files.cert is not None
        assert files.key is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # says what is wrong with them; ssl would ask the terminal for a passphrase
            pair = load_pair(files.cert, files.key)
            context.load_cert_chain(files.cert, files.key)
        except (CertificateError, ssl.SSLError, OSError) as error:
            raise ConfigError([f"[web.https] cert, key: {error}"]) from None
        context.sni_callback = self._use_newest
        return HttpsCertificate(context, pair)

    def _use_newest(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:  # noqa: ARG002
        """For each handshake: a context that certificates are loaded into again keeps those of other key types."""
        if self._https is not None:
            connection.context = self._https.context

    def _plan_to_look_at_certificates(self) -> None:
        """Look again, for as long as the relay runs: a renewal may fail without anybody noticing."""
        self._look_at_certificates()
        loop = asyncio.get_running_loop()
        self._next_look = loop.call_later(CERTIFICATES_INTERVAL, self._plan_to_look_at_certificates)

    def _look_at_certificates(self) -> None:
        """Warn of those that have expired, will soon, or are not valid yet; renew the generated one."""
        now = dt.datetime.now(dt.UTC)
        self._certificates.renew_if_due(now)
        pairs = [("[server.tls]", pair) for pair in self._certificates.pairs]
        if self._https is not None:
            pairs.append(("[web.https]", self._https.pair))
        files = {
            f"{table} cert: {pair.file}": (pair.certificate, *pair.chain)
            for table, pair in pairs
            if pair.file is not None
        }
        for text in self._validity.news(files, now):
            logger.warning("%s", text)

    def _certificates_shown(self) -> list[dict[str, Any]]:
        """When the certificates end, for the debug API and the metrics; times in seconds since the epoch."""
        listed = [("quic", number, pair) for number, pair in enumerate(self._certificates.pairs, start=1)]
        if self._https is not None:
            listed.append(("https", 1, self._https.pair))
        return [
            {
                "listener": listener,
                "number": number,
                "name": pair.name,
                "generated": pair.file is None,
                "not_before": pair.certificate.not_valid_before_utc.timestamp(),
                "not_after": pair.certificate.not_valid_after_utc.timestamp(),
            }
            for listener, number, pair in listed
        ]

    def _load_keys(self, auth: Auth) -> Keys | None:
        """What tokens are checked with. Raises ConfigError."""
        try:
            if auth.key is not None:
                return OneKey.load(auth.key)
            if auth.key_directory is not None:
                return KeyDirectory(auth.key_directory)
        except (KeyFileError, OSError) as error:
            raise ConfigError([f"[auth] {'key' if auth.key else 'key_dir'}: {error}"]) from None
        if auth.key_url is None:
            return None
        root = self._config.client.tls.root
        try:
            tls = ssl.create_default_context(cafile=root[0]) if root else None
            for file in root[1:]:
                assert tls is not None
                tls.load_verify_locations(file)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError([f"[client.tls] root: {error}"]) from None
        return KeyServer(auth.key_url, tls)

    def _load_dialler(self) -> Dialler:
        """How other relays are reached. Raises ConfigError."""
        client, cluster = self._config.client, self._config.cluster
        dialler = Dialler(
            versions=self._config.server.version,
            settings=self._config.server.quic,
            tls=ClientTls(roots=client.tls.root or None, disable_verify=client.tls.disable_verify),
            bind=(client.bind.host, client.bind.port),
            token=cluster.token,
            tokens={root.target: token for root in cluster.root if (token := root.token or root.jwt)},
        )
        if cluster.token is not None or not cluster.others:
            self._check_token(dialler, "", f"[cluster] token: {cluster.token}")
        for root in cluster.others:
            if root.target in dialler.tokens:
                name = root.token or f"the one in the URL of {root}"
                self._check_token(dialler, root.target, f"[cluster] root: token {name}")
            elif cluster.token is None:
                text = "[cluster] root: no token for %s, which lets us in only if it is open to anyone: %s"
                logger.warning(text, root, AS_CLIENT)
        return dialler

    def _check_token(self, dialler: Dialler, target: str, place: str) -> None:
        """Warn of what others will not do for the token that `target` is shown. Raises ConfigError if it is none."""
        try:
            token = dialler.check(target)
        except CertificateError as error:
            raise ConfigError([f"[client.tls] root: {error}"]) from None
        except TokenError as error:
            raise ConfigError([f"{place.partition(':')[0]}: {error}"]) from None
        if token is None:
            return
        try:
            claims = unverified_claims(token)
        except UnauthorizedError as error:
            # relays of other makers may have claims of their own
            logger.warning("%s: a relay like this one refuses it: %s", place, error)
            return
        if not claims.cluster:
            logger.warning("%s is without the claim cluster (moq-token sign --cluster): %s", place, AS_CLIENT)
        if claims.expires is not None and claims.expires <= time.time():
            logger.warning("%s has expired, so no relay will let us in", place)

    def reload(self, config: Config | None = None) -> None:
        """Take over what of `config` can change at run time, for peers from now on; running sessions go on as they are.

        The files of certificates and of the key are read again in any case. Of `config`, the keys of
        `relay.config.changes.LIVE` are taken; others stay as they were at the start. Raises ConfigError if something
        cannot be used: everything stays as it was.
        """
        former = self._config
        wanted = taken_over(former, former if config is None else config)
        if wanted.web.https.cert is None or wanted.web.https.key is None:
            # HTTPS goes on until the restart that ends it
            wanted = wanted.model_copy(
                update={"web": wanted.web.model_copy(update={"https": former.web.https})}
            )
        tls, auth = wanted.server.tls, wanted.auth
        try:
            pairs = load_pairs(tls.cert, tls.key)
            https = None if self._https is None else self._load_https(wanted.web.https)
            keys = self._authenticator.keys
            if auth.key is not None or (auth.key, auth.key_dir) != (former.auth.key, former.auth.key_dir):
                keys = self._load_keys(auth)
            self._certificates.replace(pairs)
        except CertificateError as error:
            raise ConfigError([f"[server.tls]: {error}"]) from None
        # Nothing can fail from here on.
        self._config = wanted
        self._https = https
        self._validity = ValidityWatch()
        self._look_at_certificates()
        self._use_auth(keys, auth, wanted.limits)
        self._use_limits(wanted.limits)
        logger.info("reloaded sha256=%s changed=%s", self.fingerprint, listed(former, wanted) or "none")
        left = "" if config is None else listed(wanted, config)
        if left:
            logger.warning("needs a restart: %s", left)

    def _use_auth(self, keys: Keys | None, auth: Auth, limits: Limits) -> None:
        authenticator = self._authenticator
        if isinstance(authenticator.keys, KeyServer) and authenticator.keys is not keys:
            task = asyncio.get_running_loop().create_task(authenticator.keys.retire())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        authenticator.keys = keys
        authenticator.public = _public(auth)
        authenticator.waiting = limits.auth_waiting
        authenticator.throttle.failures = limits.auth_failures
        authenticator.throttle.delay = limits.auth_delay

    def _use_limits(self, limits: Limits) -> None:
        """Sessions keep those they began with, and so do the tracks that they publish."""
        self._limits = limits
        if self._quic is not None:
            self._quic.use(limits)
        self._addresses.limit = limits.sessions_address
        for web in (self._web, self._internal_web):
            if web is not None:
                web.use(limits)
        for actor in (self._gate, self._origin, self._cluster, self._keeper):
            if actor is not None:
                send(actor, m.NewLimits(limits))

    async def _start_internal(self, services: Services) -> None:
        listen = self._config.internal_listen
        try:
            sockets = bind_tcp(listen.host, listen.port)
        except OSError as error:
            if self._config.internal.listen is not None:
                raise
            logger.warning("no internal listener: %s", error.strerror)
            return
        self._internal = [sock.getsockname()[:2] for sock in sockets]
        metrics = Metrics(services.sources, self._lag)
        app = build(internal(services, metrics, lambda: self._config.internal.hosts))
        self._internal_web = WebServer(app, self._limits, self._refused)
        await self._internal_web.start()
        await self._internal_web.listen(sockets)

    async def drain(self) -> None:
        """Before `close`: take no more sessions, ask those there are to leave, and serve them until they have.

        That takes `[limits] drain` seconds at most, and none if nobody is there. Other relays of the cluster are not
        waited for: they stay, for the sake of those who are.
        """
        if self._limits.drain and self._quic is not None:
            self._quic.draining = True
            await self._ask_gate(m.DrainSessions())

    async def _ask_gate(self, message: object) -> None:
        if self._gate is not None:
            with suppress(ActorDeadError):  # it has failed
                await ask(self._gate, message, timeout=None)

    async def close(self, reason: str = "server shutdown") -> None:
        """Say goodbye to every session, stop listening, end every actor."""
        self._lag.stop()
        if self._next_look is not None:
            self._next_look.cancel()
        await self._stop(self._cluster)  # first, or it would dial those who leave
        self._readers.end()
        await self._ask_gate(m.CloseSessions(reason))
        for server in (self._web, self._internal_web):
            if server is not None:
                await server.close()
        self._web = self._internal_web = None
        if self._quic is not None:
            await self._quic.close(SessionCode.NO_ERROR, reason, self._limits.close_timeout)
            self._quic = None
        await self._ask_gate(m.EndSessions())
        await self._stop(self._gate, self._origin, self._ledger, self._keeper)
        self._gate = self._origin = self._ledger = self._keeper = self._cluster = None
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        if isinstance(self._authenticator.keys, KeyServer):
            await self._authenticator.keys.close()

    @staticmethod
    async def _stop(*actors: Ref | None) -> None:
        there = [actor for actor in actors if actor is not None]
        answers = await asyncio.gather(*(stop(actor, timeout=1.0) for actor in there), return_exceptions=True)
        for actor, answer in zip(there, answers, strict=True):
            if isinstance(answer, TimeoutError):
                logger.warning("%s did not end in time", actor)
            elif isinstance(answer, BaseException):
                raise answer

    # --- sessions --------------------------------------------------------------------------------------------------

    def accept(self, request: SessionRequest, versions: tuple[Version, ...] | None = None) -> None:
        """Answer a peer that wants a session, as soon as it is clear what it may do.

        The relay's own listeners call it; a program that embeds the relay may call it for listeners of its own, with
        the versions that those offer.
        """
        assert self._gate is not None
        if not send(self._gate, m.Admit(request, versions)):
            request.reject(503, "the relay is about to end")

    async def admit(self, request: SessionRequest, versions: tuple[Version, ...] | None = None) -> None:
        """As `accept`, and return when the peer has its answer."""
        assert self._gate is not None
        try:
            await ask(self._gate, m.Admit(request, versions), timeout=None)
        except ActorDeadError:
            request.reject(503, "the relay is about to end")

    def _current_fingerprint(self) -> str:
        self._certificates.renew_if_due(dt.datetime.now(dt.UTC))
        return self._certificates.fingerprint

    # --- where it is -----------------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """UDP port."""
        assert self._quic is not None
        return self._quic.addresses[0][1]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the first certificate, as hex."""
        return self._certificates.fingerprint

    @property
    def origin(self) -> Ref:
        """The directory actor, for programs that embed the relay."""
        assert self._origin is not None
        return self._origin

    @property
    def connections(self) -> dict[int, Ref]:
        """Live connection actors by number."""
        return dict(self._connections)

    @property
    def limits(self) -> Limits:
        """Those in force for whoever comes now."""
        return self._limits

    @property
    def internal_url(self) -> str:
        """URL of the internal listener."""
        return f"http://localhost:{self._internal[0][1]}/"

    @property
    def url(self) -> str:
        """A URL for a client on this machine; it finds the certificate by itself."""
        return f"http://localhost:{self._http[0][1]}/" if self._http else f"https://localhost:{self.port}/"

    def _may_sign(self) -> bool:
        """Whether whoever runs the relay has a key to sign tokens with, and not only to check them."""
        keys = self._authenticator.keys
        return isinstance(keys, OneKey) and keys.key.private and "sign" in keys.key.operations

    def identity(self) -> dict[str, Any]:
        """Who this relay is, for the debug API. Hop ids are strings: they exceed what a double holds."""
        assert self._quic is not None
        public = self._config.auth.public
        return {
            "version": VERSION,
            "hop": str(self._hop),
            "since": self._since,
            "certificate": self.fingerprint,
            "certificates": self._certificates_shown(),
            "listen": {
                "quic": _written(self._quic.addresses),
                "http": _written(self._http),
                "https": _written(self._https_addresses),
                "internal": _written(self._internal),
            },
            "versions": [version.name_on_wire for version in self._config.server.version],
            "public": None if public is None else {"publish": public.publish, "subscribe": public.subscribe},
            "node": self._config.cluster.node,
            "draining": self._quic.draining,
        }

    def banner(self) -> str:
        """What a person wants to know at start."""
        assert self._quic is not None
        urls = f"WebTransport https://localhost:{self.port}/, raw QUIC moqt://localhost:{self.port}/"
        lines = [f"moq-relay {VERSION}", f"  QUIC   {_listed(self._quic.addresses)} UDP: {urls}"]
        if self._http:
            lines.append(
                f"  HTTP   {_listed(self._http)} TCP: http://localhost:{self._http[0][1]}/announced/"
            )
        if self._https_addresses:
            port = self._https_addresses[0][1]
            lines.append(
                f"  HTTPS  {_listed(self._https_addresses)} TCP: https://localhost:{port}/announced/"
            )
        if self._internal:
            port = self._internal[0][1]
            lines.append(
                f"  operator {_listed(self._internal)} TCP: dashboard http://localhost:{port}/, /state, /metrics"
            )
        versions = ", ".join(v.name_on_wire for v in sorted(self._config.server.version))
        if self._config.server.listen.hosts[0] in ("127.0.0.1", "::1"):
            lines.append(
                f"  only this machine can connect, as [server] listen is {self._config.server.listen}"
            )
        auth = self._config.auth
        lines += [
            f"  speaks {versions}",
            f"  access {'; '.join(auth.rights())}",
            f"  certificate sha256 {self.fingerprint}",
        ]
        open_to_all = None if auth.public is None else auth.public.both
        if open_to_all is not None:
            url = self.url + (f"{open_to_all}/" if open_to_all else "")
            lines += [
                "try it, each in a terminal of its own:",
                f"  moq-clock publish {url}",
                f"  moq-clock watch {url}",
            ]
            if self._http:
                lines.append(f"  curl {self.url}announced/{open_to_all}")
        elif self._may_sign():
            lines += [
                "try it, with a token that is good for an hour:",
                f"  moq-token sign --key {auth.key} --root demo --publish '' --subscribe '' --expires 1h > demo.jwt",
                f'  moq-clock publish {self.url}demo --jwt "$(cat demo.jwt)"',
                f'  moq-clock watch {self.url}demo --jwt "$(cat demo.jwt)"',
            ]
        return "\n".join(lines)


def _public(auth: Auth) -> Claims | None:
    """What anyone may do without a token."""
    public = auth.public
    return None if public is None else Claims(publish=public.publish, subscribe=public.subscribe)


def _written(addresses: list[tuple[str, int]]) -> list[str]:
    return [readable_address(*address) for address in addresses]


def _listed(addresses: list[tuple[str, int]]) -> str:
    return ", ".join(_written(addresses))


def check(config: Config) -> None:
    """Whether a relay could start with it, as far as one can tell without listening. Raises ConfigError."""
    Relay(config)
