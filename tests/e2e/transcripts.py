"""Runs the commands of a page of the docs in their order, in one shell in an empty directory.

A block of ```sh must succeed. A block of ```console is a transcript as in docs/http.md: `...` in the output stands
for anything, and `^C` ends the command once the output is there. Only the port differs. Commands that depend on a
starting background process are repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

ROOT: Final = Path(__file__).resolve().parents[2]
COMMANDS: Final = {
    "moq-relay": "relay.cli",
    "moq-clock": "relay.commands.clock",
    "moq-list": "relay.commands.list",
    "moq-publish": "relay.commands.publish",
    "moq-token": "relay.auth.tool",
    "moq-watch": "relay.commands.watch",
}
LEAVE: Final = "^C"
WITHIN: Final = 60.0
"""Seconds that any command may take."""

AGAIN: Final = 45.0
"""Seconds until a repeated command's output must be right."""


class Step(NamedTuple):
    """None is any output of a successful command."""

    command: str
    output: str | None


def steps(page: str) -> list[Step]:
    found: list[Step] = []
    for kind, block in re.findall(r"^```(sh|console)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
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


def logs(folder: Path) -> str:
    """What the commands in the background have said."""
    return "".join(f"\n--- {log.name}:\n{log.read_text()}" for log in sorted(folder.glob("*.log")))


async def run_page(page: str, folder: Path, variables: Mapping[str, str], port: int) -> str:
    """Run the commands of a page, whose relay is on port 4443, with one on `port`. Returns what went wrong first."""
    async with Shell(folder, dict(variables)) as shell:
        for step in steps(page):
            command = step.command.replace("4443", str(port)).replace("curl ", "curl --silent ")
            expected = None if step.output is None else step.output.replace("4443", str(port))
            output = await output_of(Step(command, expected), shell, folder, dict(variables))
            if expected is None:
                good = "failed: " not in output
            else:
                good = fits(expected.removesuffix(LEAVE).rstrip("\n"), output)
            if not good:  # later steps depend on it
                return f"$ {step.command}\n{step.output}\n--- but was:\n{output}{logs(folder)}"
    return ""
