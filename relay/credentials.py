"""Keys for checking tokens, tokens for other relays, and the secret of stateless resets, as configured.

Errors name `[table] key`.
"""

from __future__ import annotations

import ssl
from typing import Final

from relay.actors.announcements import random_hop
from relay.actors.cluster import Membership
from relay.auth.authenticator import Authenticator, Keys, OneKey
from relay.auth.claims import Claims
from relay.auth.key import KeyFileError, unverified_claims
from relay.auth.key_directory import KeyDirectory
from relay.auth.permissions import UnauthorizedError
from relay.auth.throttle import Throttle
from relay.config import Auth, Config, ConfigError, Server
from relay.logger import get_logger
from relay.quic.certificate_store import CertificateError
from relay.quic.reset_tokens import ResetTokens
from relay.runtime import Runtime
from relay.transport.client import ClientTls
from relay.transport.dialler import Dialler, TokenError
from relay.web.key_server import KeyServer

logger = get_logger("relay")

AS_CLIENT: Final = (
    "a relay like this one takes us for a client: it names no other members to us and does not tell them of us, and "
    "what comes through us counts as published by us"
)
"""Restrictions without a relay's permissions."""


def load_authenticator(config: Config, runtime: Runtime) -> Authenticator:
    """Raises ConfigError."""
    limits = config.limits
    return Authenticator(
        keys=load_keys(config, runtime),
        public=public_claims(config.auth),
        throttle=Throttle(failures=limits.auth_failures, delay=limits.auth_delay, clock=runtime.now),
        waiting=limits.auth_waiting,
        aliases=config.server.path_aliases,
        now=runtime.wall_time,
    )


def reloaded_keys(former: Config, config: Config, keys: Keys | None, runtime: Runtime) -> Keys | None:
    """`keys`, if their file need not be read again. Raises ConfigError."""
    auth = config.auth
    same = auth.key is None and (auth.key, auth.key_dir) == (former.auth.key, former.auth.key_dir)
    return keys if same else load_keys(config, runtime)


def load_keys(config: Config, runtime: Runtime) -> Keys | None:
    """Raises ConfigError."""
    auth, roots = config.auth, config.client.tls.root
    try:
        if auth.key is not None:
            return OneKey.load(auth.key)
        if auth.key_directory is not None:
            return KeyDirectory(auth.key_directory)
    except (KeyFileError, OSError) as error:
        raise ConfigError([f"[auth] {'key' if auth.key else 'key_dir'}: {error}"]) from None
    if auth.key_url is None:
        return None
    try:
        tls = ssl.create_default_context(cafile=roots[0]) if roots else None
        for file in roots[1:]:
            assert tls is not None
            tls.load_verify_locations(file)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError([f"[client.tls] root: {error}"]) from None
    return KeyServer(auth.key_url, tls, clock=runtime.now)


def may_sign(keys: Keys | None) -> bool:
    """The operator's key is not only a public one."""
    return isinstance(keys, OneKey) and keys.key.private and "sign" in keys.key.operations


def reset_tokens(server: Server, runtime: Runtime) -> ResetTokens | None:
    """Stateless reset tokens of `[server] secret`; `None` for those of a random one."""
    secret = server.secret
    if secret is None:
        return None
    return ResetTokens(secret.get_secret_value().encode("utf-8", "surrogateescape"), runtime.random)


def public_claims(auth: Auth) -> Claims | None:
    """Permissions without a token."""
    public = auth.public
    return None if public is None else Claims(publish=public.publish, subscribe=public.subscribe)


def load_membership(config: Config, runtime: Runtime) -> Membership:
    """This relay's membership, and how it dials others. Raises ConfigError."""
    client, cluster = config.client, config.cluster
    dialler = Dialler(
        versions=config.server.version,
        settings=config.server.quic,
        tls=ClientTls(roots=client.tls.root or None, disable_verify=client.tls.disable_verify),
        bind=(client.bind.host, client.bind.port),
        runtime=runtime,
        token=cluster.token,
        tokens={root.target: token for root in cluster.root if (token := root.token or root.jwt)},
    )
    if cluster.token is not None or not cluster.others:
        _check_token(runtime, dialler, "", f"[cluster] token: {cluster.token}")
    for root in cluster.others:
        if root.target in dialler.tokens:
            name = root.token or f"the one in the URL of {root}"
            _check_token(runtime, dialler, root.target, f"[cluster] root: token {name}")
        elif cluster.token is None:
            text = f"no token for {root}, which lets us in only if it is open to anyone"
            _warn("[cluster] root", text, AS_CLIENT)
    roots = tuple(root.target for root in cluster.root)
    hop = random_hop(runtime) if cluster.id is None else cluster.id
    return Membership(hop, cluster.node, roots, cluster.prefix, cluster.mesh, dialler.dial)


def _check_token(runtime: Runtime, dialler: Dialler, target: str, place: str) -> None:
    """Warn of restrictions of the token for `target`. Raises ConfigError if it is no token."""
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
        # other makers may have their own claims
        _warn(place, "a relay like this one refuses it", error)
        return
    if not claims.cluster:
        _warn(f"{place} is without the claim cluster (moq-token sign --cluster)", AS_CLIENT)
    if claims.expires is not None and claims.expires <= runtime.wall_time():
        _warn(f"{place} has expired, so no relay will let us in")


def _warn(*parts: object) -> None:
    logger.warning(": ".join(map(str, parts)))
