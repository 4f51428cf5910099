"""Runs the commands of docs/auth.md, and its snippet of JavaScript."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from relay.auth.key import Key, token_kid
from tests.e2e.harness import free_udp_port, npm_modules
from tests.e2e.transcripts import WITHIN, environment, run_page, steps

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "auth.md").read_text()
PACKAGE: Final = "@moq/token@0.2.3"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "new"
    made.mkdir()
    return made


@pytest.mark.skipif(
    shutil.which("curl") is None or shutil.which("bash") is None, reason="curl or bash is not installed"
)
@pytest.mark.timeout(240)  # many processes, one after another
async def test_every_command_does_what_the_page_says(folder: Path, tmp_path: Path) -> None:
    assert await run_page(PAGE, folder, environment(tmp_path / "bin"), free_udp_port()) == ""


def test_the_private_keys_of_the_page_are_private_and_the_relay_has_public_ones() -> None:
    commands = "\n".join(step.command for step in steps(PAGE))
    made = re.findall(r"moq-token generate (.*)", commands)
    assert (
        sum("--public" in line for line in made) == len(made) - 1
    )  # without the secret of the first minutes
    for part in ("--expires", "--root", "--auth-key public.jwk", "key_dir", "kill -HUP", "--json", "--url"):
        assert part in commands, part


@pytest.mark.skipif(
    shutil.which("npm") is None or shutil.which("node") is None, reason="node or npm is not installed"
)
@pytest.mark.parametrize("algorithm", ["HS256", "ES256", "EdDSA"])
def test_the_javascript_snippet_signs(algorithm: str, folder: Path) -> None:
    [snippet] = re.findall(r"^```js\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (folder / "node_modules").symlink_to(npm_modules(PACKAGE))
    (folder / "sign.mjs").write_text(snippet)
    key = Key.generate(algorithm)
    key.save(folder / "app.jwk", as_json=True)
    done = subprocess.run(
        ["node", "sign.mjs"], cwd=folder, capture_output=True, text=True, timeout=WITHIN, check=False
    )
    assert done.returncode == 0, done.stderr
    place, _, token = done.stdout.strip().partition("?jwt=")
    assert token_kid(token) == key.kid
    claims = key.verify(token)
    assert claims.at(place.removeprefix("https://relay.example.com")).publish == ("alice",)
    assert claims.expires is not None
