"""The command line: the options it passes on, its output, and its exit."""

from __future__ import annotations

import base64
import datetime as dt
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from relay import cli, compiled
from relay import log_setup as log
from relay.app import Relay, check
from relay.config import Auth, Cluster, Config, ConfigError, Public, load
from relay.config.tables import OPTIONS
from relay.quic.certificate_store import generate_certificate
from relay.version import VERSION
from tests.pem import chain_pem, key_pem
from tests.sampling import covering

ROOT = Path(__file__).parent.parent
DEV = str(ROOT / "dev.toml")


class App(ModuleType):
    """Stands in for `relay.app` and `relay.process`: keeps the requested runs."""

    def __init__(self) -> None:
        super().__init__("relay.app")
        self.configs: list[Config] = []
        self.reread: Callable[[], Config] = Config
        self.status = 0

    def run(
        self, config: Config, reread: Callable[[], Config], set_up_log: Callable[[str, str], None]
    ) -> int:
        self.configs.append(config)
        self.reread = reread
        assert set_up_log is log.setup
        return self.status

    @staticmethod
    def check(config: Config) -> None:
        check(config)


@pytest.fixture(autouse=True)
def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[App]:
    for name in {name for option in OPTIONS for name in option.env}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    app = App()
    for name in ("relay.app", "relay.process"):
        monkeypatch.setitem(sys.modules, name, app)
    root, relay = logging.getLogger(), logging.getLogger("relay")
    before = (root.handlers[:], root.level, relay.level)
    yield app
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    relay.setLevel(before[2])


