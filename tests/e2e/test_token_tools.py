"""`moq-token` and the npm package @moq/token read each other's keys and tokens."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from relay.auth import tool
from relay.auth.claims import Claims, Scope
from relay.auth.key import ALGORITHMS, Key, token_kid
from relay.auth.permissions import UnauthorizedError
from tests.e2e.harness import npm_modules

PACKAGE = "@moq/token@0.2.3"
RUN_S = 60

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        shutil.which("npm") is None, reason="npm is not installed: no @moq/token to test with"
    ),
]

LATER = 4_102_444_800

# For each algorithm: its key, public half and token; its opinion of our keys and tokens; tokens that it signs with
# our keys. One process, since its start takes longest.
SCRIPT = """
import { readFileSync } from "node:fs";
import { generate, load, loadPublic, sign, toPublicKey, verify } from "@moq/token";

const outcome = async (work) => {
    try { return { ok: await work() }; } catch (error) { return { error: String(error.message ?? error) }; }
};
const read = (text) => JSON.parse(text).kty === "oct" ? load(text) : loadPublic(text);
const given = JSON.parse(readFileSync(0, "utf-8"));
const answers = {};
for (const [algorithm, ours] of Object.entries(given.algorithms)) {
    const key = await generate(algorithm, `npm-${algorithm}`);
    answers[algorithm] = {
        key: JSON.stringify(key),
        public: key.kty === "oct" ? null : JSON.stringify(toPublicKey(key)),
        token: await sign(key, given.claims),
        expired: await sign(key, given.expired),
        signed: await outcome(() => sign(load(ours.key), given.claims)),
        signedWithJson: await outcome(() => sign(load(ours.json), given.claims)),
        publicSigns: ours.public && await outcome(() => sign(loadPublic(ours.public), given.claims)),
        verified: await outcome(() => verify(read(ours.verifier), ours.token, given.claims.root)),
        expiredOurs: await outcome(() => verify(read(ours.verifier), ours.expired, given.claims.root)),
        tampered: await outcome(() => verify(read(ours.verifier), ours.tampered, given.claims.root)),
    };
}
console.log(JSON.stringify(answers));
"""


def node(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["node", *words],
        cwd=npm_modules(PACKAGE).parent,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )


@functools.cache
def our_keys() -> dict[str, Key]:
    return {algorithm: Key.generate(algorithm, f"ours-{algorithm}") for algorithm in ALGORITHMS}


CLAIMS = Claims("rooms/123", ("alice", "bob"), ("",), expires=LATER)
EXPIRED = Claims("rooms/123", ("alice",), expires=int(time.time()) - 5)


def ours(key: Key) -> dict[str, Any]:
    public = None if key.algorithm.startswith("HS") else key.public()
    token = key.sign(CLAIMS)
    head, _, signature = token.rpartition(".")
    return {
        "key": key.text(),
        "json": key.text(as_json=True),
        "public": public and public.text(),
        "verifier": (public or key).text(as_json=True),
        "token": token,
        "expired": key.sign(EXPIRED),
        "tampered": f"{head}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}",
    }


@functools.cache
def answers() -> dict[str, Any]:
    request = {
        "claims": CLAIMS.payload(),
        "expired": EXPIRED.payload(),
        "algorithms": {algorithm: ours(key) for algorithm, key in our_keys().items()},
    }
    done = node("--input-type=module", "--eval", SCRIPT, stdin=json.dumps(request))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def refused(key: Key, token: str) -> None:
    with pytest.raises(UnauthorizedError):
        key.verify(token)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_keys_and_tokens_go_both_ways(algorithm: str) -> None:
    theirs, key = answers()[algorithm], our_keys()[algorithm]

    # they read our keys, in both forms, and our tokens
    assert theirs["verified"] == {"ok": CLAIMS.payload()}
    for token in (theirs["signed"]["ok"], theirs["signedWithJson"]["ok"]):
        verifier = key if algorithm.startswith("HS") else key.public()
        claims = verifier.verify(token)
        assert (claims.root, claims.publish, claims.subscribe) == ("rooms/123", ("alice", "bob"), ("",))
        assert (claims.expires, token_kid(token)) == (LATER, key.kid)
    for name in ("expiredOurs", "tampered"):
        assert "error" in theirs[name]

    # we read their keys and tokens
    whole = Key.parse(theirs["key"], "npm")
    assert (whole.algorithm, whole.kid, whole.private) == (algorithm, f"npm-{algorithm}", True)
    readers = [whole]
    if theirs["public"] is not None:
        public = Key.parse(theirs["public"], "npm, public")
        assert public == whole.public()
        assert "error" in theirs["publicSigns"]
        readers.append(public)
    for reader in readers:
        assert reader.verify(theirs["token"]).publish == ("alice", "bob")
        with pytest.raises(UnauthorizedError, match="expired"):
            reader.verify(theirs["expired"]).check_time(time.time())
        refused(reader, theirs["signed"]["ok"])
    assert whole.verify(whole.sign(CLAIMS)) == CLAIMS


def test_the_commands_take_each_others_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same arguments."""
    cli = str(npm_modules(PACKAGE).parent / "node_modules/@moq/token/cli.js")
    private, public, theirs = (str(tmp_path / name) for name in ("private.jwk", "public.jwk", "npm.jwk"))
    assert tool.main(["generate", "--key", private, "--public", public, "--algorithm", "ES256"]) == 0
    capsys.readouterr()
    words = ("--root", "demo", "--publish", "a", "--subscribe", "", "--expires", str(LATER))
    assert tool.main(["sign", "--key", private, *words]) == 0
    ours = capsys.readouterr().out
    done = node(cli, "verify", "--key", public, "--root", "demo", stdin=ours)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["put"] == ["a"]

    done = node(cli, "generate", "--key", theirs, "--algorithm", "EdDSA", "--base64")
    assert done.returncode == 0, done.stderr
    done = node(cli, "sign", "--key", theirs, *words)
    (tmp_path / "npm.jwt").write_text(done.stdout)
    verify = ["verify", "--key", theirs, "--in", str(tmp_path / "npm.jwt"), "--path", "/demo"]
    assert tool.main([*verify, "--root", "demo"]) == 0
    assert "  publish    /demo/a and all below\n" in capsys.readouterr().out
    assert tool.main([*verify, "--root", "other"]) == 1


def test_the_scope_of_a_key_is_ours_to_keep(tmp_path: Path) -> None:
    """Their release knows no scope: it signs anything, and we refuse what exceeds it."""
    key = Key.generate("HS256", scope=Scope("demo", ("",)))
    script = """
        import { readFileSync } from "node:fs";
        import { load, sign } from "@moq/token";
        const key = load(readFileSync(0, "utf-8"));
        const roots = ["demo", "demo/room", "other"];
        console.log(JSON.stringify(await Promise.all(roots.map((root) => sign(key, { root, put: "" })))));
    """
    done = node("--input-type=module", "--eval", script, stdin=key.text())
    assert done.returncode == 0, done.stderr
    demo, room, other = json.loads(done.stdout)
    assert key.verify(demo).root == "demo"
    assert key.verify(room).root == "demo/room"
    with pytest.raises(UnauthorizedError, match="scope"):
        key.verify(other)
