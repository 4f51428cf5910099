"""The command `moq-list`: prints which broadcasts come and go at a relay."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from relay import terminal
from relay.client import Announced, Change, Client
from relay.commands import sessions
from relay.commands.arguments import URLS, Parser, Target, path_of
from relay.commands.sessions import execute, put_line
from relay.terminal import printable

SETTLED: Final = 0.5
"""Seconds after which the broadcasts that are there have come, on versions that do not tell (moq-lite 03 and 04)."""

DESCRIPTION: Final = """\
Print the live broadcasts of a Media-over-QUIC relay, and those that come and go: `+ path`, `- path`.

When the relay was away, it is asked again, and only what has changed is printed. Flags may stand before and after URL.
"""

EPILOGUE: Final = f"""\
{URLS}
examples:
  moq-list
  moq-list https://relay.example.com/ room/123
  moq-list --once --json | jq -r .path

exit status: 0 stopped by a signal, or with --once all is printed; 1 the relay failed for good; 2 wrong usage
"""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line."""

    target: Target
    prefix: str
    once: bool
    json: bool


class Listing:
    """What is live, from session to session."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._live: dict[str, Change] = {}

    async def follow(self, client: Client) -> None:
        """Print changes until the session ends; with `once` only what is live now."""
        announced = client.announced(self._options.prefix)
        marked = not announced.complete
        if marked:
            await announced.initial()
        elif self._options.once:
            await asyncio.sleep(SETTLED)
        if marked or self._options.once:
            for path in self._live.keys() - announced.live.keys():
                self._print(Change(path, active=False))
        if self._options.once:
            for _, change in sorted(announced.live.items()):
                self._print(change)
        else:
            await self._print_changes(announced)

    async def _print_changes(self, announced: Announced) -> None:
        async for change in announced:
            known = change.path in self._live
            # after a reconnect the relay names again what is known
            if not change.active or not known or self._live[change.path].hops != change.hops:
                self._print(change)

    def _print(self, change: Change) -> None:
        known = self._live.pop(change.path, None)
        if change.active:
            self._live[change.path] = change
        if self._options.json:
            fields = {"path": change.path, "active": change.active}
            put_line(json.dumps(fields | ({"hops": change.hops} if change.active else {})))
        elif change.active and known is None:
            put_line(f"+ {printable(change.path)}")
        elif not change.active:
            put_line(f"- {printable(change.path)}")


async def run(options: Options) -> None:
    """Print until all is printed, or until it is cancelled. Raises Refused."""
    listing = Listing(options)
    await sessions.run(options.target.connect, listing.follow, say, again=not options.once)


# -- command line


def say(text: str) -> None:
    """Print to standard error."""
    terminal.say(f"moq-list: {printable(text)}")


def read_options(argv: Sequence[str] | None) -> Options:
    """Exits with status 2 if the command line is wrong, 0 after --help."""
    parser = Parser("moq-list", "[URL [PREFIX]] [flags]", DESCRIPTION, EPILOGUE)
    parser.add_url()
    parser.add_argument(
        "prefix", metavar="PREFIX", nargs="?", default="", type=path_of, help="only what is below this path"
    )
    parser.add_argument("--once", action="store_true", help="end when what is live now is printed")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    parser.add_connection()
    found = parser.read(argv)
    return Options(parser.target(found), found.prefix, found.once, found.json)


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    return execute(lambda: read_options(argv), run, say)


if __name__ == "__main__":
    sys.exit(main())
