"""Numbers and timestamps of a publisher, as viewers see them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relay.model.numbering import MAX_SEQUENCE, MOST_REPEATED, RESERVE, Numbering, Span
from relay.model.track import SubscribeParams, TrackProperties
from relay.model.translation import MOST_SPANS, Frame, Translation


def granted(*spans: Span) -> Translation:
    made = Translation()
    for span in spans:
        made.add(span, None, free=False)
    return made


def test_without_a_directory_numbers_stay_and_forgotten_ones_are_nobodys() -> None:
    translation = Translation()
    assert (translation.shown(5), translation.published(5), translation.end(9)) == (5, 5, 9)
    translation.add(None, None, free=False)
    assert translation.published(5) is None


def test_the_first_publisher_needs_no_translation() -> None:
    translation = granted(Span(0, 0, 100))
    assert (translation.plain, translation.below) == (True, 100)
    assert translation.missing([99]) is None
    assert translation.missing([98, 100, 101]) == (100, 0)


def test_a_track_that_counts_on_elsewhere_has_two_numbers_for_its_newest_group() -> None:
    translation = Translation()
    assert translation.add(Span(0, 0, 100), None, free=False) == 0
    assert translation.add(Span(0, 0, 200), None, free=False) == 0, "the same span, longer"
    assert translation.add(Span(50, 450, 600), None, free=False) == 500
    assert list(translation.all_of(50)) == [500, 50]
    assert list(translation.all_of(49)) == [49]
    assert (translation.published(500), translation.published(49), translation.published(600)) == (
        50,
        49,
        None,
    )
    assert translation.end(60) == 510
    translation.first_published = 55
    assert translation.first == 505
    assert translation.asked(SubscribeParams(start_group=510)).start_group == 60


def test_a_viewer_with_higher_numbers_makes_the_track_count_anew_once() -> None:
    translation = granted(Span(0, 0, 1000))
    translation.expect(500)
    assert translation.below == 0, "every group is looked at until then"
    assert translation.missing([500 - MOST_REPEATED - 1]) == (500 - MOST_REPEATED - 1, 500)
    assert translation.missing([3]) is None
    translation.expect(500)
    assert translation.missing([500 - MOST_REPEATED]) is None
    assert translation.below == 1000


def test_the_spans_remembered_are_bounded() -> None:
    translation = granted(*(Span(10 * n, n, 10 * n + 10 + n) for n in range(3 * MOST_SPANS)))
    assert translation.published(3) is None
    assert translation.shown(30 * MOST_SPANS - 1) is not None


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 1 << 40)), min_size=1, max_size=12))
def test_what_viewers_see_leads_back_to_the_publisher(groups: list[tuple[int, int]]) -> None:
    numbering = Numbering()
    tracks = {life: Translation() for life, _ in groups}
    owners: dict[int, tuple[int, int]] = {}
    for life, sequence in groups:
        track = tracks[life]
        missing = track.missing([sequence])
        if missing is not None:
            track.add(numbering.ask(str(life), life, *missing), None, free=numbering.free)
        number = track.shown(sequence)
        if number is not None:
            assert track.published(number) == sequence
            assert owners.setdefault(number, (life, sequence)) == (life, sequence), (
                "no number means two groups"
            )


def test_timestamps_are_in_the_unit_that_viewers_know() -> None:
    translation = Translation()
    translation.add(Span(0, 0, RESERVE), 1_000_000, free=False)
    assert translation.plain
    assert translation.describe(TrackProperties(timescale=1_000)).timescale == 1_000_000
    assert not translation.plain
    assert translation.timestamp(7) == 7_000
    assert translation.timestamp(MAX_SEQUENCE) == MAX_SEQUENCE
    assert translation.translated([Frame(7, 2), b"xx"]) == ((7_000, 2), b"xx")
    assert translation.age(SubscribeParams(history_ms=2)) == 2_000
