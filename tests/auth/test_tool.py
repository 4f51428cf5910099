"""The command `moq-token`: output, files, refusals, and no secret in any message."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from relay import terminal
from relay.auth import tool
from relay.auth.claims import Claims, Scope
from relay.auth.key import ALGORITHMS, Key
from relay.auth.tool_times import in_utc, in_words, moment_of
from relay.version import VERSION

ROOT = Path(__file__).parents[2]
LATER = 4_102_444_800
SLOW = ("RS", "PS")
QUICK = [name for name in ALGORITHMS if not name.startswith(SLOW)]


@dataclass
class Done:
    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of an error."""
        assert self.status in (1, 2)
        assert self.err.startswith("moq-token: ")
        assert self.err.count("\n") == 1
        assert self.err.endswith("\n")
        return self.err.removeprefix("moq-token: ").strip()


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")

    def call(*words: str | Path, stdin: str | bytes = "") -> Done:
        data = stdin if isinstance(stdin, bytes) else stdin.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        status = tool.main([str(word) for word in words])
        found = capsys.readouterr()
        return Done(status, found.out, found.err)

    return call


@pytest.fixture
def key(tmp_path: Path) -> Key:
    """Also in the file `key.jwk`."""
    made = Key.generate("HS256", "first")
    made.save(tmp_path / "key.jwk")
    return made


def files(folder: Path) -> set[str]:
    return {found.name for found in folder.iterdir()}


# --- help ------------------------------------------------------------------------------------------------------------


def test_help(run: Run) -> None:
    whole = run("--help")
    assert (whole.status, whole.err) == (0, "")
    assert run() == whole
    for command in ("generate", "sign", "verify"):
        assert command in whole.out
        own = run(command, "--help")
        assert (own.status, own.err) == (0, "")
        assert own.out.startswith(f"usage: moq-token {command} ")
        assert f"  moq-token {command} " in own.out.partition("examples:")[2]
    assert run("--version").out == f"moq-token {VERSION}\n"


def test_the_examples_of_the_help_work(run: Run, tmp_path: Path) -> None:
    for folder in ("private", "public"):
        (tmp_path / folder).mkdir()
    count = 0
    for words in ((), ("generate",), ("sign",)):
        for line in run(*words, "--help").out.partition("examples:")[2].splitlines():
            if line.startswith("  moq-token "):
                given = line.removeprefix("  moq-token ").replace("''", "EMPTY")
                given, _, source = given.partition(" < ")
                given, _, target = given.partition(" > ")
                again = ["--force"] if given.startswith("generate") else []
                stdin = (tmp_path / source).read_text() if source else ""
                done = run(*("" if word == "EMPTY" else word for word in given.split()), *again, stdin=stdin)
                assert done.status == 0, (line, done)
                if target:
                    (tmp_path / target).write_text(done.out)
                count += 1
    assert count == 9


@pytest.mark.parametrize(
    "words, reason",
    [
        (["sgin"], "did you mean sign?"),
        (["frobnicate"], "want one of generate, sign, verify"),
        (["--frob"], "want a command"),
        (["--key", "x"], "want a command"),
        (["--key=x"], "want a command"),
        (["--key"], "want a command"),
        (["--frob", "x"], "want one of"),
        (["sign", "--frob"], "sign has no flag --frob"),
        (["sign", "--key"], "expected one argument"),
        (["sign", "--exp", "1h"], "sign has no flag --exp"),
        (["verify", "token"], "read from standard input"),
        (["generate", "x"], "flags only"),
        (["generate", "--json", "--base64"], "not allowed with"),
        (["generate", "--out", "a", "--out-dir", "b"], "not allowed with"),
        (["generate", "--out", "a", "--key", "b"], "not allowed with"),
        (["--key", "a", "generate", "--out", "b"], "not allowed with"),
        (["verify", "--url", "https://a/", "--path", "a"], "not allowed with"),
        (["sign", "--publish", ""], "want --key FILE"),
        (["verify"], "want --key FILE"),
    ],
)
def test_wrong_usage(run: Run, words: list[str], reason: str) -> None:
    done = run(*words)
    assert done.status == 2
    assert reason in done.error
    assert done.out == ""


