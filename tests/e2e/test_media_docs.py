"""Runs the commands of docs/media.md, with a film of the test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.e2e.harness import free_udp_port
from tests.e2e.media_support import write_media
from tests.e2e.transcripts import environment, run_page

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "media.md").read_text()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.timeout(240)  # many processes, one after another
async def test_every_command_does_what_the_page_says(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    write_media(folder / "film.mp4", audio="aac", seconds=3)
    # the page has the default URL, too
    port = free_udp_port()
    page = PAGE.replace("moq-list --once\n", "moq-list http://localhost:4443/ --once\n")
    page = page.replace("2> test.log", "http://localhost:4443/ 2> test.log")
    page = page.replace("2> film.log", "http://localhost:4443/ 2> film.log")
    assert await run_page(page, folder, environment(tmp_path / "bin"), port) == ""
    assert (folder / "copy.mkv").stat().st_size > 0
