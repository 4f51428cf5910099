"""The certificates of a relay for QUIC and HTTPS: reads them and warns before they end. Errors name `[table] key`.

`quic/certificate_store.py` decides when the generated one is renewed; it is asked here, hourly and by HTTP.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from relay.config import Config, ConfigError, Https
from relay.logger import get_logger
from relay.quic.certificate_store import (
    CertificateError,
    CertificatePair,
    CertificateStore,
    load_pair,
    load_pairs,
)
from relay.quic.validity import ValidityWatch
from relay.runtime import Runtime
from relay.web.rows import CertificateRow

logger = get_logger("relay")

INTERVAL: Final = 3_600.0  # seconds


class HttpsCertificate(NamedTuple):
    """The certificate of `[web.https]`."""

    context: ssl.SSLContext
    pair: CertificatePair


class Loaded(NamedTuple):
    """Certificates read at a reload, not yet in use."""

    pairs: Sequence[CertificatePair]
    https: HttpsCertificate | None


@contextmanager
def _faults_of(place: str) -> Iterator[None]:
    try:
        yield
    except (CertificateError, OSError) as error:  # an SSLError is an OSError
        raise ConfigError([f"{place}: {error}"]) from None


class Certificates:
    """All certificates."""

    def __init__(self, config: Config, runtime: Runtime) -> None:
        """Raises ConfigError."""
        self._runtime = runtime
        tls = config.server.tls
        try:
            self.store = CertificateStore(load_pairs(tls.cert, tls.key), tls.generate, runtime.date())
        except CertificateError as error:
            raise ConfigError([f"[server.tls]: {error}"]) from None
        self._https = self._load_https(config.web.https) if config.https_listen is not None else None
        self._validity = ValidityWatch()
        self._next_look: asyncio.TimerHandle | None = None
        self.look()

    @property
    def fingerprint(self) -> str:
        return self.store.fingerprint

    def renewed_fingerprint(self) -> str:
        """The fingerprint after a renewal that is due."""
        self.store.renew_if_due(self._runtime.date())
        return self.fingerprint

    @property
    def tls(self) -> ssl.SSLContext | None:
        return None if self._https is None else self._https.context

    def load(self, config: Config) -> Loaded:
        """Raises ConfigError."""
        with _faults_of("[server.tls]"):
            pairs = load_pairs(config.server.tls.cert, config.server.tls.key)
        return Loaded(pairs, None if self._https is None else self._load_https(config.web.https))

    def use(self, loaded: Loaded) -> None:
        """Raises ConfigError and changes nothing if QUIC has no certificate."""
        with _faults_of("[server.tls]"):
            self.store.replace(loaded.pairs)
        self._https = loaded.https
        self._validity = ValidityWatch()
        self.look()

    def _load_https(self, files: Https) -> HttpsCertificate:
        assert files.cert is not None
        assert files.key is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with _faults_of("[web.https] cert, key"):
            # reports faults; ssl would ask the terminal for a passphrase
            pair = load_pair(files.cert, files.key)
            context.load_cert_chain(files.cert, files.key)
        context.sni_callback = self._use_newest
        return HttpsCertificate(context, pair)

    def _use_newest(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:  # noqa: ARG002
        """A context per handshake: reloading into one would keep certificates of other key types."""
        if self._https is not None:
            connection.context = self._https.context

    # --- validity

    def start(self) -> None:
        """The tool that renews the files may fail silently."""
        self.look()
        self._next_look = self._runtime.call_later(INTERVAL, self.start)

    def stop(self) -> None:
        if self._next_look is not None:
            self._next_look.cancel()

    def look(self) -> None:
        """Warn of certificates that are expired, expire soon, or are not valid yet; renew the generated one."""
        now = self._runtime.date()
        self.store.renew_if_due(now)
        pairs = [("[server.tls]", pair) for pair in self.store.pairs]
        if self._https is not None:
            pairs.append(("[web.https]", self._https.pair))
        files = {
            f"{table} cert: {pair.file}": (pair.certificate, *pair.chain)
            for table, pair in pairs
            if pair.file is not None
        }
        for text in self._validity.new_warnings(files, now):
            logger.warning(text)

    def rows(self) -> tuple[CertificateRow, ...]:
        listed = [("quic", number, pair) for number, pair in enumerate(self.store.pairs, start=1)]
        if self._https is not None:
            listed.append(("https", 1, self._https.pair))
        return tuple(
            CertificateRow(
                listener=listener,
                number=number,
                name=pair.name,
                generated=pair.file is None,
                not_before=pair.certificate.not_valid_before_utc.timestamp(),
                not_after=pair.certificate.not_valid_after_utc.timestamp(),
            )
            for listener, number, pair in listed
        )
