"""The path algebra against the obvious model: a path is a list of segments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.path import Ordered, ancestors, covers, join, minimal, narrow, normalize, strip

Segments = tuple[str, ...]

segment = st.sampled_from(["a", "b", "ab", "é", "éa", "日本", "a-b", "a b", ".", "..", "%2F"]) | st.text(
    st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1, max_size=4
)
segments = st.lists(segment, max_size=4).map(tuple)
prefixes = st.lists(segments, max_size=5)


def text(path: Segments) -> str:
    return "/".join(path)


def under(prefix: Segments, path: Segments) -> bool:
    return path[: len(prefix)] == prefix


@given(segments, segments)
def test_join(one: Segments, two: Segments) -> None:
    assert join(text(one), text(two)) == text(one + two)


@given(segments, segments)
def test_covers(one: Segments, two: Segments) -> None:
    assert covers(text(one), text(two)) == under(one, two)
    assert covers(text(one), text(one + two))


@given(segments, segments)
def test_strip(one: Segments, two: Segments) -> None:
    expected = text(two[len(one) :]) if under(one, two) else None
    assert strip(text(two), text(one)) == expected
    assert strip(text(one + two), text(one)) == text(two)


@given(segments)
def test_ancestors(path: Segments) -> None:
    assert list(ancestors(text(path))) == [text(path[:n]) for n in range(len(path), -1, -1)]


@given(st.text(st.sampled_from("/ab日"), max_size=12))
def test_normalize(raw: str) -> None:
    assert normalize(raw) == text(tuple(part for part in raw.split("/") if part))
    assert normalize(normalize(raw)) == normalize(raw)


@given(prefixes, segments)
def test_minimal_covers_the_same_with_no_redundancy(several: list[Segments], path: Segments) -> None:
    kept = minimal(map(text, several))
    assert any(covers(prefix, text(path)) for prefix in kept) == any(under(p, path) for p in several)
    assert not any(covers(one, two) for one in kept for two in kept if one != two)
    assert list(kept) == sorted(set(kept))


@given(prefixes, segments, segments)
def test_narrow_is_the_intersection(granted: list[Segments], requested: Segments, path: Segments) -> None:
    kept = narrow(map(text, granted), text(requested))
    both = under(requested, path) and any(under(grant, path) for grant in granted)
    assert any(covers(prefix, text(path)) for prefix in kept) == both


@pytest.mark.parametrize(
    ("prefix", "path", "expected"),
    [
        ("foo", "foobar", False),
        ("foo", "foo/bar", True),
        ("é", "éa", False),
        ("é", "é/a", True),
        ("", "x", True),
    ],
)
def test_boundaries_are_whole_segments(prefix: str, path: str, expected: bool) -> None:
    assert covers(prefix, path) is expected


@given(st.sets(st.text(st.sampled_from("ab/.0日"), max_size=6).map(normalize)), st.data())
def test_ordered_paths_are_those_that_a_prefix_covers(paths: set[str], data: st.DataObject) -> None:
    ordered = Ordered()
    for path in paths:
        ordered.add(path)
    gone = data.draw(st.sets(st.sampled_from(sorted(paths)))) if paths else set()
    for path in gone:
        ordered.remove(path)
    for prefix in {*paths, "", "a", "a/b"}:
        expected = sorted(path for path in paths - gone if covers(prefix, path) and path != prefix)
        assert ordered.below(prefix) == expected
