"""The command line of `moq-token`: flags and help."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from relay.auth.key import ALGORITHMS
from relay.auth.tool_files import UsageError, put
from relay.version import VERSION

DESCRIPTION: Final = """\
Keys and tokens for moq-relay. A key signs tokens; a token grants its holder rights to publish and subscribe; the relay
checks it with the same key, or with its public half.
"""

EPILOGUE: Final = """\
examples:
  moq-token generate --out root.jwk
  moq-token sign --key root.jwk --root rooms/123 --publish alice --subscribe '' --expires 1h > alice.jwt
  moq-token verify --key root.jwk --path /rooms/123 < alice.jwt

The relay then runs with `[auth] key = "root.jwk"`, and a client appends `?jwt=` and the token to its URL.
`moq-token COMMAND --help` says more. Exit status: 0 done, 1 refused or failed, 2 wrong usage.
"""

GENERATE: Final = """\
examples:
  moq-token generate --out root.jwk
      one secret, for relays that may sign as well as verify
  moq-token generate --algorithm EdDSA --out private.jwk --public public.jwk
      the relay gets public.jwk, which cannot sign
  moq-token generate --algorithm ES256 --out-dir private --public-dir public
      files named {kid}.jwk, for `[auth] key_dir`
  moq-token generate --out guests.jwk --root guests --subscribe ''
      a key whose tokens can only grant to watch below guests

Private keys are written for their owner only (mode 0600). Files that exist are kept unless --force is given.
"""

SIGN: Final = """\
WHEN is a duration from now (90s, 15m, 1h30m, 7d, 2w), a time (2026-12-31T23:59:59Z; UTC unless it names a zone), or
seconds since 1970. A path stands for itself and everything below it; '' is everything.

examples:
  moq-token sign --key root.jwk --root rooms/123 --publish alice --subscribe '' --expires 1h
      publish rooms/123/alice, and watch everybody in the room, for an hour
  moq-token sign --key root.jwk --publish '' --subscribe '' --expires 2030-01-01
      everything, everywhere
"""

VERIFY: Final = """\
Prints the claims as JSON, an empty line, and their meaning; with --json only the claims. Exit status 1 if the relay
would refuse the token.

examples:
  moq-token verify --key root.jwk < alice.jwt
  moq-token verify --key public.jwk --in alice.jwt --path /rooms/123/alice
  moq-token verify --key root.jwk --url "https://relay.example.com/rooms/123?jwt=$TOKEN"
