"""The command `moq-clock`: publish the time through a relay, or watch it come.

Owns the command line, the text of the clock and the attempts to reach the relay. Must never print the token, nor
control characters that a publisher chose. It is the smallest complete use of `relay.client`; people run it to see
whether a relay works.

A group is one minute. Its first frame is the text `2026-11-22 07:30:`, each further one two digits of seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import quote, urlsplit, urlunsplit

from relay.client import Client, ClientError, GroupAborted, GroupReader, SessionEnded, SubscribeError, TrackWriter
from relay.client.errors import is_refusal
from relay.wire.text import checked_path
from relay.wire.version import Version, version_from_name

if TYPE_CHECKING:
    from relay.client import Announced

DEFAULT_URL: Final = "http://localhost:4443/"
SCHEMES: Final = ("http", "https", "moqt", "moql")

FIRST_PAUSE: Final = 0.5
"""Seconds before the second attempt; each further pause is twice as long."""

LONGEST_PAUSE: Final = 5.0
"""Seconds; whoever restarts a relay does not want to wait longer for its clients."""

KEPT_MINUTES: Final = 2
"""Groups held for late viewers: this minute, and the last one for those who come at its turn."""

MINUTE: Final = "%Y-%m-%d %H:%M:"
SECOND: Final = "%S"

DESCRIPTION: Final = """\
A clock over Media-over-QUIC: publish the time through a relay, or watch it come.

`publish` sends one group per minute and one frame per second, in UTC. `watch` prints a line per second; it waits for
the broadcast to be announced, and again when it goes away. Both connect again when the relay was away.
"""

EPILOGUE: Final = """\
URL is http:// (a development server: its certificate is fetched first), https:// (WebTransport) or moqt:// (raw
QUIC); http://localhost:4443/ if left out. A path limits what is seen, as the relay's rules say.

examples:
  moq-clock publish
  moq-clock watch
  moq-clock watch https://relay.example.com/demo --jwt "$TOKEN"
  moq-clock publish moqt://localhost:4443 --tls-disable-verify --version moq-lite-05

exit status: 0 stopped by a signal, 1 the relay refused or failed for good, 2 wrong usage
"""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    command: str
    url: str
    """With the token in its query: not for people."""
    broadcast: str
    track: str
    versions: tuple[Version, ...]
    roots: tuple[Path, ...] | None
    fingerprints: tuple[str, ...]
    disable_verify: bool


# -- the clock


async def seconds(
    now: Callable[[], datetime], sleep: Callable[[float], Awaitable[object]]
) -> AsyncIterator[datetime]:
    """Give each second as it begins. A timer that fires early must not give one twice."""
    last: datetime | None = None
    while True:
        moment = now().replace(microsecond=0)
        if moment != last:
            last = moment
            yield moment
        await sleep(1 - now().microsecond / 1_000_000)


async def keep_time(track: TrackWriter, moments: AsyncIterator[datetime]) -> None:
    """Write the time to `track`, for as long as there are moments."""
    group = None
    minute = ""
    async for moment in moments:
        text = moment.strftime(MINUTE)
        if group is None or text != minute:
            if group is not None:
                group.finish()
            minute = text
            group = track.group()
            group.write(minute.encode())
        group.write(moment.strftime(SECOND).encode())


async def read_minute(group: GroupReader, line: Callable[[str], None]) -> None:
    """Give a line for each second of one group; what is missing of an aborted one is passed over."""
    minute = ""
    with contextlib.suppress(GroupAborted):
        async for frame in group:
            text = printable(frame.payload.decode("utf-8", "replace"))
            if minute:
                line(minute + text)
            else:
                minute = text


def printable(text: str) -> str:
    """Return `text` without what could drive a terminal; publishers and peers choose it."""
    return "".join(character if character.isprintable() else "?" for character in text)


# -- one session


async def publish(client: Client, options: Options) -> None:
    """Publish until the session ends."""
    publication = client.publish(options.broadcast)
    track = publication.track(options.track, keep=KEPT_MINUTES)
    say(f"publishing {options.broadcast}, track {options.track}, {client.version.name_on_wire}")
    await keep_time(track, seconds(lambda: datetime.now(UTC), asyncio.sleep))


async def watch(client: Client, options: Options, line: Callable[[str], None]) -> None:
    """Watch until the session ends, through every time the broadcast comes and goes."""
    path = options.broadcast
    announced = client.announced(path)
    say(f"waiting for {path}, {client.version.name_on_wire}")
    reading: asyncio.Task[None] | None = None
    try:
        async for change in announced:
            if change.path != path or change.update:
                continue
            if not change.active:
                # What is subscribed already goes on by itself for as long as it can.
                say(f"{path} went away, waiting for it")
                continue
            if reading is not None:
                await dismiss(reading)
            reading = asyncio.create_task(read(client, announced, options, line))
            reading.add_done_callback(report_end_of_output)
    finally:
        if reading is not None:
            await dismiss(reading)
    raise ClientError("the relay announces nothing here any more")