# --- generate --------------------------------------------------------------------------------------------------------


def test_a_key_goes_to_standard_output(run: Run, tmp_path: Path) -> None:
    for words in ([], ["--out", "-"], ["--base64"], ["--key", "-"]):
        done = run("generate", *words)
        assert (done.status, done.err) == (0, "")
        made = Key.parse(done.out, "output")
        assert made.algorithm == "HS256"
        assert not done.out.startswith("{")
    assert run("generate", "--json", "--id", "mine").out.startswith('{\n  "alg": "HS256",')
    assert files(tmp_path) == set()


@pytest.mark.parametrize("algorithm", [*QUICK, "PS256"])
def test_a_pair_goes_to_files(run: Run, tmp_path: Path, algorithm: str) -> None:
    public = [] if algorithm.startswith("HS") else ["--public", "public.jwk"]
    done = run("generate", "--algorithm", algorithm, "--out", "private.jwk", *public)
    assert (done.status, done.out) == (0, "")
    key = Key.load(tmp_path / "private.jwk")
    assert (key.algorithm, key.private) == (algorithm, True)
    assert key.kid is not None
    assert f"private key {key.kid} ({algorithm}) to private.jwk" in done.err
    assert stat.S_IMODE((tmp_path / "private.jwk").stat().st_mode) == 0o600
    if public:
        assert Key.load(tmp_path / "public.jwk") == key.public()
        assert stat.S_IMODE((tmp_path / "public.jwk").stat().st_mode) == 0o644


def test_directories_get_a_file_for_each_key(run: Run, tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "public").mkdir()
    for kid in ("a", "b"):
        words = (
            "generate",
            "--algorithm",
            "EdDSA",
            "--id",
            kid,
            "--out-dir",
            "private",
            "--public-dir",
            "public",
        )
        assert run(*words).status == 0
        assert run(*words).status == 1
    assert files(tmp_path / "private") == files(tmp_path / "public") == {"a.jwk", "b.jwk"}
    assert Key.load(tmp_path / "private" / "a.jwk").kid == "a"


def test_one_of_the_two_may_be_standard_output(run: Run, tmp_path: Path) -> None:
    done = run("generate", "--algorithm", "ES256", "--out", "private.jwk", "--public", "-")
    assert Key.parse(done.out, "output") == Key.load(tmp_path / "private.jwk").public()
    done = run("generate", "--algorithm", "ES256", "--public", "public.jwk", "--json")
    assert Key.parse(done.out, "output").public() == Key.load(tmp_path / "public.jwk")
    assert (tmp_path / "public.jwk").read_text().startswith("{")
    for words in ([], ["--out", "-"], ["--key", "-"]):
        assert "both keys" in run("generate", "--algorithm", "ES256", "--public", "-", *words).error


def test_a_scope(run: Run) -> None:
    words = ("generate", "--root", "/demo/", "--publish", "live", "--publish", "live/x", "--subscribe", "")
    assert Key.parse(run(*words).out, "output").scope == Scope("demo", ("live",), ("",))
    assert Key.parse(run("generate").out, "output").scope is None
    assert "needs --publish or --subscribe" in run("generate", "--root", "demo").error


@pytest.mark.parametrize(
    "words, reason",
    [
        (["--public", "p"], "HS256 keys have no public half"),
        (["--public-dir", "."], "HS256 keys have no public half"),
        (["--public", "-", "--out", "k"], "HS256 keys have no public half"),
        (["--algorithm", "es256"], "did you mean ES256?"),
        (["--algorithm", "eddsa"], "did you mean EdDSA?"),
        (["--algorithm", "none"], "want one of HS256"),
        (["--id", "../x", "--out-dir", "."], "letters, digits"),
        (["--id", ""], "letters, digits"),
        (["--algorithm", "ES256", "--out", "k", "--public", "k"], "another"),
        (["--algorithm", "ES256", "--out", "k", "--public", "./k"], "another"),
        (["--algorithm", "ES256", "--out-dir", ".", "--public-dir", "."], "another"),
        (["--out", "no/k"], "no directory no"),
        (["--out-dir", "no"], "no directory no"),
        (["--out", "."], "is a directory"),
        (["--out", "/dev/null"], "no ordinary file"),
        (["--out", "/dev/null", "--force"], "no ordinary file"),
        (["--out", "x" * 300], "too long"),
        (["--algorithm", "ES256", "--out", "k", "--public", "no/p"], "no directory no"),
        (["--algorithm", "ES256", "--out", "no/k", "--public", "p"], "no directory no"),
        (["--publish", "../a"], "--publish: "),
    ],
)
def test_what_is_not_generated_leaves_nothing(
    run: Run, tmp_path: Path, words: list[str], reason: str
) -> None:
    done = run("generate", *words)
    assert reason in done.error
    assert done.out == ""
    assert files(tmp_path) == set()


