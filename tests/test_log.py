"""Lines of the log, as text and as JSON, and what they never hold."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog

from relay import log_setup as log
from relay.client import SessionEnded
from relay.logger import FIELDS, Logger, Seconds, get_logger, loggable
from relay.model.pace import LOG_BURST
from relay.transport.client import ConnectError
from tests.e2e.auth_support import dial, everything, garbled, guarded, http, leaks

RELAY = Path(log.__file__).parent


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Restores loggers and handlers."""
    root = logging.getLogger()
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in ("", "relay")}
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def message(caplog: pytest.LogCaptureFixture, logger: Logger, **fields: Any) -> str:
    """The text of one record."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "relay"):
        logger.info("phrase", **fields)
    [text] = caplog.messages
    return text


@pytest.mark.parametrize(
    "context, fields, text",
    [
        ({}, {}, "phrase"),
        ({}, {"key": "value", "number": 7}, "phrase key=value number=7"),
        ({"session": 7}, {"key": 1.5}, "[session 7] phrase key=1.5"),
        ({"broadcast": "demo/cam"}, {}, "[broadcast demo/cam] phrase"),
        (
            {"session": 7},
            {"track": "video/hd", "broadcast": "demo/cam"},
            "[session 7] [track demo/cam video/hd] phrase",
        ),
        ({"peer": "b.example:1"}, {"session": 7}, "[peer b.example:1] [session 7] phrase"),
        ({}, {"reason": "a word"}, "phrase reason='a word'"),
        ({}, {"reason": "word"}, "phrase reason='word'"),
        ({}, {"code": None, "text": ""}, "phrase code=- text=''"),
        ({}, {"hops": (1, 2), "none": ()}, "phrase hops=1,2 none=-"),
        ({}, {"after": Seconds(1.25)}, "phrase after=1.2s"),
        ({}, {"remote": "[::1]:4443", "file": Path("/a b")}, "phrase remote=[::1]:4443 file='/a b'"),
        ({"broadcast": "a] [session 1"}, {}, "[broadcast 'a] [session 1'] phrase"),
        ({}, {"key": "a reason=b"}, "phrase key='a reason=b'"),
        ({}, {"key": "a\nb"}, "phrase key='a\\nb'"),
        ({}, {"key": "\x1b[2J"}, "phrase key='\\x1b[2J'"),
        ({}, {"key": "100 %s"}, "phrase key='100 %s'"),
    ],
)
def test_text(
    context: dict[str, Any], fields: dict[str, Any], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert message(caplog, get_logger("relay.x", **context), **fields) == text
    assert message(caplog, get_logger("relay.x").bind(**context), **fields) == text
    assert message(caplog, get_logger("relay.x"), **context, **fields) == text


def test_a_peer_chooses_neither_length_nor_content_of_a_path(caplog: pytest.LogCaptureFixture) -> None:
    token = "eyJhbGciOiJIUzI1NiJ9.eyJwdXQiOiIifQ.c2VjcmV0"
    for key in ("path", "broadcast", "prefix", "uri"):
        text = message(caplog, get_logger("relay.x"), **{key: f"a/{token}/b"})
        assert token[:20] not in text
        assert "a/<token>/b" in text
        long = message(caplog, get_logger("relay.x"), **{key: "p" * 5_000})
        assert "ppp... (5000 characters)" in long
        assert len(long) < 300
    assert loggable("a/\ud800") == r"a/\ud800"


def fail(logger: Logger, error: Exception) -> None:
    try:
        raise error
    except RuntimeError:
        logger.exception("failed", remote="a:1")
        raise


@pytest.mark.parametrize("path", ["a" * 3_000_000, "a" * 8 + "." + "a" * 3_000_000])
def test_a_path_of_any_length_is_read_once(path: str) -> None:
    """A search from each letter anew takes hours."""
    assert loggable(path) == f"{path[:200]}... ({len(path)} characters)"


def test_a_record_is_one_of_the_standard_logger(caplog: pytest.LogCaptureFixture) -> None:
    """Handlers of an embedding program get all they need."""
    with caplog.at_level(logging.INFO, "relay"):
        error = RuntimeError("broken")
        with contextlib.suppress(RuntimeError):
            fail(get_logger("relay.x", session=7), error)
        get_logger("relay.x").log(logging.ERROR, "failed", exc_info=error)
    first, second = caplog.records
    assert (first.name, first.levelname, first.filename, first.funcName) == (
        "relay.x",
        "ERROR",
        "test_log.py",
        "fail",
    )
    assert first.msg == first.getMessage() == "[session 7] failed remote=a:1"
    assert getattr(first, FIELDS) == {"session": 7, "remote": "a:1", "event": "failed"}
    assert first.exc_info is not None
    assert first.exc_info[1] is error
    assert second.exc_info is not None
    assert second.exc_info[1] is error


def test_nothing_global_is_configured() -> None:
    before = logging.getLogger().handlers[:], logging.getLogger().level, structlog.get_config().copy()
    get_logger("relay.x", session=1).bind(track="t").info("phrase")
    assert (logging.getLogger().handlers, logging.getLogger().level, structlog.get_config()) == before
    assert not structlog.is_configured()


def test_a_logger_is_bound_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    first = get_logger("relay.x", session=1)
    second = first.bind(session=2)
    with caplog.at_level(logging.INFO, "relay"):
        for logger in (first, second, first):
            logger.info("phrase")
    assert caplog.messages == [f"[session {number}] phrase" for number in (1, 2, 1)]


class Unprintable:
    """Fails if it is written."""

    def __str__(self) -> str:
        raise AssertionError("formatted")


@pytest.mark.parametrize("method", ["debug", "info", "warning", "error", "exception"])
def test_a_line_that_is_not_wanted_is_not_formatted(method: str) -> None:
    logger = get_logger("relay.off")
    logging.getLogger("relay.off").setLevel(logging.CRITICAL)
    getattr(logger, method)("phrase", value=Unprintable())
    logger.log(logging.ERROR, "phrase", value=Unprintable())
    logging.getLogger("relay.off").setLevel(logging.DEBUG)
    with pytest.raises(AssertionError, match="formatted"):
        getattr(logger, method)("phrase", value=Unprintable())


def test_all_lines_go_through_one_file() -> None:
    """`log_setup.py` configures the command's log."""
    others = [path for path in RELAY.rglob("*.py") if path.name not in ("logger.py", "log_setup.py")]
    assert [path for path in others if "getLogger" in path.read_text()] == []


