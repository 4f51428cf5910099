"""Files, variables and flags of moq-relay 0.17."""

from __future__ import annotations

import pytest

from relay.config import (
    load,
)
from relay.config.foreign import FOREIGN
from relay.config.tables import OPTIONS
from relay.config.wording import SCHEMA, nearest
from tests.config.support import (
    MINIMAL,
    complaint,
    problems,
    written,
)


@pytest.mark.parametrize(
    "key, answer",
    [
        ("drain_timeout", "drain_timeout: here it is [limits] drain"),
        ("listen.bind", "[listen] bind: here it is [server] listen"),
        ("listen.tls.cert", "[listen.tls] cert: here it is [server.tls] cert"),
        ("listen.unix.allow.uid", "[listen.unix.allow] uid: not supported"),
        ("connect.tls.insecure", "[connect.tls] insecure: here it is [client.tls] disable_verify"),
        ("connect.race", "[connect] race: not supported"),
        ("listen.nonsense", "[listen] nonsense: unknown key"),
        ("server.bind", "[server] bind: here it is [server] listen"),
        ("server.quic.qlog", "[server.quic] qlog: here it is [server] qlog_dir"),
        ("client.tls.fingerprint", "[client.tls] fingerprint: not supported"),
        ("cluster.linger", "[cluster] linger: here it is [limits] linger"),
        ("quic.receive_window", "[quic] receive_window: here it is [server.quic] connection_window"),
        ("cache.duration", "[cache] duration: here it is [limits] cache_age"),
        ("iroh.enabled", "[iroh] enabled: not supported"),
        (
            "stats.enabled",
            "[stats] enabled: not supported; /metrics and /state of [internal] listen have the figures",
        ),
        ("auth.url", "[auth] url: not supported; tokens are checked with [auth] key or key_dir"),
        ("auth.public_subscribe", "[auth] public_subscribe: here it is [auth.public] subscribe"),
    ],
)
def test_a_key_of_0_17_is_answered(key: str, answer: str) -> None:
    assert complaint({key: '"10s"'}) == f"test.toml: {answer}"


def test_every_answer_names_what_there_is() -> None:
    known = {".".join((*table, name)) for table, names in SCHEMA.items() for name in names}
    for path, entry in FOREIGN.items():
        assert entry.here is None or entry.here in known, path
        # common options need no answer
        assert path not in {place for place in known if tuple(place.split(".")) not in SCHEMA}, path
        for text in (entry.answer, entry.answer_to_flag, entry.answer_to_variable):
            if "public" in text:
                assert "public" in path, "a hint never opens a relay"


def test_what_a_key_of_0_17_explains_is_no_further_problem() -> None:
    file = written(
        {"listen.bind": '"[::]:4443"', "listen.tls.generate": '"localhost"', "auth.url": '"https://a/"'}
    )
    assert set(problems(file)) == {
        "test.toml: [listen] bind: here it is [server] listen",
        "test.toml: [listen.tls] generate: here it is [server.tls] generate",
        "test.toml: [auth] url: not supported; tokens are checked with [auth] key or key_dir",
    }


@pytest.mark.parametrize(
    "name, told",
    [
        ("MOQ_SERVER_LISTN", "unknown, did you mean MOQ_SERVER_LISTEN?"),
        ("MOQ_LISTEN", "here it is MOQ_SERVER_LISTEN"),
        ("MOQ_LISTEN_TLS_KEY", "here it is MOQ_SERVER_TLS_KEY"),
        ("MOQ_SERVER_QUIC_IDLE_TIMEOUT", "here it is [server.quic] idle_timeout in FILE"),
        ("MOQ_DRAIN_TIMEOUT", "here it is [limits] drain in FILE"),
        ("MOQ_IROH_SECRET", "not supported"),
        ("MOQ_AUTH_URL", "not supported; tokens are checked with [auth] key or key_dir"),
        ("MOQ_AUTH_PUBLC", "unknown, did you mean MOQ_AUTH_PUBLIC?"),
        ("MOQ_ZZZ", "unknown; docs/config.md lists those that are used"),
    ],
)
def test_an_unknown_variable_is_named_in_a_warning(name: str, told: str) -> None:
    warnings: list[str] = []
    load(written(MINIMAL), environ={name: "secret", "MOQ_LOG_LEVEL": "info"}, warn=warnings.append)
    assert warnings == [f"environment variable {name} is not used: {told}"]


@pytest.mark.parametrize(
    "name",
    [
        "MOQ_RELAY_SERVICE_HOST",
        "MOQ_RELAY_SERVICE_PORT_QUIC",
        "MOQ_RELAY_PORT",
        "MOQ_RELAY_PORT_443_UDP_ADDR",
        "MOQ",
        "X",
    ],
)
def test_variables_of_others_are_not(name: str) -> None:
    warnings: list[str] = []
    load(written(MINIMAL), environ={name: "x"}, warn=warnings.append)
    assert not warnings


@pytest.mark.parametrize("name", ["--auth-url", "--auth-publisher", "--tls-verify"])
def test_a_hint_never_opens_a_relay(name: str) -> None:
    known = [flag for option in OPTIONS for flag in option.flags]
    assert nearest(name, known) not in {
        "--auth-public",
        "--auth-public-subscribe",
        "--auth-public-publish",
        "--tls-disable-verify",
    }
