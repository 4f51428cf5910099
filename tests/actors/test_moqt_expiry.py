"""Tokens that expire: a session of moq-transport ends then, wherever its token came from. The tokens are real ones."""

from __future__ import annotations

from typing import Any

import pytest

from relay.auth.authenticator import Authenticator
from relay.auth.claims import Claims
from relay.wire.ietf.codes import Refusal, SessionCode
from relay.wire.ietf.messages import PublishNamespace, Subscribe
from relay.wire.ietf.parameters import Parameters
from relay.wire.ietf.values import Token
from relay.wire.version import Draft, Version
from tests.actors.moqt_peer import Asked, MoqtPeer, namespace
from tests.actors.test_moqt_limits import closes
from tests.actors.watching import actors
from tests.actors.world import World
from tests.auth.support import authenticator, signed
from tests.clock import RUNTIME, advance, settle

pytestmark = pytest.mark.virtual

drafts = pytest.mark.parametrize("draft", Draft, ids=lambda draft: draft.name_on_wire)
places = pytest.mark.parametrize("place", ["url", "path of setup", "setup", "publish", "subscribe"])

LIFE = 100.0  # seconds


def real() -> Authenticator:
    """Anyone may look into `lobby`."""
    return authenticator(now=RUNTIME.wall_time, public=Claims(subscribe=("lobby",)))  # type: ignore[arg-type]


def token(life: float, **claims: Any) -> str:
    return signed({"put": "", "get": "", "exp": RUNTIME.wall_time() + life, **claims})


def ask(peer: MoqtPeer, credential: str, place: str = "subscribe") -> Asked:
    params = Parameters(tokens=(Token(credential.encode()),))
    if place == "publish":
        return peer.ask(PublishNamespace(peer.next_id(), namespace("mine"), params))
    return peer.ask(Subscribe(peer.next_id(), namespace("p"), b"video", params))


async def signed_in(world: World, draft: Draft, place: str, credential: str) -> MoqtPeer:
    """A peer whose token comes in that place."""
    options: dict[str, Any] = {"permissions": None, "setup": False}
    match place:
        case "url":
            peer = MoqtPeer(world, draft, path="/", query=f"jwt={credential}", **options)
            peer.set_up()
        case "path of setup":
            peer = MoqtPeer(world, draft, path=None, **options)
            peer.set_up(path=f"/?jwt={credential}")
        case "setup":
            peer = MoqtPeer(world, draft, path=None, **options)
            peer.set_up(tokens=(Token(credential.encode()),))
        case _:
            peer = MoqtPeer(world, draft, path="/", **options)
            peer.set_up()
            await settle()
            asked = ask(peer, credential, place)
            await settle()
            assert asked.refused is None
    await settle()
    return peer


@drafts
@places
async def test_a_session_ends_with_its_token(
    draft: Draft, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    world = World(authorize=real().verify)
    publisher = await world.publisher(Version.LITE_05, "p")
    viewer = await world.viewer(Version.LITE_05)
    seen = viewer.watch("mine")
    peer = await signed_in(world, draft, place, token(LIFE))
    peer.publish("mine/cam")
    peer.subscribe("p", "other")
    await settle()
    await advance(LIFE - 0.1)
    assert not peer.closed
    assert "cam" in seen.paths
    await advance(0.2)
    assert closes(peer) == [SessionCode.EXPIRED_TOKEN]
    assert peer.closed[0].reason == "token expired"
    assert not seen.paths
    assert [name for name in actors() if name.startswith("session")] == ["session 1", "session 2"]
    assert not publisher.closed
    assert not viewer.closed
    assert len(world.environment.expiries) == 0
    (line,) = [line for line in caplog.messages if "token expired" in line]
    assert line.startswith(
        f"[session {world._numbers}] closed by=relay code={int(SessionCode.EXPIRED_TOKEN)}"
    )
    await world.close()


@drafts
@pytest.mark.parametrize("place", ["url", "setup"])
@pytest.mark.parametrize(("first", "second"), [(LIFE, 3 * LIFE), (3 * LIFE, LIFE)])
async def test_the_first_of_two_tokens_ends_the_session(
    draft: Draft, place: str, first: float, second: float
) -> None:
    world = World(authorize=real().verify)
    peer = await signed_in(world, draft, place, token(first))
    ask(peer, token(second), "publish")
    await settle()
    await advance(LIFE - 0.1)
    assert not peer.closed
    await advance(0.2)
    assert closes(peer) == [SessionCode.EXPIRED_TOKEN]
    await world.close()


@drafts
async def test_an_expired_token_in_a_request_costs_the_request_alone(draft: Draft) -> None:
    world = World(authorize=real().verify)
    await world.publisher(Version.LITE_05, "p")
    peer = await signed_in(world, draft, "url", token(LIFE))
    asked = ask(peer, token(-1))
    await settle()
    assert asked.refused == (0x12 if draft is Draft.DRAFT_14 else Refusal.EXPIRED_TOKEN)
    await advance(LIFE - 0.1)
    assert not peer.closed
    await advance(0.2)
    assert closes(peer) == [SessionCode.EXPIRED_TOKEN]
    await world.close()


@drafts
@pytest.mark.parametrize("place", ["url", "path of setup", "setup"])
async def test_an_expired_token_begins_no_session(draft: Draft, place: str) -> None:
    world = World(authorize=real().verify)
    peer = await signed_in(world, draft, place, token(-1))
    assert closes(peer) == [SessionCode.EXPIRED_TOKEN]
    assert peer.closed[0].reason == "unauthorized: token expired"
    assert len(world.environment.expiries) == 0
    await world.close()
