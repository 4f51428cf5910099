"""Runs the commands of docs/auth.md in their order, in one shell in an empty directory.

A block of ```sh must succeed. A block of ```console is a transcript as in docs/http.md: `...` in the output stands
for anything, and `^C` ends the command once the output is there. Only the port differs. Commands that depend on a
starting background process are repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import pytest

from relay.auth.key import Key, token_kid
from tests.e2e.harness import free_udp_port, npm_modules

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "auth.md").read_text()
ROOT: Final = Path(__file__).resolve().parents[2]
COMMANDS: Final = {
    "moq-relay": "relay.cli",
    "moq-clock": "relay.commands.clock",
    "moq-token": "relay.auth.tool",
}
LEAVE: Final = "^C"
WITHIN: Final = 30.0
"""Seconds that any command may take."""

AGAIN: Final = 15.0
"""Seconds until a repeated command's output must be right."""

PACKAGE: Final = "@moq/token@0.2.3"


class Step(NamedTuple):
    """None is any output of a successful command."""

    command: str
    output: str | None


def steps() -> list[Step]:
    found: list[Step] = []
    for kind, block in re.findall(r"^```(sh|console)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE):
        if kind == "sh":
            found.append(Step(block.rstrip("\n"), None))
            continue
        assert block.startswith("$ ")
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append(Step(command, output.rstrip("\n")))
    return found


def fits(expected: str, output: str) -> bool:
    pattern = re.escape(expected).replace(re.escape("..."), ".*?")
    return re.fullmatch(pattern + r"\n?", output, re.DOTALL) is not None


class Shell:
    """A bash that stays, with its variables and background jobs."""

    END = "--end-of-command--"

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *("bash", "--noprofile", "--norc"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self._folder,
            env=self._environment,
            start_new_session=True,  # the test's end ends all its children
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.communicate()

    async def run(self, command: str) -> str:
        assert self._process is not None
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{command}\necho {self.END}\n".encode())
        async with asyncio.timeout(WITHIN):
            output = await stdout.readuntil(f"{self.END}\n".encode())
        return output.decode().removesuffix(f"{self.END}\n")


async def until_it_fits(command: str, expected: str, folder: Path, environment: dict[str, str]) -> str:
    """The output of a command that ^C ends; all of it, if it never fits."""
    process = await asyncio.create_subprocess_shell(
        command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    output = ""
    try:
        async with asyncio.timeout(WITHIN):
            while line := await process.stdout.readline():
                output += line.decode()
                if fits(expected, output):
                    break
    except TimeoutError:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()
    return output


async def output_of(step: Step, shell: Shell, folder: Path, environment: dict[str, str]) -> str:
    if step.output is None:
        return await shell.run(f"trap 'echo \"failed: $BASH_COMMAND\"' ERR\n{step.command}\ntrap - ERR")
    if step.output.endswith(LEAVE):
        expected = step.output.removesuffix(LEAVE).rstrip("\n")
        return await until_it_fits(step.command, expected, folder, environment)
    deadline = asyncio.get_running_loop().time() + AGAIN
    output = await shell.run(step.command)
    while not fits(step.output, output) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.2)
        output = await shell.run(step.command)
    return output


def environment(folder: Path) -> dict[str, str]:
    """With the package's commands in the path."""
    folder.mkdir()
    for name, module in COMMANDS.items():
        script = folder / name
        script.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import main\nsys.exit(main())\n")
        script.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MOQ_", "RUST_LOG"))}
    return {**kept, "PATH": f"{folder}:{kept['PATH']}", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "new"
    made.mkdir()
    return made


@pytest.mark.skipif(
    shutil.which("curl") is None or shutil.which("bash") is None, reason="curl or bash is not installed"
)
async def test_every_command_does_what_the_page_says(folder: Path, tmp_path: Path) -> None:
    port, wrong = str(free_udp_port()), []
    variables = environment(tmp_path / "bin")
    async with Shell(folder, variables) as shell:
        for step in steps():
            command = step.command.replace("4443", port).replace("curl ", "curl --silent ")
            expected = None if step.output is None else step.output.replace("4443", port)
            output = await output_of(Step(command, expected), shell, folder, variables)
            if expected is None:
                good = "failed: " not in output
            else:
                good = fits(expected.removesuffix(LEAVE).rstrip("\n"), output)
            if not good:
                log = (folder / "relay.log").read_text() if (folder / "relay.log").exists() else ""
                wrong.append(
                    f"$ {step.command}\n{step.output}\n--- but was:\n{output}\n--- relay.log:\n{log}"
                )
                break  # later steps depend on it
    assert wrong == []


def test_the_private_keys_of_the_page_are_private_and_the_relay_has_public_ones() -> None:
    commands = "\n".join(step.command for step in steps())
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
