"""The command `moq-relay`: flags, help, configuration and logging, then `relay.process`.

Imports come late, so that `--help` is fast.
"""

from __future__ import annotations

import argparse
import platform
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import NoReturn

from relay import compiled, log_setup, terminal
from relay.config import Config, ConfigError, load
from relay.config.foreign import foreign_flag
from relay.config.options import Kind, Option
from relay.config.tables import OPTIONS
from relay.config.wording import nearest
from relay.logger import get_logger
from relay.version import VERSION

USAGE = "moq-relay [FILE] [flags]\n       moq-relay --check FILE"

DESCRIPTION = """\
A Media-over-QUIC relay: forwards live broadcasts from publishers to subscribers.

FILE is a TOML configuration. A flag overrides the environment, which overrides FILE, which overrides the default.
Without any of them the relay serves this machine only: localhost:4443, open to everyone, self-signed certificate.
"""

EPILOGUE = """\
examples:
  moq-relay dev.toml
  moq-relay --listen [::]:4443 --tls-generate localhost --auth-public ""
  MOQ_AUTH_KEY=root.jwk moq-relay --tls-cert cert.pem --tls-key key.pem --web-https-listen [::]:443 \\
      --web-https-cert cert.pem --web-https-key key.pem

Tables [limits] and [server.quic] are set in FILE only; docs/config.md lists every key.
"""

_FLAGS = {flag: option for option in OPTIONS for flag in option.flags}
_SWITCHES = {flag for flag, option in _FLAGS.items() if option.kind is Kind.BOOL}
_WORDS = ("true", "false", "1", "0", "yes", "no")


def _warn(text: str) -> None:
    terminal.say(f"moq-relay: warning: {text}")


def _print_warnings(warnings: list[str]) -> None:
    for text in warnings:
        _warn(text)
    warnings.clear()


class Parser(argparse.ArgumentParser):
    """Collects flags as pairs of text, in order."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"moq-relay: {message}\nTry: moq-relay --help\n")

    def _print_message(self, message: str, file: object = None) -> None:
        if file is sys.stderr:
            terminal.say(message.rstrip("\n"))
            return
        fault = terminal.put(message)
        if fault:
            self.exit(1, f"moq-relay: {fault}\n")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps line breaks of help texts and hyphenated words."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return [
            line
            for part in text.splitlines()
            for line in textwrap.wrap(part, width, break_on_hyphens=False, break_long_words=False)
        ]


class _Collect(argparse.Action):
    """Append (flag, text) to `flags`; an absent flag overrides nothing."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 - argparse passes it
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        flags: list[tuple[str, str]] = namespace.flags
        flags.append((str(option_string), str(values)))