def test_files_are_overwritten_with_force_only(run: Run, tmp_path: Path) -> None:
    pair = ("generate", "--algorithm", "ES256", "--out", "private.jwk", "--public", "public.jwk")
    (tmp_path / "public.jwk").write_text("precious")
    assert "public.jwk: exists already, --force" in run(*pair).error
    assert files(tmp_path) == {"public.jwk"}
    assert (tmp_path / "public.jwk").read_text() == "precious"
    assert run(*pair, "--force").status == 0
    first = Key.load(tmp_path / "private.jwk")
    assert run(*pair).status == 1
    assert Key.load(tmp_path / "private.jwk") == first
    assert run(*pair, "--force").status == 0
    second = Key.load(tmp_path / "private.jwk")
    assert second != first
    assert Key.load(tmp_path / "public.jwk") == second.public()


@pytest.mark.parametrize("private", ["private.jwk", "-"])
def test_when_the_second_file_fails_the_first_is_taken_back(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private: str
) -> None:
    saving = Key.save

    def failing(key: Key, file: Path, **options: Any) -> None:
        if key.private:
            raise OSError(errno.ENOSPC, "No space left on device")
        saving(key, file, **options)

    def full(_: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Key, "save", failing)
    if private == "-":
        monkeypatch.setattr(sys.stdout, "write", full)
        monkeypatch.setattr(terminal, "give_up", lambda _: None)
    done = run("generate", "--algorithm", "ES256", "--out", private, "--public", "public.jwk")
    assert done.status == 1
    assert "No space left" in done.err
    assert files(tmp_path) == set()


# --- sign ------------------------------------------------------------------------------------------------------------


def test_a_token_and_nothing_else_is_printed(run: Run, key: Key) -> None:
    before = int(time.time())
    words = ("--root", "/rooms//123/", "--publish", "alice", "--subscribe", "", "--expires", "1h")
    done = run("sign", "--key", "key.jwk", *words)
    assert (done.status, done.err) == (0, "")
    assert done.out.count("\n") == 1
    claims = key.verify(done.out.strip())
    assert (claims.root, claims.publish, claims.subscribe) == ("rooms/123", ("alice",), ("",))
    assert claims.issued is not None
    assert before <= claims.issued <= time.time()
    assert claims.expires == claims.issued + 3_600
    assert claims.not_before is None
    assert not claims.cluster


def test_a_pattern_of_everything_below_is_its_path(run: Run, key: Key) -> None:
    done = run(
        "sign", "--key", "key.jwk", "--publish", "alice/**", "/b/**", "--subscribe", "**", "--expires", "1h"
    )
    claims = key.verify(done.out.strip())
    assert (claims.publish, claims.subscribe) == (("alice", "b"), ("",))


def test_every_claim(run: Run, key: Key) -> None:
    times = ("--expires", "2100-01-01", "--not-before", "2099-12-31T23:00:00+01:00", "--issued", "1700000000")
    paths = ("--publish", "a", "b/c", "--publish=", "--subscribe", "é", "--cluster")
    done = run("sign", "--key", "-", *paths, *times, stdin=key.text())
    assert key.verify(done.out.strip()) == Claims(
        "", ("",), ("é",), cluster=True, expires=LATER, not_before=LATER - 7_200, issued=1_700_000_000
    )