# --- the command's lines -------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def lines(level: str, stream: io.StringIO) -> list[str]:
    log.setup(level, stream=stream)
    logger = get_logger("relay.actors", session=7)
    for number, text in ((log.TRACE, "t"), (10, "d"), (20, "i"), (30, "w"), (40, "e")):
        logger.log(number, text, key="value")
    logging.getLogger("quic").info("library")
    return stream.getvalue().splitlines()


def test_a_line() -> None:
    [line, *_] = lines("info", io.StringIO())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO  \[session 7\] i key=value", line)


def test_what_libraries_say_again_and_again_is_a_few_lines() -> None:
    """aioquic warns of each malformed packet, which anybody can send from any address."""
    now = [1000.0]
    stream = io.StringIO()
    log.setup("info", stream=stream)

    def malformed(number: int) -> None:
        logger = logging.getLogger("quic")
        record = logger.makeRecord("quic", logging.WARNING, "tls.py", 1, "[%08x] Error: 10", (number,), None)
        record.created = now[0]
        logger.handle(record)

    for number in range(300):
        malformed(number)
    assert len(stream.getvalue().splitlines()) == LOG_BURST
    logging.getLogger("asyncio").error("something else")
    for number in range(300):
        get_logger("relay.x").warning("ours", number=number)
    assert len(stream.getvalue().splitlines()) == LOG_BURST + 1 + 300
    now[0] += 60.0
    for number in range(2):
        malformed(number)
    first, second = stream.getvalue().splitlines()[-2:]
    assert first.endswith(f"[quic] [00000000] Error: 10 (and {300 - LOG_BURST} more like it)")
    assert second.endswith("[quic] [00000001] Error: 10")


@pytest.mark.parametrize(
    "level, number", [("error", 1), ("warn", 2), ("info", 3), ("debug", 4), ("trace", 6)]
)
def test_levels(level: str, number: int) -> None:
    found = lines(level, io.StringIO())
    assert len(found) == number
    if level == "trace":
        assert " TRACE [session 7] t key=value" in found[0]
        assert " INFO  [quic] library" in found[-1]


def test_colour_is_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" not in lines("info", io.StringIO())[0]
    assert "\x1b[32mINFO \x1b[0m" in lines("info", Terminal())[0]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in lines("info", Terminal())[0]


