"""HTTP/3 bytes captured from a real client, replayed to our server."""

from __future__ import annotations

import json
from pathlib import Path

import pylsqpack
import pytest

from relay.wire.webtransport import parse_protocol_list
from tests.transport.test_http3 import Script, ScriptedClient

pytestmark = pytest.mark.usefixtures("pairing")

DOCUMENT = json.loads((Path(__file__).parents[1] / "wire/vectors.json").read_text())
VECTORS = {vector["id"]: vector for vector in DOCUMENT["vectors"]}
SETTINGS = bytes.fromhex(VECTORS["h3-settings-051"]["hex"])
CONNECT = bytes.fromhex(VECTORS["h3-connect-051"]["hex"])
CONTROL_STREAM, REQUEST_STREAM = 2, 0


class Captured(Script):
    """Writes nothing of its own."""

    def established(self) -> None:
        pass


class Replay(ScriptedClient):
    """A wire whose client replays captured bytes."""

    kind = Captured


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_settings_and_connect_of_a_real_client(step: int) -> None:
    """Whole and in fragments: the request is parsed, and answered with the first common protocol."""
    replay = Replay()
    for stream_id, data in ((CONTROL_STREAM, SETTINGS), (REQUEST_STREAM, CONNECT)):
        for at in range(0, len(data), step):
            replay.send(stream_id, data[at : at + step])
    (request,) = replay.wire.requests
    assert (request.path, request.query) == ("/anon/room", "jwt=abc.def.ghi")
    assert request.offered[:5] == ("moq-lite-06", "moq-lite-05", "moq-lite-04", "moq-lite-03", "moql")
    assert replay.wire.server is not None
    assert replay.wire.server.alpn == "moq-lite-06"
    assert replay.closed_with is None


def test_the_answer_that_real_clients_accept() -> None:
    vector = VECTORS["h3-response"]
    _, headers = pylsqpack.Decoder(0, 0).feed_header(0, bytes.fromhex(vector["hex"]))
    found = {name.decode(): value.decode() for name, value in headers}
    assert found == vector["fields"]
    assert parse_protocol_list(found["wt-protocol"]) == ["moq-lite-05"]
    replay = ScriptedClient()
    replay.request(
        [
            (b":method", b"CONNECT"),
            (b":protocol", b"webtransport"),
            (b":scheme", b"https"),
            (b":authority", b"relay.test"),
            (b":path", b"/"),
            (b"wt-available-protocols", b'"moq-lite-05"'),
        ]
    )
    ours = {name.decode(): value.decode() for name, value in replay.script.headers[0].items()}
    assert ours == vector["fields"]