def test_a_token_that_never_expires_is_mentioned(run: Run, key: Key) -> None:
    done = run("sign", "--key", "key.jwk", "--subscribe", "")
    assert key.verify(done.out.strip()).expires is None
    assert done.err == "moq-token: this token never expires, --expires 1h would limit it to an hour\n"


@pytest.mark.parametrize(
    "words, reason",
    [
        ([], "'' is everything"),
        (["--root", "a"], "'' is everything"),
        (["--publish", "", "--expires", "3600"], "3600 is a moment in 1970, for a duration write 3600s"),
        (["--publish", "", "--not-before", "60"], "--not-before: 60 is a moment in 1970"),
        (["--publish", "", "--issued", "0"], "--issued: 0 is a moment in 1970"),
        (["--publish", "", "--expires", "1700000000"], "2023-11-14 22:13:20 UTC is past"),
        (["--publish", "", "--expires", "2020-01-01"], "is past"),
        (["--publish", "", "--expires", "0s"], "is past"),
        (["--publish", "", "--expires", "soon"], "want a duration"),
        (["--publish", "", "--expires", ""], "want a duration"),
        (["--publish", "", "--expires", "1h", "--not-before", "2h"], "never be valid"),
        (["--publish", "../a"], "--publish: "),
        (["--publish", "a/%2e%2E/b"], "--publish: "),
        (["--subscribe", "a%2Fb"], "--subscribe: "),
        (["--root", ".", "--publish", ""], "--root: "),
        (["--root", "https://relay/demo", "--publish", ""], "not a URL"),
        (["--root", "demo?jwt=x", "--publish", ""], "not a URL"),
        (["--root", "a/" * 20, "--publish", "b/" * 20], "--publish: the path has more than 32 segments"),
        (["--publish", "\udc80"], "--publish: the path is not UTF-8"),
        (["--publish", "*/chat"], "--publish: a pattern with * that is not supported: expected a path"),
        (["--publish", "a", "--subscribe", "b/*"], "--subscribe: a pattern with * that is not supported"),
        (["--root", "a/**", "--publish", ""], "--root: want a path without *"),
    ],
)
def test_what_is_not_signed_for_its_words(run: Run, key: Key, words: list[str], reason: str) -> None:
    done = run("sign", "--key", "key.jwk", *words)
    assert done.status == 2
    assert reason in done.error
    assert done.out == ""


def test_what_a_key_does_not_sign(run: Run, tmp_path: Path) -> None:
    private = Key.generate("ES256", scope=Scope("demo", ("",)))
    private.save(tmp_path / "private.jwk")
    private.public().save(tmp_path / "public.jwk")
    (tmp_path / "junk.jwk").write_text("junk")
    (tmp_path / "pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    for words, reason in [
        (["--key", "public.jwk", "--publish", "demo"], "public one"),
        (["--key", "private.jwk", "--publish", "other"], "scope"),
        (["--key", "private.jwk", "--publish", "demo", "--cluster"], "scope"),
        (["--key", "junk.jwk", "--publish", ""], "junk.jwk: neither a JSON web key nor base64url of one"),
        (["--key", "pem", "--publish", ""], "`moq-token generate` makes keys"),
        (["--key", "missing", "--publish", ""], "missing: No such file"),
        (["--key", ".", "--publish", ""], ".: Is a directory"),
        (["--key", "-", "--publish", ""], "standard input: neither"),
        (["--key", "private.jwk", "--publish", *(f"demo/{n}-{'x' * 60}" for n in range(200))], "8192"),
    ]:
        done = run("sign", *words)
        assert (done.status, done.out) == (1, "")
        assert reason in done.error
    assert (
        run("sign", "--key", "private.jwk", "--root", "demo", "--publish", "", "--expires", "1d").status == 0
    )


# --- verify ----------------------------------------------------------------------------------------------------------