def test_file_and_flags_reach_the_application(app: App) -> None:
    app.status = 7
    assert cli.main([DEV, "--listen", "[::]:1", "--tls-generate", "a,b", "--tls-generate=c"]) == 7
    [config] = app.configs
    assert config.server.listen.port == 1
    assert config.server.tls.generate == ("a", "b", "c")
    assert config.log.level == "debug"
    assert logging.getLogger("relay").level == logging.DEBUG


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_form_of_the_log(form: str, app: App, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([DEV, "--log-format", form]) == 0
    logging.getLogger("relay").info("phrase")
    line = capsys.readouterr().err
    assert (json.loads(line)["event"] == "phrase") if form == "json" else line.endswith(" phrase\n")


def test_without_arguments_it_is_the_demo(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["moq-relay"])
    assert cli.main() == 0
    assert app.configs == [Config.demo()]


def test_the_environment_is_read(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOQ_SERVER_LISTEN", "[::]:5")
    monkeypatch.setenv("MOQ_WEB_WS", "no")
    assert cli.main([DEV]) == 0
    assert app.configs[0].server.listen.port == 5
    assert not app.configs[0].web.ws


def test_the_file_is_read_again_as_at_the_start(
    app: App, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "relay.toml"
    file.write_text(f"{ROOT.joinpath('dev.toml').read_text()}\n[limits]\nsessions = 1\n")
    monkeypatch.setenv("MOQ_SERVER_LISTEN", "[::]:5")
    assert cli.main([str(file), "--tls-generate", "a"]) == 0
    file.write_text(file.read_text().replace("sessions = 1", "sessions = 2"))
    again = app.reread()
    assert again.limits.sessions == 2
    assert again.model_copy(update={"limits": app.configs[0].limits}) == app.configs[0]
    file.write_text(file.read_text().replace("sessions = 2", "sesions = 2"))
    with pytest.raises(ConfigError, match=r"relay.toml: \[limits\] sesions: unknown key, did you mean"):
        app.reread()


def test_no_flag_leaves_no_trace() -> None:
    assert cli.build_parser().parse_args([]).flags == []


@pytest.mark.parametrize("flag", [flag for option in OPTIONS for flag in option.flags])
def test_every_flag_is_collected(flag: str) -> None:
    assert cli.build_parser().parse_args([flag, "x"]).flags == [(flag, "x")]


@pytest.mark.parametrize(
    "arguments, ws",
    [
        (["--web-ws", DEV], True),
        ([DEV, "--web-ws"], True),
        (["--web-ws", "false", DEV], False),
        (["--web-ws=no", DEV], False),
        (["--no-web-ws", DEV], False),
        (["--no-web-ws", "--web-ws", "--", DEV], True),
    ],
)
def test_switches(app: App, arguments: list[str], ws: bool) -> None:
    assert cli.main(arguments) == 0
    assert app.configs[0].web.ws is ws


def test_check_of_a_good_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--check", DEV]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == f"{DEV}: ok"
    assert [line.split()[0] for line in lines[1:]] == [
        "QUIC",
        "versions",
        "certificate",
        "secret",
        "web",
        "websocket",
        "access",
        "cluster",
        "operator",
    ]
    assert "self-signed for localhost" in out
    assert "anyone, everywhere" in out
    assert err == ""


LEAF = """
    auth = {key = "root.jwk", public = "anon"}
    [server.tls]
    cert = "cert.pem"
    key = "key.pem"
    [web]
    ws = false
    https = {listen = "[::]:443", cert = "cert.pem", key = "key.pem"}
"""


def written_leaf() -> None:
    pair = generate_certificate(["localhost"], dt.datetime.now(dt.UTC))
    Path("cert.pem").write_bytes(chain_pem(pair))
    Path("key.pem").write_bytes(key_pem(pair))
    Path("root.jwk").write_text(json.dumps({"alg": "HS256", "key_ops": ["verify"], "k": "c2VjcmV0" * 8}))
    Path("root.jwk").chmod(0o600)
    Path("leaf.toml").write_text(LEAF)


def test_check_tells_what_would_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    written_leaf()
    assert cli.main(["leaf.toml", "--check"]) == 0
    out = capsys.readouterr().out
    for part in ("cert.pem", "https [::]:443", "off", "tokens of root.jwk; anyone on anon", "localhost:1443"):
        assert part in out
    assert "c2VjcmV0" not in out


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (-10, "expires on "),
        (-20, "expired on "),
        (+20, "is not valid before "),
    ],
)
def test_check_names_a_certificate_that_clients_refuse(
    made: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A generated one lives for 14 days, from the day before; here it is a file like any other."""
    written_leaf()
    pair = generate_certificate(["localhost"], dt.datetime.now(dt.UTC) + dt.timedelta(days=made - 2))
    Path("cert.pem").write_bytes(chain_pem(pair))
    Path("key.pem").write_bytes(key_pem(pair))
    assert cli.main(["leaf.toml", "--check"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("leaf.toml: ok\n")
    warnings = [line for line in err.splitlines() if "certificate" in line]
    for line, table in zip(warnings, ("server.tls", "web.https"), strict=True):
        assert line.startswith(f"moq-relay: warning: [{table}] cert: cert.pem: the certificate {told}2")


@pytest.mark.parametrize(
    "auth, told",
    [
        ({"key": Path("root.jwk"), "public": ["demo", "anon"]}, "tokens of root.jwk; anyone on anon, demo"),
        ({"key_dir": "keys/"}, "tokens of the keys in keys"),
        (
            {"key_dir": "https://keys.example/moq/"},
            "tokens of the keys at https://keys.example/moq",
        ),
        ({"public": ""}, "anyone, everywhere"),
        ({"public": Public(subscribe=("demo",))}, "anyone may subscribe to demo"),
        ({"public": Public(publish=("anon/in",))}, "anyone may publish anon/in"),
        (
            {"key_dir": "keys", "public": Public(subscribe=("",), publish=("a", "b"))},
            "tokens of the keys in keys; anyone may subscribe to everything; anyone may publish a, b",
        ),
    ],
)
def test_the_summary_tells_who_may_do_what(auth: dict[str, Any], told: str) -> None:
    [line] = [line for line in cli.summary(Config(auth=Auth(**auth))) if line.split()[0] == "access"]
    assert line == f"  access      {told}"


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("root.jwk", "content", "[auth] key: root.jwk: neither a JSON web key nor base64url of one"),
        ("key.pem", "content", "[server.tls]: key.pem"),
        (
            "leaf.toml",
            f'{LEAF}[cluster]\nroot = "a:1"\ntoken = "none.jwt"\n',
            '[cluster] token = "none.jwt": no such file',
        ),
    ],
)
def test_check_finds_what_a_start_would_refuse(
    file: str, content: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    written_leaf()
    Path(file).write_text(content)
    assert cli.main(["leaf.toml", "--check"]) == 1
    assert told in capsys.readouterr().err


TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJjbHVzdGVyIjp0cnVlfQ.c2VjcmV0LXNlY3JldC1zZWNyZXQ"
NO_TOKEN = "not a token, as `moq-token sign` prints it"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"\xff\xfe.a.b", "not a text file"),
        (b"secret", NO_TOKEN),
        (b"a.b", NO_TOKEN),
        (b"secret.secret.secret secret", NO_TOKEN),
        (b"secr\xc3\xa9t.b.c", NO_TOKEN),
        (b"secret." * 2 + b"x" * 8192, NO_TOKEN),
        (b'{"alg": "HS256", "k": "secret"}', NO_TOKEN),
    ],
)
def test_check_and_start_look_into_the_token(
    content: bytes, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    written_leaf()
    Path("leaf.toml").write_text(f'{LEAF}[cluster]\nroot = "a:1"\ntoken = "cluster.jwt"\n')
    Path("cluster.jwt").write_bytes(content)
    assert cli.main(["leaf.toml", "--check"]) == 1
    err = capsys.readouterr().err
    assert err == f"moq-relay: [cluster] token: the token cannot be read: cluster.jwt: {told}\n"
    with pytest.raises(ConfigError, match=r"cluster\.jwt"):
        Relay(load("leaf.toml", environ={}))
    Path("cluster.jwt").write_text(f" {TOKEN}\n")
    assert cli.main(["leaf.toml", "--check"]) == 0
    assert "secret" not in err
    assert TOKEN[:12] not in "".join(capsys.readouterr())


def a_token(**claims: object) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJIUzI1NiJ9.{payload}.c2VjcmV0LXNlY3JldC1zZWNyZXQ"


FOR_CLIENTS = a_token(root="", put="", get="")
FOR_RELAYS = a_token(root="", put="", get="", cluster=True)
OF_OTHERS = a_token(root="", publish=["**"], subscribe=["**"])


@pytest.mark.parametrize(
    ("cluster", "told"),
    [
        (
            'root = "a:1"',
            "[cluster] root: no token for a:1, which lets us in only if it is open to anyone: a relay ",
        ),
        ('root = "a:1"\ntoken = "relay.jwt"', None),
        (
            'root = "a:1"\ntoken = "client.jwt"',
            "[cluster] token: client.jwt is without the claim cluster (moq-",
        ),
        ('root = { url = "a:1", token = "relay.jwt" }', None),
        (
            'root = { url = "a:1", token = "client.jwt" }',
            "[cluster] root: token client.jwt is without the claim cluster (moq-token sign --cluster): a relay like ",
        ),
        (f'root = "https://a:1?jwt={FOR_RELAYS}"', None),
        (
            f'root = ["b", "https://a:1?jwt={FOR_CLIENTS}"]\ntoken = "relay.jwt"',
            "[cluster] root: token the one in the URL of https://a:1 is without the claim cluster (moq-token sign ",
        ),
        (
            f'root = "https://a:1/?jwt={OF_OTHERS}"',
            "[cluster] root: token the one in the URL of https://a:1/: a relay like this one refuses it: ",
        ),
    ],
)
def test_check_warns_of_what_will_not_work_with_a_token(
    cluster: str, told: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    written_leaf()
    Path("client.jwt").write_text(FOR_CLIENTS)
    Path("relay.jwt").write_text(FOR_RELAYS)
    Path("leaf.toml").write_text(f"{LEAF}[cluster]\n{cluster}\n")
    assert cli.main(["leaf.toml", "--check"]) == 0
    out, err = capsys.readouterr()
    if told is None:
        assert err == ""
    else:
        assert err.startswith(f"moq-relay: warning: {told}")
        assert err.count("\n") == 1
    for token in (FOR_CLIENTS, FOR_RELAYS, OF_OTHERS):
        assert token[-20:] not in out + err


@pytest.mark.parametrize(
    ("cluster", "told"),
    [
        ({}, "none"),
        ({"node": "relay.example.com"}, "root of a cluster as relay.example.com"),
        ({"node": "a", "root": ("https://A:443",)}, "root of a cluster as a"),
        ({"node": "c:443", "root": ("a", "moqt://b/x", "c")}, "joins a, moqt://b/x as c:443"),
        ({"root": ("a",)}, "joins a without a name: what is published here stays here"),
        ({"node": "c", "root": ("a",), "mesh": False}, "joins a as c; dials no other members"),
    ],
)
def test_the_summary_tells_the_part_in_a_cluster(cluster: dict[str, Any], told: str) -> None:
    lines = cli.summary(Config(cluster=Cluster(**cluster)))
    assert f"  cluster     {told}" in lines


def test_check_of_a_bad_file(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.toml").write_text('[server]\nlisen = "x"\n')
    assert cli.main(["--check", "bad.toml"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == 'moq-relay: bad.toml: [server] lisen: unknown key, did you mean "listen"?'
    assert all(line.startswith("moq-relay: ") for line in err.splitlines())
    assert len(err.splitlines()) == 3
    assert app.configs == []


def test_start_with_a_bad_configuration(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["none.toml"]) == 2
    assert capsys.readouterr().err == "moq-relay: none.toml: no such file\n"
    assert app.configs == []


def test_what_the_application_finds_out_later(
    app: App, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object) -> int:
        raise ConfigError(["[auth] key: not a key"])

    monkeypatch.setattr(app, "run", run)
    assert cli.main([DEV]) == 2
    assert capsys.readouterr().err == "moq-relay: [auth] key: not a key\n"


def leave(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    return caught.value.code, *capsys.readouterr()


def test_help_shows_everything(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = leave(["--help"], capsys)
    assert (status, err) == (0, "")
    for option in OPTIONS:
        assert f"[{option.table}]:" in out
        assert f"[default: {option.default_text}]" in out
        for name in (*option.flags, *option.env):
            assert name in out
    for part in ("FILE", "--check", "--version", "examples:\n  moq-relay dev.toml", "docs/config.md"):
        assert part in out
    assert app.configs == []


def test_help_fits_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = leave(["--help"], capsys)
    assert "moq-lite-06,moq-transport-18" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = leave(["--version"], capsys)
    first, second, *rest = out.splitlines()
    assert (status, first, err, rest) == (0, f"moq-relay {VERSION}", "", [])
    assert f"modules {compiled.describe()}, kernel " in second


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--lissen", "x"], "unknown flag --lissen, did you mean --listen?"),
        (["--no-web-wss"], "unknown flag --no-web-wss, did you mean --no-web-ws?"),
        (["--no-web-ws=1"], "--no-web-ws takes no value"),
        (["--list=x"], "unknown flag --list, did you mean --listen?"),
        (["--qqq"], "unknown flag --qqq"),
        (
            ["--auth-url", "https://a/"],
            "--auth-url: not supported; tokens are checked with [auth] key or key_dir",
        ),
        (["--connect-tls-insecure"], "--connect-tls-insecure: here it is --tls-disable-verify"),
        (["--client-tls-root=a.pem"], "--client-tls-root: here it is --tls-root"),
        (["--drain-timeout", "5s"], "--drain-timeout: here it is [limits] drain in FILE"),
        (
            ["--server-quic-keep-alive", "5s"],
            "--server-quic-keep-alive: here it is [server.quic] keep_alive in FILE",
        ),
        (["a.toml", "b.toml"], "unexpected argument 'b.toml': there is one FILE at most"),
        (["--listen"], "argument --listen: expected one argument"),
    ],
)
def test_misuse(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = leave(arguments, capsys)
    assert (status, out) == (2, "")
    assert err == f"moq-relay: {message}\nTry: moq-relay --help\n"


# Standard streams

COMMAND = f"{sys.executable} -m relay.cli"
CLOSED = ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"]


def shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("command", "closed"), covering([(f"--check {DEV}", 0), ("--help", 0), ("--check x", 1)], CLOSED)
)
def test_a_closed_stream_is_no_fault(command: tuple[str, int], closed: str) -> None:
    arguments, status = command
    found = shell(f"{COMMAND} {arguments} {closed}")
    assert found.returncode == status
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("arguments", [f"--check {DEV}", "--help", "--version"])
def test_a_full_disk_is_named(arguments: str) -> None:
    found = shell(f"{COMMAND} {arguments} > /dev/full")
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == "moq-relay: standard output: No space left on device\n"


def test_an_output_without_the_characters_of_a_path_gets_them_escaped(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text('server.tls.generate = "localhost"\nauth.public = "caf\u00e9"\n', encoding="utf-8")
    found = shell(f"PYTHONIOENCODING=ascii {COMMAND} --check {file}")
    assert (found.returncode, found.stderr) == (0, "")
    assert "anyone on caf\\xe9\n" in found.stdout


def test_nothing_takes_the_place_of_a_closed_stream() -> None:
    """The next file or socket would get the number of the stream, and what libraries write to it."""
    program = (
        "import os, sys; from relay import terminal; terminal.open_closed_streams(); "
        "sys.exit(os.open('/dev/zero', os.O_RDONLY) <= 2 or sys.stderr.fileno() != 2)"
    )
    assert shell(f'{sys.executable} -c "{program}" <&- >&- 2>&-').returncode == 0