def test_a_peer_cannot_forge_lines() -> None:
    stream = io.StringIO()
    log.setup("info", stream=stream)
    logging.getLogger("relay").info("closed reason=%s", "a\n2026 INFO  fake\x1b[2J\u2028x")
    [line] = stream.getvalue().splitlines()
    assert line.endswith(r"closed reason=a\n2026 INFO  fake\x1b[2J\u2028x")


def test_a_traceback_follows_its_line() -> None:
    stream = io.StringIO()
    log.setup("info", stream=stream)
    logging.getLogger("relay").error("actor failed", exc_info=RuntimeError("broken"))
    found = stream.getvalue().splitlines()
    assert found[0].endswith("ERROR actor failed")
    assert found[-1] == "RuntimeError: broken"


# --- JSON ----------------------------------------------------------------------------------------------------------


def objects(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_object() -> None:
    stream = io.StringIO()
    log.setup("debug", "json", stream)
    logger = get_logger("relay.session", session=7)
    logger.info("accepted", path="/demo", publish=("a", "b"), after=Seconds(1.23456), code=None)
    logger.bind(broadcast="demo/cam", track="video/hd").warning("slow", error=ValueError("bad"))
    logging.getLogger("quic").warning("[%s] Error", "id")
    first, second, third = objects(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {
        "level": "info",
        "logger": "relay.session",
        "session": 7,
        "event": "accepted",
        "path": "/demo",
        "publish": ["a", "b"],
        "after": 1.235,
        "code": None,
    }
    assert (second["broadcast"], second["track"], second["error"]) == ("demo/cam", "video/hd", "bad")
    assert (second["level"], third["level"]) == ("warn", "warn")
    assert (third["logger"], third["event"]) == ("quic", "[id] Error")


def test_an_object_is_one_line_whatever_a_peer_sends() -> None:
    stream = io.StringIO()
    log.setup("info", "json", stream)
    evil = 'a\n{"level": "error"}\x1b[2J\u2028\ud800\x7f"'
    get_logger("relay.x").info("closed", reason=evil)
    sendable = evil.replace("\ud800", "")  # pytest reports library logs in UTF-8
    logging.getLogger("quic").warning("%s", sendable)
    text = stream.getvalue()
    assert len(text.splitlines()) == 2
    assert text.isascii()
    assert all(line.isprintable() for line in text.splitlines())
    assert [entry.get("reason", entry["event"]) for entry in objects(stream)] == [evil, sendable]


def test_an_exception_is_a_field() -> None:
    stream = io.StringIO()
    log.setup("info", "json", stream)
    get_logger("relay.x").error("failed", exc_info=RuntimeError("broken"))
    logging.getLogger("asyncio").error("failed", exc_info=RuntimeError("broken"))
    for entry in objects(stream):
        assert entry["event"] == "failed"
        assert entry["exception"].endswith("RuntimeError: broken")


def test_a_second_setup_replaces_the_first() -> None:
    first, second, third = io.StringIO(), io.StringIO(), io.StringIO()
    log.setup("info", "text", first)
    log.setup("info", "json", second)
    log.setup("warn", "text", third)
    get_logger("relay.x").error("once")
    assert (first.getvalue(), second.getvalue()) == ("", "")
    assert third.getvalue().endswith("ERROR once\n")


# --- tokens --------------------------------------------------------------------------------------------------------


@pytest.mark.e2e
@pytest.mark.parametrize("form", ["text", "json"])
async def test_no_line_holds_a_token(form: str, tmp_path: Path) -> None:
    """Accepted and refused sessions and requests, at the most detailed level."""
    stream = io.StringIO()
    log.setup("trace", form, stream)
    good, bad = everything(), garbled(everything())
    async with guarded(tmp_path) as relay, aiohttp.ClientSession() as web:
        for transport in ("webtransport", "quic", "websocket"):
            async with await dial(relay, transport, "demo", good):
                pass
            with contextlib.suppress(SessionEnded, ConnectError):
                async with await dial(relay, transport, "demo", bad):
                    pass
        for token in (good, bad):
            for path in ("announced/demo", "fetch/demo/video", f"fetch/{token}/video", "nothing"):
                async with web.get(http(relay, path, token)) as response:
                    await response.read()
        with contextlib.suppress(SessionEnded, ConnectError):
            async with await dial(relay, "webtransport", good):
                pass
    text = stream.getvalue()
    for words in ("accepted", "refused", "closed"):
        for transport in ("webtransport", "quic", "websocket"):
            assert words in text, text
            assert transport in text
    assert leaks(text) == []