def test_the_claims_and_what_they_mean(run: Run, key: Key, tmp_path: Path) -> None:
    claims = Claims("rooms/123", ("alice",), ("",), expires=int(time.time()) + 7_290, issued=1_700_000_000)
    token = key.sign(claims)
    (tmp_path / "alice.jwt").write_text(f"\n{token}\n")
    done = run("verify", "--key", "key.jwk", stdin=token + "\n")
    assert (done.status, done.err) == (0, "")
    content, end = json.JSONDecoder().raw_decode(done.out)
    assert content == claims.payload()
    words = done.out[end:]
    assert words.startswith("\n\nExpires in 2 hours and 1 minute, at ")
    assert words.endswith(
        "\n\nA session at /rooms/123 may\n"
        "  publish    /rooms/123/alice and all below\n"
        "  subscribe  /rooms/123 and all below\n"
    )
    assert run("verify", "--key", "key.jwk", "--in", "alice.jwt").out == done.out
    assert run("verify", "--key", "-", "--in", "alice.jwt", stdin=key.text()).out == done.out
    url = f"https://relay/rooms/123?a=b&jwt={token}"
    assert run("verify", "--key", "key.jwk", "--url", url).out == done.out
    assert run("verify", "--key", "key.jwk", "--url", "https://relay/rooms/123", stdin=token).out == done.out
    assert (
        run("verify", "--key", "key.jwk", "--url", "https://r/rooms/123?jwt=x", "--in", "alice.jwt").out
        == done.out
    )
    assert json.loads(run("verify", "--key", "key.jwk", "--json", stdin=token).out) == claims.payload()
    twice = run("verify", "--key", "key.jwk", "--url", f"{url}&jwt={token}")
    assert (twice.status, "expected once" in twice.err) == (1, True)


@pytest.mark.parametrize(
    "path, publish, subscribe",
    [
        ("/rooms/123", "/rooms/123/alice and all below", "/rooms/123 and all below"),
        ("/rooms/123/alice/cam", "/rooms/123/alice/cam and all below", "/rooms/123/alice/cam and all below"),
        ("/rooms/123/bob", "nothing", "/rooms/123/bob and all below"),
        ("/", "/rooms/123/alice and all below", "/rooms/123 and all below"),
    ],
)
def test_what_a_session_may_do(run: Run, key: Key, path: str, publish: str, subscribe: str) -> None:
    token = key.sign(Claims("rooms/123", ("alice",), ("",)))
    for words in (["--path", path], ["--url", f"moqt://relay{path}"]):
        done = run("verify", "--key", "key.jwk", *words, stdin=token)
        assert done.status == 0
        assert done.out.endswith(
            f"Never expires.\n\nA session at {path} may\n  publish    {publish}\n  subscribe  {subscribe}\n"
        )


def test_everything_nothing_and_the_cluster(run: Run, key: Key) -> None:
    done = run("verify", "--key", "key.jwk", stdin=key.sign(Claims("", (), ("",), cluster=True)))
    assert "publish    nothing\n  subscribe  everything\nas another relay of the cluster.\n" in done.out
    done = run("verify", "--key", "key.jwk", stdin=key.sign(Claims("", ("a", "b"))))
    assert "publish    /a and all below, /b and all below\n" in done.out


def test_the_relay_would_refuse(run: Run, key: Key) -> None:
    now = int(time.time())
    demo = Claims("demo", ("a",))
    for claims, words, reason, more in [
        (demo, ["--path", "/room"], "granted is /demo, not /room", "A session at /room is refused: "),
        (demo, ["--path", "demo/b"], "nothing is granted at /demo/b", "A session at /demo/b is refused: "),
        (demo, ["--url", "https://relay/demo/../x"], "'..'", "is refused"),
        (demo, ["--root", ""], "the root of the token is /demo, not /", "A session is refused: "),
        (Claims("demo", ("a",), expires=now - 7_300), [], "expired", "Expired 2 hours and 1 minute ago, at "),
        (Claims("demo", ("a",), not_before=LATER), [], "not valid", "from 2100-01-01 00:00:00 UTC on.\n"),
    ]:
        done = run("verify", "--key", "key.jwk", *words, stdin=key.sign(claims))
        assert done.status == 1
        assert done.error.startswith("refused: ")
        assert reason in done.error
        content, end = json.JSONDecoder().raw_decode(done.out)
        assert content == claims.payload()
        assert more in done.out[end:]
    assert run("verify", "--key", "key.jwk", "--root", "/demo/", stdin=key.sign(demo)).status == 0