"""


class Parser(argparse.ArgumentParser):
    """A fault in one line, with the place of help."""

    def error(self, message: str) -> NoReturn:
        if "invalid choice" in message:
            message = f"want one of {', '.join(COMMANDS)}"  # not quoted: the word may be a token or a key
        raise UsageError(f"{message} (try: {self.prog} --help)")

    def _print_message(self, message: str, file: object = None) -> None:  # noqa: ARG002 - it is standard output
        put(message)


def build_parser() -> Parser:
    """The parser of the command line, with the help of each command."""
    parser = _parser(
        Parser,
        prog="moq-token",
        usage="moq-token {generate,sign,verify} [flags]",
        description=DESCRIPTION,
        epilog=EPILOGUE,
    )
    parser.add_argument(
        "--version", action="version", version=f"moq-token {VERSION}", help="print the version"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", prog="moq-token")
    for name, (add, summary, epilogue) in COMMANDS.items():
        add(_parser(commands.add_parser, name=name, help=summary, epilog=epilogue))
    return parser


def _parser(make: Callable[..., Parser], **options: Any) -> Parser:
    form = argparse.RawDescriptionHelpFormatter
    return make(allow_abbrev=False, formatter_class=form, **options)


def _add_paths(parser: Parser, root: str, publish: str, subscribe: str) -> None:
    parser.add_argument("--root", metavar="PATH", default="", help=root)
    for flag, text in (("--publish", publish), ("--subscribe", subscribe)):
        parser.add_argument(flag, metavar="PATH", nargs="+", action="extend", default=[], help=text)


def _add_generate(parser: Parser) -> None:
    parser.add_argument(
        "--algorithm", metavar="NAME", default="HS256", help=f"{', '.join(ALGORITHMS)} (HS256)"
    )
    parser.add_argument("--id", metavar="KID", help="name of the key, in its tokens too (random)")
    private = parser.add_mutually_exclusive_group()
    private.add_argument("--out", metavar="FILE", help="write the private key to FILE (-, standard output)")
    private.add_argument("--out-dir", metavar="DIR", type=Path, help="write it to DIR/{kid}.jwk")
    private.add_argument("--key", metavar="FILE", help="as --out")
    public = parser.add_mutually_exclusive_group()
    public.add_argument("--public", metavar="FILE", help="write the public key to FILE, - is standard output")
    public.add_argument("--public-dir", metavar="DIR", type=Path, help="write it to DIR/{kid}.jwk")
    _add_paths(
        parser,
        "what the paths of the scope are relative to",
        "limit the key: its tokens may grant to publish this; may be repeated",
        "limit the key: its tokens may grant to subscribe this; may be repeated",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="write JSON, which the oldest relays do not read")
    form.add_argument("--base64", action="store_true", help="write base64url of it (the default)")
    parser.add_argument("--force", action="store_true", help="overwrite files")


def _add_sign(parser: Parser) -> None:
    parser.add_argument("--key", metavar="FILE", help="the private key; - is standard input")
    _add_paths(
        parser,
        "what the paths are relative to; clients connect with it in their URL",
        "allow to publish this, below the root; may be repeated",
        "allow to subscribe this, below the root; may be repeated",
    )
    parser.add_argument("--cluster", action="store_true", help="for another relay, not for a client")
    parser.add_argument("--expires", metavar="WHEN", help="the token is refused from then on (never)")
    parser.add_argument("--not-before", metavar="WHEN", help="the token is refused until then")
    parser.add_argument("--issued", metavar="WHEN", help="when it was made, for information (now)")


def _add_verify(parser: Parser) -> None:
    parser.add_argument("--key", metavar="FILE", help="the key, private or public; - is standard input")
    parser.add_argument("--in", metavar="FILE", dest="token", help="the token (-, standard input)")
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--url", help="print the permissions of a session there; the token may be in it as ?jwt="
    )
    place.add_argument("--path", help="the same, for the path of a URL")
    parser.add_argument("--root", metavar="PATH", help="refuse a token that has another root")
    parser.add_argument("--json", action="store_true", help="print the claims only")


def read_arguments(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line; `command` may be None. Raises UsageError, and SystemExit after --help."""
    words = list(words)
    if words[:1] == ["--key"] and len(words) > 2:  # noqa: PLR2004 - with FILE and the command
        # the older word order
        words = [words[2], "--key", words[1], *words[3:]]
    elif len(words) > 1 and words[0].startswith("--key="):
        words = [words[1], words[0], *words[2:]]
    parser = build_parser()
    if words and words[0].partition("=")[0] == "--key":
        parser.error(f"want a command: {', '.join(COMMANDS)}")
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        # not quoted: it may be a token or a key
        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        parser.error(
            f"unknown command, did you mean {near[0]}?" if near else f"want one of {', '.join(COMMANDS)}"
        )
    found, stray = parser.parse_known_args(words)
    if stray:
        parser.error(
            _stray(found.command, [word.partition("=")[0] for word in stray if word.startswith("-")])
        )
    return found


def _stray(command: str | None, flags: list[str]) -> str:
    if command is None:
        return f"want a command: {', '.join(COMMANDS)}"
    if flags:
        return f"{command} has no flag {flags[0]}"
    where = "; a token is read from standard input, --in FILE or --url" if command == "verify" else ""
    return f"{command} takes flags only, and there is a word without one{where}"


COMMANDS: Final = {
    "generate": (_add_generate, "make a key", GENERATE),
    "sign": (_add_sign, "sign a token", SIGN),
    "verify": (_add_verify, "check a token, and print its rights", VERIFY),
}
