"""Faults of a configuration with valid keys: combinations without sense, and unreadable files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from relay.config.options import Keys
from relay.config.tables import Config


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault."""

    keys: Keys  # or the table, if `missing`
    text: str
    value: object = None  # shown behind the key; None shows nothing
    missing: tuple[Keys, ...] = ()
    """Keys whose absence is the fault. A mistyped key beside them explains it already."""

    related: tuple[Keys, ...] = ()


def check(config: Config) -> Iterator[Problem]:
    """Yield every problem, in the order of the tables."""
    yield from _server(config)
    yield from _files(config)
    yield from _auth(config)
    yield from _web(config)


def _server(config: Config) -> Iterator[Problem]:
    tls, quic = config.server.tls, config.server.quic
    cert, key, generate = (("server", "tls", name) for name in ("cert", "key", "generate"))
    if len(tls.cert) != len(tls.key):
        counts = f"{_count(len(tls.cert), 'certificate')} but {_count(len(tls.key), 'key')}"
        text = f"{counts}: expected one key for each certificate, in the same order"
        yield Problem(cert[:-1], text, related=(cert, key))
    elif not tls.cert and not tls.generate:
        text = (
            'no certificate: add cert = "cert.pem" and key = "key.pem", '
            'or generate = "localhost" for a self-signed one'
        )
        yield Problem(cert[:-1], text, missing=(cert, key, generate))
    if quic.keep_alive >= quic.idle_timeout:
        keys = ("server", "quic", "keep_alive")
        text = f"expected less than idle_timeout ({quic.idle_timeout:g}), or 0 to send none"
        yield Problem(keys, text, quic.keep_alive, related=(("server", "quic", "idle_timeout"),))


def _files(config: Config) -> Iterator[Problem]:
    tls, https = config.server.tls, config.web.https
    for place, files in (
        ("server.tls.cert", tls.cert),
        ("server.tls.key", tls.key),
        ("client.tls.root", config.client.tls.root),
        ("cluster.token", (config.cluster.token,)),
        ("cluster.root", tuple(root.token for root in config.cluster.root)),
        ("auth.key", (config.auth.key,)),
        ("web.https.cert", (https.cert,)),
        ("web.https.key", (https.key,)),
    ):
        for file in files:
            fault = file and unreadable(file)
            if fault:
                yield Problem(tuple(place.split(".")), fault, file)
    qlog = config.server.qlog_dir
    fault = qlog and unwritable_directory(qlog)
    if fault:
        yield Problem(("server", "qlog_dir"), fault, qlog)


def unreadable(file: Path) -> str | None:
    """Why `file` cannot be read."""
    return _unusable(file, "file", "is a directory, expected a file", os.R_OK, folder=False)


_KEY_DIR: Final = "expected a directory with one {kid}.jwk for each key"


def unreadable_directory(directory: Path) -> str | None:
    """Why the files of `directory` cannot be read."""
    needed = os.R_OK | os.X_OK
    return _unusable(directory, f"directory, {_KEY_DIR}", f"is a file, {_KEY_DIR}", needed, folder=True)


def unwritable_directory(directory: Path) -> str | None:
    """Why `directory` cannot hold new files."""
    absent, needed = "directory, expected one that exists", os.R_OK | os.W_OK | os.X_OK
    return _unusable(directory, absent, "is a file, expected a directory", needed, folder=True)


def _unusable(path: Path, absent: str, other: str, needed: int, *, folder: bool) -> str | None:
    try:
        if not path.exists():
            hint = "" if path.is_absolute() else "; a relative path starts at the current directory"
            return f"no such {absent}{hint}"
        if path.is_dir() != folder:
            return other
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    verb = "written" if needed & os.W_OK else "read"
    return None if os.access(path, needed) else f"may not be {verb} by this user; check its permissions"


def _auth(config: Config) -> Iterator[Problem]:
    auth = config.auth
    key, key_dir, public = (("auth", name) for name in ("key", "key_dir", "public"))
    if auth.key_directory is not None:
        fault = unreadable_directory(auth.key_directory)
        if fault:
            yield Problem(key_dir, fault, auth.key_dir)
    if auth.key is not None and auth.key_dir is not None:
        place = "into the directory" if auth.key_directory else "beside those at the URL"
        text = f"key is set as well, expected one; to move, put the file {place} as <kid>.jwk"
        yield Problem(key_dir, text, auth.key_dir, related=(key,))
    keyed = "key" if auth.key is not None else "key_dir" if auth.key_dir is not None else None
    if keyed is None and auth.public is None:
        text = (
            'none of key, key_dir, public is set, so nobody could connect: add key = "root.jwk" or key_dir = "keys" '
            'to admit holders of a token, or public = "anon" to open that path to anyone ("" opens all of them)'
        )
        parts = ((*public, "subscribe"), (*public, "publish"))
        yield Problem(("auth",), text, missing=(key, key_dir, public, *parts))
    elif keyed is not None and auth.public is not None and auth.public.everywhere:
        text = (
            f"would open everything to anyone although {keyed} is set: expected a path such as "
            f'"anon", or subscribe = "" alone in [auth.public] to let anyone watch, or no {keyed}'
        )
        yield Problem(public, text, "", related=(key, key_dir))


def _web(config: Config) -> Iterator[Problem]:
    http, https = config.web.http, config.web.https
    table = ("web", "https")
    given = {"listen": https.listen, "cert": https.cert, "key": https.key}
    absent = [name for name, value in given.items() if value is None]
    if 0 < len(absent) < len(given):
        examples = {"listen": '"[::]:443"', "cert": '"cert.pem"', "key": '"key.pem"'}
        advice = " and ".join(f"{name} = {examples[name]}" for name in absent)
        text = f"needs listen, cert and key together: add {advice}"
        yield Problem(table, text, missing=tuple((*table, name) for name in absent))
    if http.listen is not None and http.listen == https.listen and http.listen.port:
        text = "the same address as [web.https] listen: expected two different ones"
        yield Problem(("web", "http", "listen"), text, http.listen, related=((*table, "listen"),))


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