def test_what_the_key_did_not_sign(run: Run, key: Key, tmp_path: Path) -> None:
    other = Key.generate("HS256").sign(Claims("", ("",)))
    for stdin, reason in [
        (other, "the signature does not fit the key"),
        ("", "not a token"),
        ("é", "not a token"),
        (b"\xff\xfe\0", "not a token"),
        (key.text(), "not a token"),
        ("A" * 100_000, "characters"),
        (Key.generate("ES256").sign(Claims("", ("",))), "not signed with HS256"),
    ]:
        done = run("verify", "--key", "key.jwk", stdin=stdin)
        assert (done.status, done.out) == (1, "")
        assert done.error.startswith("refused: ")
        assert reason in done.error
    assert "missing: No such file" in run("verify", "--key", "key.jwk", "--in", "missing").error
    assert "another place" in run("verify", "--key", "-", stdin=key.text()).error
    assert "another place" in run("verify", "--key", "-", "--in", "-", stdin=key.text()).error
    for url in ("relay/demo", "https://", "https://[", "demo"):
        assert "want a URL such as" in run("verify", "--key", "key.jwk", "--url", url, stdin=other).error
    assert "not a URL" in run("verify", "--key", "key.jwk", "--path", "https://a/", stdin=other).error


def test_tokens_of_others_do_not_drive_the_terminal(run: Run, key: Key) -> None:
    claims = Claims("a\x1b[31m\x9b", ("\u202eb\n",), expires=1e30)
    done = run("verify", "--key", "key.jwk", stdin=key.sign(claims))
    assert done.status == 1, "no URL has such a path"
    assert json.JSONDecoder().raw_decode(done.out)[0] == claims.payload()
    assert not {"\x1b", "\x9b", "\u202e"} & set(done.out + done.err)
    done = run("verify", "--key", "key.jwk", "--path", "b\x1b", stdin=key.sign(claims))
    assert not {"\x1b", "\x9b"} & set(done.out + done.err)


# --- no secret in a message ------------------------------------------------------------------------------------------


def test_what_is_typed_in_the_wrong_place_is_not_repeated(run: Run, key: Key, tmp_path: Path) -> None:
    token, text, plain = key.sign(Claims("", ("",))), key.text(), key.text(as_json=True)
    for secret in (token, text, plain):
        for words in (
            [secret],
            ["--key", secret],
            ["--key", "key.jwk", secret],
            ["--frob", secret],
            ["verify", secret],
            ["verify", "--key", "key.jwk", secret],
            ["verify", "--key", secret],
            ["verify", "--key", "key.jwk", "--in", secret],
            ["verify", "--key", "key.jwk", "--url", secret],
            ["verify", "--key", "key.jwk", "--url", f"relay?jwt={secret}"],
            ["verify", "--key", "key.jwk", f"--tokn={secret}"],
            ["sign", "--key", "key.jwk", "--publish", "", "--expires", secret],
            ["sign", "--key", secret, "--publish", ""],
        ):
            done = run(*words)
            assert done.status == 2
            for part in (secret[:20], secret[-20:], json.loads(plain)["k"]):
                assert part not in done.out + done.err
    assert files(tmp_path) == {"key.jwk"}


# --- older word orders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [["--key", "old.jwk"], ["--key=old.jwk"]])
def test_the_key_may_stand_before_the_command(run: Run, tmp_path: Path, before: list[str]) -> None:
    assert run(*before, "generate", "--algorithm", "HS512", "--id", "old").out == ""
    assert Key.load(tmp_path / "old.jwk").kid == "old"
    token = run(*before, "sign", "--root", "a", "--publish", "b", "--subscribe", "").out
    done = run(*before, "verify", "--root", "a", stdin=token)
    assert (done.status, json.JSONDecoder().raw_decode(done.out)[0]["put"]) == (0, ["b"])


def test_the_words_of_npm(run: Run, tmp_path: Path) -> None:
    words = ("generate", "--key", "k.jwk", "--algorithm", "ES256", "--public", "p.jwk", "--base64")
    assert run(*words).status == 0
    token = run(
        "sign", "--key", "k.jwk", "--publish", "a", "b", "--subscribe", "", "--expires", str(LATER)
    ).out
    assert Key.load(tmp_path / "p.jwk").verify(token.strip()).publish == ("a", "b")
    assert run("verify", "--key", "p.jwk", "--root", "", stdin=token).status == 0


