"""Runs root.toml and leaf.toml unchanged, after the command that both name; only flags change the ports."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from tests.e2e.harness import free_udp_port
from tests.e2e.test_command import clock, relay

HERE: Final = Path(__file__).resolve().parents[2]
ROOT: Final = HERE / "root.toml"
LEAF: Final = HERE / "leaf.toml"
TIME: Final = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$"
COMMANDS: Final = {
    "moq-relay": "relay.cli",
    "moq-clock": "relay.commands.clock",
    "moq-token": "relay.auth.tool",
}
WITHIN: Final = 60.0


def commands(file: Path) -> list[str]:
    """The commands in the comment at the top of a file."""
    head = file.read_text().partition("\n\n")[0]
    return re.findall(r"^#     (.*)$", head, re.MULTILINE)


def flags(port: int, root: int | None = None) -> tuple[str, ...]:
    """Other ports."""
    name = f"localhost:{port}"
    found = ("--listen", name, "--cluster-node", name, "--internal-listen", "localhost:0")
    return found if root is None else (*found, "--cluster-root", f"localhost:{root}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory after the files' first command."""
    [line] = {commands(file)[0] for file in (ROOT, LEAF)}
    tool = f"PYTHONPATH='{HERE}' '{sys.executable}' -m relay.auth.tool"
    made = subprocess.run(
        ["/bin/sh", "-c", line.replace("moq-token", tool)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cluster.jwt", "root.jwk"]
    return tmp_path


async def peers(internal: str) -> dict[str, str]:
    """Name and state, from the debug API."""
    async with aiohttp.ClientSession() as http, http.get(f"{internal}state") as response:
        rows: list[dict[str, Any]] = (await response.json())["peers"]
    return {row["node"]: row["state"] for row in rows}


async def test_a_clock_of_one_leaf_is_watched_on_the_other_and_on_the_root(folder: Path) -> None:
    first, second, third = sorted(free_udp_port() for _ in range(3))
    token = (folder / "cluster.jwt").read_text().strip()
    started = (
        # the leaf starts first: it waits for its root
        relay(str(LEAF), *flags(second, first), cwd=folder),
        relay(str(ROOT), *flags(first), cwd=folder),
        relay(str(LEAF), *flags(third, first), cwd=folder),
    )
    async with started[0] as leaf:
        await leaf.line(rf"WARN  \[peer localhost:{first}\] failed")
        async with started[1] as root, started[2] as other:
            await other.line(rf"\[peer localhost:{first}\] .*connected", WITHIN)
            before = (await leaf.line(rf"\[peer localhost:{first}\] \[session (\d+)\] connected", WITHIN))[1]
            # the name that comes first dials
            await leaf.line(rf"\[peer localhost:{third}\] .*connected", WITHIN)
            internal = (await leaf.line(r"dashboard (http://\S+/)"))[1]
            assert await peers(internal) == {
                f"localhost:{first}": "connected",
                f"localhost:{third}": "connected",
            }
            internal = (await other.line(r"dashboard (http://\S+/)"))[1]
            assert (await peers(internal))[f"localhost:{first}"] == "connected"
            assert set(await peers(internal)) == {f"localhost:{first}", f"localhost:{second}"}
            async with (
                clock("publish", f"http://localhost:{second}/demo"),
                clock("watch", f"http://localhost:{third}/demo") as watch,
                clock("watch", f"http://localhost:{first}/demo") as above,
            ):
                await watch.line(TIME)
                await above.line(TIME)
            # only the public path is accessible, even for viewing
            async with clock("watch", f"http://localhost:{third}/private") as stranger:
                await stranger.line("(?i)unauthorized|401|token")
            root.process.send_signal(signal.SIGTERM)
            assert await root.exit() == 0
            printed = [*root.out, *root.err, *other.out, *other.err]
        # without the root, and with it again, as before
        async with relay(str(ROOT), *flags(first), cwd=folder) as root:
            await leaf.line(rf"\[peer localhost:{first}\] \[session (?!{before}\b)\d+\] connected", WITHIN)
            printed += [*root.out, *root.err, *leaf.out, *leaf.err]
    assert token not in "\n".join(printed)
    assert token.rpartition(".")[2] not in "\n".join(printed)
    assert not [line for line in printed if "Traceback" in line or "ERROR" in line]


async def test_a_wrong_token_is_logged_once_and_replaced_without_a_restart(folder: Path) -> None:
    first, second = free_udp_port(), free_udp_port()
    file = folder / "cluster.jwt"
    right = file.read_text().strip()
    head, claims, signature = right.split(".")
    wrong = f"{head}.{claims}.{signature[::-1]}"
    file.write_text(wrong)
    async with contextlib.AsyncExitStack() as stack:
        root = await stack.enter_async_context(relay(str(ROOT), *flags(first), cwd=folder))
        await root.line("certificate sha256", WITHIN)
        words = (str(LEAF), *flags(second, first), "--log-level", "debug")
        leaf = await stack.enter_async_context(relay(*words, cwd=folder))
        failed = f"[peer localhost:{first}] failed"
        told = await leaf.line(f"WARN .*{re.escape(failed)} reason=(.*) next_attempt", WITHIN)
        assert "401" in told[1] or "unauthorized" in told[1]
        await leaf.line(f"DEBUG .*{re.escape(failed)}", WITHIN)
        assert sum(failed in line and "WARN" in line for line in leaf.err) == 1
        assert not any(f"[peer localhost:{first}]" in line and "connected" in line for line in leaf.err)
        file.write_text(right)
        await leaf.line(rf"\[peer localhost:{first}\] .*connected", WITHIN)
        printed = "\n".join([*root.out, *root.err, *leaf.out, *leaf.err])
    for token in (right, wrong):
        assert token.rpartition(".")[2] not in printed


async def test_check_tells_what_they_do(folder: Path) -> None:
    for file, part in (
        (ROOT, "root of a cluster as localhost:4443"),
        (LEAF, "joins localhost:4443 as localhost:4444"),
    ):
        async with relay("--check", str(file), cwd=folder) as done:
            assert await done.exit() == 0
            text = "\n".join(done.out)
        assert part in text
        assert "tokens of root.jwk; anyone on demo" in text
        assert tomllib.loads(file.read_text())["auth"]["public"] == "demo"


def test_the_other_commands_in_the_files_are_known() -> None:
    """Ports and names in the comments are those of the files."""
    listen = {tomllib.loads(file.read_text())["server"]["listen"] for file in (ROOT, LEAF)}
    for file in (ROOT, LEAF):
        _, *lines = commands(file)
        assert {line.split()[0] for line in lines} <= set(COMMANDS)
        for line in lines:
            words = line.split()
            if words[0] == "moq-relay":
                assert (HERE / words[1]).is_file()
                listen |= {
                    word for word, before in zip(words[1:], words, strict=False) if before == "--listen"
                }
        for line in lines:
            if line.startswith("moq-clock"):
                [address] = re.findall(r"http://(\S+)/demo$", line)
                assert address in listen