class _Version(argparse.Action):
    """Prints the version, and on a second line how the code runs."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        kernel = "compiled" if compiled.has_kernel() else "interpreted"
        fault = terminal.put(
            f"moq-relay {VERSION}\n"
            f"Python {platform.python_version()}, modules {compiled.describe()}, kernel {kernel}\n"
        )
        parser.exit(1 if fault else 0, f"moq-relay: {fault}\n" if fault else None)


def build_parser() -> Parser:
    """The parser of the command line, with flags from the table of options."""
    parser = Parser(
        prog="moq-relay",
        usage=USAGE,
        description=DESCRIPTION,
        epilog=EPILOGUE,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    parser.set_defaults(flags=[])
    parser.add_argument(
        "file", metavar="FILE", nargs="?", help="configuration in TOML; dev.toml is a commented example"
    )
    parser.add_argument("--check", action="store_true", help="check the configuration, and exit")
    parser.add_argument(
        "--version",
        action=_Version,
        nargs=0,
        help="print the version, and which code is compiled, and exit",
    )
    for table in dict.fromkeys(option.table for option in OPTIONS):
        group = parser.add_argument_group(f"[{table}]")
        for option in OPTIONS:
            if option.table == table:
                group.add_argument(
                    *option.flags,
                    metavar=option.metavar,
                    action=_Collect,
                    dest=option.path,
                    help=_help(option),
                )
    return parser


def _help(option: Option) -> str:
    return f"{option.help}\n[default: {option.default_text}] [env: {', '.join(option.env)}]".replace(
        "%", "%%"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, 1 if a check or an essential part failed, 2 if the relay cannot start."""
    terminal.open_closed_streams()
    parser = build_parser()
    arguments, rest = parser.parse_known_args(_spelled_out(sys.argv[1:] if argv is None else argv))
    if rest:
        parser.error(_stray(rest[0]))
    warnings: list[str] = []
    try:
        config = load(arguments.file, arguments.flags, warn=warnings.append)
        if arguments.check:
            from relay.app import check

            _print_warnings(warnings)
            with log_setup.warnings_to(_warn):
                check(config)
            # one write: a reader such as `head -1` may close the pipe after the first line
            lines = (f"{arguments.file or 'configuration'}: ok", *summary(config))
            fault = terminal.put("".join(f"{line}\n" for line in lines))
            if fault:
                terminal.say(f"moq-relay: {fault}")
            return 1 if fault else 0
        log_setup.setup(config.log.level, config.log.format)
        for text in warnings:
            get_logger("relay").warning(text)
        warnings.clear()
        from relay.process import run

        return run(config, lambda: load(arguments.file, arguments.flags), log_setup.setup)
    except ConfigError as error:
        _print_warnings(warnings)
        for problem in error.problems:
            terminal.say(f"moq-relay: {problem}")
        return 1 if arguments.check else 2


def _spelled_out(arguments: Sequence[str]) -> Iterator[str]:
    """Give every switch a value: `--web-ws` is true, `--no-web-ws` is false, and FILE after it stays FILE."""
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        positive = word.replace("--no-", "--", 1)
        if word == "--":
            yield from (word, *rest)
            return
        if word in _SWITCHES:
            value = rest.pop(0) if rest and rest[0].lower() in _WORDS else "true"
            yield f"{word}={value}"
        elif positive != word and positive in _SWITCHES:
            yield f"{positive}=false"
        else:
            yield word


def _stray(word: str) -> str:
    if not word.startswith("-"):
        return f"unexpected argument {word!r}: there is one FILE at most"
    flag, value, _ = word.partition("=")
    if value and flag.replace("--no-", "--", 1) in _SWITCHES:
        return f"{flag} takes no value"
    foreign = foreign_flag(flag)
    if foreign is not None:
        return f"{flag}: {foreign.answer_to_flag}"
    near = nearest(flag, [*_FLAGS, *(f"--no-{name[2:]}" for name in _SWITCHES)])
    return f"unknown flag {flag}, did you mean {near}?" if near else f"unknown flag {flag}"


def summary(config: Config) -> Iterator[str]:
    """Lines about a relay with this configuration."""
    tls = config.server.tls
    yield f"  QUIC        {config.server.listen} (UDP)"
    yield f"  versions    {', '.join(entry.name_on_wire for entry in config.server.version)}"
    certificates = [str(file) for file in tls.cert]
    if tls.generate:
        certificates.append(f"self-signed for {', '.join(tls.generate)}")
    yield f"  certificate {'; '.join(certificates)}"
    yield f"  secret      {'in a file' if config.server.secret is None else 'set'}"
    web = [("http", config.http_listen), ("https", config.https_listen)]
    yield f"  web         {', '.join(f'{scheme} {address}' for scheme, address in web if address)} (TCP)"
    yield f"  websocket   {'on' if config.web.ws else 'off'}"
    yield f"  access      {'; '.join(config.auth.rights())}"
    yield f"  cluster     {config.cluster.role()}"
    yield f"  operator    http {config.internal_listen} (TCP)"


if __name__ == "__main__":
    sys.exit(main())
