"""The command `moq-token`: makes keys, signs and checks tokens.

Secrets go to standard output alone: no message repeats a word that may be a token or a key.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from relay.auth.authenticator import token_of
from relay.auth.claims import Claims, Scope
from relay.auth.key import ALGORITHMS, LARGEST_FILE, Key, is_kid, random_kid
from relay.auth.permissions import UnauthorizedError, requested_path
from relay.auth.tool_files import Refused, UsageError, put, read, read_key, say
from relay.auth.tool_parser import build_parser, read_arguments
from relay.auth.tool_times import in_utc, in_words, moment_of
from relay.model.path import PatternError, granted, join, minimal, normalize
from relay.terminal import printable


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    try:
        _run(list(sys.argv[1:] if argv is None else argv))
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 2
    except UsageError as error:
        return _failed(str(error), 2)
    except Refused as error:
        return _failed(str(error), 1)
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - the outermost boundary; the text may hold a secret
        return _failed(f"internal error: {type(error).__name__}", 1)
    return 0


def _run(words: list[str]) -> None:
    found = read_arguments(words)
    if found.command is None:
        put(build_parser().format_help())
    else:
        _COMMANDS[found.command](found)


# -- generate


def _generate(found: argparse.Namespace) -> None:
    kid = random_kid() if found.id is None else found.id
    if not is_kid(kid):
        raise UsageError("--id: want 1 to 128 letters, digits, hyphens and underscores")
    if found.algorithm not in ALGORITHMS:
        names = {name.upper(): name for name in ALGORITHMS}
        near = difflib.get_close_matches(found.algorithm.upper(), names, n=1)
        wanted = f"did you mean {names[near[0]]}?" if near else f"want one of {', '.join(ALGORITHMS)}"
        raise UsageError(f"--algorithm: {found.algorithm} is unknown, {wanted}")
    targets = _targets(found, kid)
    for _, file in targets:
        _check_target(file, force=found.force)
    key = Key.generate(found.algorithm, kid, _scope(found))
    made: list[Path] = []
    try:
        for public, file in targets:
            _write(key.public() if public else key, file, made, found)
    except BaseException:
        for file in made:
            file.unlink(missing_ok=True)
        raise


def _targets(found: argparse.Namespace, kid: str) -> list[tuple[bool, Path | None]]:
    """Public ones (true) and private ones, in order; None is standard output."""
    private = _target(found.key if found.out is None else found.out, found.out_dir, kid)
    if found.public is None and found.public_dir is None:
        return [(False, private)]
    if found.algorithm.startswith("HS"):
        raise UsageError(
            f"--public: {found.algorithm} keys have no public half, the same secret signs and verifies; "
            "--algorithm EdDSA has"
        )
    public = _target(found.public, found.public_dir, kid)
    if private is public is None:
        raise UsageError("both keys to standard output: give one of them a file, with --out or --public")
    if private and public and private.resolve() == public.resolve():
        raise UsageError("--public: this is the file of the private key, the public one needs another")
    # standard output last, as it cannot be undone; the public key first, as the private one has it, too
    return sorted([(True, public), (False, private)], key=lambda target: target[1] is None)


def _target(file: str | None, folder: Path | None, kid: str) -> Path | None:
    if folder is not None:
        return folder / f"{kid}.jwk"
    return None if file in (None, "-") else Path(str(file))


def _check_target(file: Path | None, *, force: bool) -> None:
    if file is None:
        return
    try:
        if file.is_dir():
            trouble = "is a directory, name a file in it"
        elif not file.parent.is_dir():
            trouble = f"there is no directory {file.parent}, make it first"
        elif not os.access(file.parent, os.W_OK | os.X_OK):
            trouble = f"you may not write to {file.parent}"
        elif os.path.lexists(file) and not file.is_file():
            trouble = "is no ordinary file, name another; - is standard output"
        elif os.path.lexists(file) and not force:
            trouble = "exists already, --force overwrites it"
        else:
            return
    except OSError as error:
        trouble = str(error.strerror)
    raise Refused(f"{file}: {trouble}")


def _write(key: Key, file: Path | None, made: list[Path], found: argparse.Namespace) -> None:
    if file is None:
        put(key.text(as_json=found.json) + "\n")
        return
    new = not os.path.lexists(file)
    try:
        key.save(file, as_json=found.json, replace=found.force)
    except OSError as error:
        raise Refused(f"{file}: {error.strerror}") from None
    if new:
        made.append(file)
    say(f"wrote the {'private' if key.private else 'public'} key {key.kid} ({key.algorithm}) to {file}")


def _scope(found: argparse.Namespace) -> Scope | None:
    root, publish, subscribe = _paths(found)
    if publish or subscribe:
        return Scope(root, publish, subscribe)
    if root:
        raise UsageError(
            "--root: a scope needs --publish or --subscribe too, '' is everything below the root"
        )
    return None


def _paths(found: argparse.Namespace) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    if "*" in found.root:
        raise UsageError("--root: want a path without *")
    root = _path("--root", found.root)
    both = []
    for flag, given in (("--publish", found.publish), ("--subscribe", found.subscribe)):
        both.append(minimal([_grant(flag, path) for path in given]))
        for path in both[-1]:
            _path(flag, join(root, path))
    return root, both[0], both[1]


def _grant(flag: str, text: str) -> str:
    try:
        return _path(flag, granted(text) if "://" not in text else text)
    except PatternError as error:
        raise UsageError(f"{flag}: {error}") from None


def _path(flag: str, text: str) -> str:
    if "://" in text or "?" in text:
        raise UsageError(f"{flag}: want a path such as rooms/123, not a URL")
    try:
        return requested_path(text)
    except UnauthorizedError as error:
        raise UsageError(f"{flag}: {error}") from None


# -- sign


def _sign(found: argparse.Namespace) -> None:
    now = time.time()
    root, publish, subscribe = _paths(found)
    if not publish and not subscribe:
        raise UsageError(
            "want --publish PATH or --subscribe PATH: without, the token grants nothing; '' is everything"
        )
    expires, not_before = (
        _moment(f"--{name}", getattr(found, name.replace("-", "_")), now) for name in _TIMES
    )
    if expires is not None and expires <= now:
        raise UsageError(f"--expires: {in_utc(expires)} is past, the token would never be valid")
    if expires is not None and not_before is not None and expires <= not_before:
        raise UsageError("--not-before: this is not before --expires, the token would never be valid")
    issued = _moment("--issued", found.issued, now) or int(now)
    claims = Claims(root, publish, subscribe, found.cluster, expires, not_before, issued)
    key = read_key(found.key)
    try:
        token = key.sign(claims)
    except ValueError as error:
        raise Refused(str(error)) from None
    if expires is None:
        say("this token never expires, --expires 1h would limit it to an hour")
    put(token + "\n")


def _moment(flag: str, text: str | None, now: float) -> int | None:
    if text is None:
        return None
    try:
        return moment_of(text, now)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from None


# -- verify


def _verify(found: argparse.Namespace) -> None:
    path, token = found.path, None
    if found.url is not None:
        path, token = _read_url(found.url)
    elif path is not None:
        _path("--path", path)
    if found.token is not None:
        token = None
    if token is None and found.key == "-" and found.token in (None, "-"):
        raise UsageError("--key -: the token needs another place than standard input, --in FILE or --url")
    key = read_key(found.key)
    if token is None:
        token = read(found.token or "-", "--in", LARGEST_FILE, "a token").decode("ascii", "replace").strip()
    try:
        claims = key.verify(token)
    except UnauthorizedError as error:
        raise Refused(f"refused: {error}") from None
    now = time.time()
    trouble = ""
    lines = [*_times(claims, now), ""]
    try:
        claims.check_time(now)
        _check_root(claims, found.root)
        lines += _grants(claims, path)
    except UnauthorizedError as error:
        trouble = f"refused: {error}"
        lines.append(f"A session{'' if path is None else f' at /{normalize(path)}'} is {trouble}.")
    put(
        _json(claims.payload())
        + ("" if found.json else "\n" + "".join(f"{printable(line)}\n" for line in lines))
    )
    if trouble:
        raise Refused(trouble)


def _check_root(claims: Claims, root: str | None) -> None:
    if root is not None and normalize(root) != claims.root:
        raise UnauthorizedError(f"the root of the token is /{claims.root}, not /{normalize(root)}")


def _read_url(url: str) -> tuple[str, str | None]:
    try:
        parts = urlsplit(url)
        if parts.scheme and parts.netloc:
            return parts.path, token_of(parts.query)
    except UnauthorizedError as error:
        raise Refused(f"refused: {error}") from None
    except ValueError:
        pass
    # not quoted: it may hold a token
    raise UsageError("--url: want a URL such as https://relay.example.com/rooms/123")


def _times(claims: Claims, now: float) -> Iterator[str]:
    if claims.not_before is not None and claims.not_before > now:
        yield f"Valid in {in_words(claims.not_before - now)}, from {in_utc(claims.not_before)} on."
    if claims.expires is None:
        yield "Never expires."
    elif claims.expires > now:
        yield f"Expires in {in_words(claims.expires - now)}, at {in_utc(claims.expires)}."
    else:
        yield f"Expired {in_words(now - claims.expires)} ago, at {in_utc(claims.expires)}."


def _grants(claims: Claims, path: str | None) -> Iterator[str]:
    """Raises UnauthorizedError."""
    here = claims.at(claims.root if path is None else path)
    yield f"A session at /{here.root} may"
    for verb, prefixes in (("publish  ", here.publish), ("subscribe", here.subscribe)):
        whole = [join(here.root, prefix) for prefix in prefixes]
        yield f"  {verb}  {', '.join(f'/{name} and all below' if name else 'everything' for name in whole) or 'nothing'}"
    if claims.cluster:
        yield "as another relay of the cluster."


def _json(content: dict[str, Any]) -> str:
    # control characters could drive a terminal; JSON may escape any character
    text = json.dumps(content, indent=2, ensure_ascii=False)
    return (
        "".join(
            character if character.isprintable() or character == "\n" else json.dumps(character)[1:-1]
            for character in text
        )
        + "\n"
    )


def _failed(text: str, status: int) -> int:
    say(text)
    return status


_TIMES: Final = ("expires", "not-before")
_COMMANDS: Final = {"generate": _generate, "sign": _sign, "verify": _verify}

if __name__ == "__main__":
    sys.exit(main())