# --- the world outside -----------------------------------------------------------------------------------------------


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script.replace("moq-token", f"{sys.executable} -m relay.auth.tool")],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_as_a_program(tmp_path: Path) -> None:
    """Pipes, closed and full outputs, and a terminal without UTF-8, in one test: a start takes a fifth of a second."""
    done = shell(
        """
        moq-token generate --out k.jwk &&
        moq-token sign --key k.jwk --root é --publish '' --expires 1h | moq-token verify --key k.jwk; echo $?
        moq-token --help | true; echo ${PIPESTATUS[0]}
        moq-token generate | true; echo ${PIPESTATUS[0]}
        moq-token generate >/dev/full; echo $?
        moq-token generate >&-; echo $?
        moq-token sign --key k.jwk --publish '' >&- 2>&-; echo $?
        moq-token verify --key k.jwk <&-; echo $?
        """,
        tmp_path,
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert [line.removeprefix("moq-token: ")[:40] for line in done.stderr.splitlines()] == [
        f"wrote the private key {Key.load(tmp_path / 'k.jwk').kid} ("[:40],
        "standard output: No space left on device",
        "standard output is closed",
        "standard input is closed, a token was to come from there"[:40],
    ]
    assert done.stdout.splitlines()[-7:] == ["0", "0", "0", "1", "1", "1", "1"]
    assert '"root": "\\xe9"' in done.stdout


def test_an_internal_error_is_one_line_without_its_text(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(Key, "generate", broken)
    assert run("generate").error == "internal error: RuntimeError"

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Key, "generate", interrupted)
    assert run("generate").status == 130


# --- moments and spans -----------------------------------------------------------------------------------------------

NOW = 1_800_000_000.75


@pytest.mark.parametrize(
    "text, moment",
    [
        ("90s", 1_800_000_090),
        ("15m", 1_800_000_900),
        ("1h", 1_800_003_600),
        ("1h30m", 1_800_005_400),
        ("7d", 1_800_604_800),
        ("2w", 1_801_209_600),
        ("1w1d1h1m1s", 1_800_694_861),
        ("0s", 1_800_000_000),
        (" 1h ", 1_800_003_600),
        ("1900000000", 1_900_000_000),
        ("2100-01-01", LATER),
        ("2100-01-01T00:00:00Z", LATER),
        ("2100-01-01T00:00:00.5Z", LATER),
        ("2100-01-01 01:00:00+01:00", LATER),
        ("9999-12-31T23:59:59Z", 253_402_300_799),
    ],
)
def test_moments(text: str, moment: int) -> None:
    assert moment_of(text, NOW) == moment
    assert moment_of(datetime.fromtimestamp(moment, UTC).isoformat(), 0) == moment


NO_MOMENTS = [
    *("", " ", "h", "1", "-1h", "1.5h", "1h 30m", "30m1h", "1H", "1y", "999999999w", "9" * 30, "9" * 5_000),
    *("٣٣", "٣h", "never", "NaN", "1e9", "1900000000000"),
    *("2100-13-01", "0001-01-01T00:00:00+01:00", "1970-01-01", "10000-01-01"),
]


@pytest.mark.parametrize("text", NO_MOMENTS)
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError, match=r"want|for a duration"):
        moment_of(text, NOW)


def test_milliseconds_are_recognised() -> None:
    with pytest.raises(ValueError, match="want seconds: 1900000000"):
        moment_of("1900000000123", NOW)


@pytest.mark.parametrize(
    "seconds, words",
    [
        (-1, "less than a second"),
        (0.5, "less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (3_600, "1 hour"),
        (3_601, "1 hour"),
        (5_400, "1 hour and 30 minutes"),
        (90_061, "1 day and 1 hour"),
        (31_536_000, "365 days"),
    ],
)
def test_spans_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_moments_in_words() -> None:
    assert in_utc(LATER) == "2100-01-01 00:00:00 UTC"
    assert in_utc(1e18) == "1000000000000000000 seconds after 1970"
