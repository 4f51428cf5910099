"""Namespaces that are no path of moq-lite: carried between ends of moq-transport, and hidden from all others."""

from __future__ import annotations

import pytest

from relay.auth.permissions import Permissions
from relay.wire.ietf.messages import (
    Fetch,
    Namespace,
    PublishNamespace,
    Subscribe,
    SubscribeNamespace,
    SubscribeOk,
    TrackStatus,
)
from relay.wire.ietf.values import AbsoluteRange, Location
from relay.wire.version import Draft, Version
from tests.actors.moqt_peer import MoqtPeer
from tests.actors.world import World
from tests.clock import settle

FIELDS = [(b"a/b",), (b"a", b"\xff\xfe"), (b"a", b"/", b"b")]

for_each_draft = pytest.mark.parametrize("draft", Draft, ids=lambda draft: draft.name_on_wire)
of_all_kinds = pytest.mark.parametrize("fields", FIELDS, ids=["slash", "bytes", "only slash"])


@for_each_draft
@of_all_kinds
@pytest.mark.virtual
async def test_they_are_carried(draft: Draft, fields: tuple[bytes, ...]) -> None:
    world = World()
    publisher, viewer = MoqtPeer(world, draft), MoqtPeer(world, draft)
    await settle()
    asked = publisher.ask(PublishNamespace(publisher.next_id(), fields))
    found = viewer.ask(SubscribeNamespace(viewer.next_id(), fields[:-1]))
    await settle()
    assert asked.accepted
    if viewer.profile.namespace_streams:
        assert [m.suffix for m in found.messages if isinstance(m, Namespace)] == [fields[-1:]]
    else:
        (request,) = (m for _, m in viewer.requests if isinstance(m, PublishNamespace))
        assert request.namespace == fields

    watching = viewer.ask(Subscribe(viewer.next_id(), fields, b"video"))
    await settle()
    ((_, wanted),) = publisher.subscriptions()
    assert (wanted.namespace, wanted.track) == (fields, b"video")
    publisher.accept(5)
    publisher.group(5, 0, b"hello")
    await settle()
    assert isinstance(watching.messages[0], SubscribeOk)
    assert viewer.groups[-1].data.endswith(b"hello")
    await world.close()


@pytest.mark.virtual
async def test_an_empty_field_is_carried_on_14() -> None:
    """Later drafts close the session, and are told of none."""
    world = World()
    publisher, viewer, newer = (
        MoqtPeer(world, draft) for draft in (Draft.DRAFT_14, Draft.DRAFT_14, Draft.DRAFT_18)
    )
    await settle()
    asked = publisher.ask(PublishNamespace(publisher.next_id(), (b"a", b"", b"b")))
    viewer.watch("a")
    found = newer.watch("a")
    await settle()
    assert asked.accepted
    assert [m.namespace for _, m in viewer.requests if isinstance(m, PublishNamespace)] == [(b"a", b"", b"b")]
    assert not [m for m in found.messages if isinstance(m, Namespace)]
    assert not newer.closed
    await world.close()


@pytest.mark.parametrize("version", Version, ids=lambda version: version.name)
@of_all_kinds
@pytest.mark.virtual
async def test_moq_lite_sees_none(version: Version, fields: tuple[bytes, ...]) -> None:
    world = World()
    publisher, viewer = MoqtPeer(world, Draft.DRAFT_18), await world.viewer(version)
    publisher.ask(PublishNamespace(publisher.next_id(), fields))
    await settle()
    watching = viewer.watch()
    publisher.publish("plain")
    await settle()
    later = publisher.ask(PublishNamespace(publisher.next_id(), (b"later", *fields)))
    await settle()
    assert later.accepted
    assert watching.paths == ["plain"]
    later.stream.reset(1)
    await settle()
    assert not viewer.closed
    await world.close()


@of_all_kinds
@pytest.mark.virtual
async def test_a_publisher_of_moq_lite_is_not_asked_for_them(fields: tuple[bytes, ...]) -> None:
    """Its announcement of a prefix covers them."""
    world = World()
    publisher, viewer = await world.publisher(Version.LITE_06, "a", "x"), MoqtPeer(world, Draft.DRAFT_18)
    await settle()
    names, where = ((b"x", *fields), b"video"), AbsoluteRange(Location(1, 0), 1, None)
    for request in (
        Subscribe(viewer.next_id(), *names),
        TrackStatus(viewer.next_id(), *names),
        Fetch(viewer.next_id(), *names, where),
    ):
        asked = viewer.ask(request)
        await settle()
        assert asked.refused, request
    assert not [*publisher.track_requests(), *publisher.subscriptions(), *publisher.fetches()]
    assert not viewer.closed
    assert not publisher.closed
    await world.close()


@for_each_draft
@pytest.mark.virtual
async def test_a_token_for_a_path_does_not_reach_a_field_with_slashes(draft: Draft) -> None:
    rights = Permissions(root="", publish=("a/b",), subscribe=("a/b",))
    world = World()
    publisher, other = MoqtPeer(world, draft), MoqtPeer(world, draft, permissions=rights)
    await settle()
    publisher.ask(PublishNamespace(publisher.next_id(), (b"a/b",)))
    publisher.ask(PublishNamespace(publisher.next_id(), (b"a/b", b"c")))
    await settle()
    for fields in ((b"a/b",), (b"a/b", b"c"), (b"a/b/c",)):
        asked = other.ask(Subscribe(other.next_id(), fields, b"video"))
        offered = other.ask(PublishNamespace(other.next_id(), fields))
        await settle()
        assert asked.refused
        assert offered.refused
    found = other.ask(SubscribeNamespace(other.next_id(), (b"a",)))
    allowed = other.ask(PublishNamespace(other.next_id(), (b"a", b"b", b"c/d")))
    await settle()
    assert not [m for m in found.messages if isinstance(m, Namespace)]
    assert allowed.accepted
    await world.close()
