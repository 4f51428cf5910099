"""The part of a track that one subscription or fetch gets.

Unbounded subscriptions share the result of `shared_fragments`; `Feed` narrows it for the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from relay.model.track import SubscribeParams
from relay.moq.encoding import EncodedGroup, Encoder, Encoding, ObjectEncoder, encoder_of
from relay.moq.session import GroupFragment
from relay.wire.errors import StreamCode


def shared_fragments(
    touched: Iterable[tuple[EncodedGroup, bool]], encoding: Encoding
) -> tuple[GroupFragment, ...]:
    """New data of groups. A group's flag: it has just begun."""
    fragments = [
        GroupFragment(
            group.sequence, new, group.first_frame, group.update(encoding), group.finished, group.code
        )
        for group, new in touched
    ]
    return tuple(fragments)


class Feed:
    """The groups of a track as one subscription wants them."""

    __slots__ = ("_encoders", "_sent", "encoding", "params", "past", "start")

    def __init__(self, encoding: Encoding, params: SubscribeParams, start: int) -> None:
        self.encoding = encoding
        self.params = params
        self.start = start  # sequence
        asks = params.start_group is not None or params.history_ms
        self.past: int | None = start if asks else None
        """First sequence of requested older groups."""
        self._encoders: dict[int, Encoder | ObjectEncoder] = {}  # of partly wanted groups, by sequence
        self._sent: set[int] = set()  # groups of an earlier range: do not send again

    def wants(self, group: EncodedGroup) -> bool:
        end = self.params.end_group
        start = self.past if group.past else self.start
        return start is not None and group.sequence >= start and (end is None or group.sequence <= end)

    def _frames_of(self, group: EncodedGroup) -> tuple[int, int | None]:
        """Frame bounds apply to the first and the last group only (06)."""
        params = self.params
        first = params.start_frame if group.sequence == (params.start_group or 0) else 0
        last = params.end_frame if group.sequence == params.end_group else None
        return first, last

    def _lacks(self, group: EncodedGroup, first: int) -> bool:
        """Frame `first` is missing: the subscription then starts with the next whole group."""
        if group.first_frame > first or (group.finished and group.following() < first):
            self.start = max(self.start, group.sequence + 1)
            return True
        return False

    def begin(self, groups: Iterable[EncodedGroup]) -> tuple[GroupFragment, ...]:
        """Existing groups for a new subscription."""
        wanted = [group for group in groups if group.code is None and self.wants(group)]
        return tuple(fragment for group in wanted for fragment in self.join(group))

    def join(self, group: EncodedGroup) -> tuple[GroupFragment, ...]:
        """The wanted part of a group so far."""
        first, last = self._frames_of(group)
        if first == 0 and last is None:
            chunks = group.encoded(self.encoding)
            return (GroupFragment(group.sequence, True, group.first_frame, chunks, group.finished, None),)
        if self._lacks(group, first):
            return ()
        encoder = encoder_of(self.encoding, first, last, group.first_frame)
        fresh = tuple(encoder.take(group.parts))
        if group.open and not encoder.ended:
            self._encoders[group.sequence] = encoder
        return (GroupFragment(group.sequence, True, first, fresh, group.finished or encoder.ended, None),)

    def is_narrow(self, lowest: int) -> bool:
        """Groups from `lowest` on, without older ones, may be partly outside the bounds."""
        params = self.params
        return bool(
            params.end_group is not None or params.start_frame or self.start > lowest or self._encoders
        )

    def narrow(
        self, touched: Sequence[tuple[EncodedGroup, bool]], fragments: tuple[GroupFragment, ...]
    ) -> tuple[GroupFragment, ...]:
        """The wanted part of what `shared_fragments` made of `touched`."""
        result: list[GroupFragment] = []
        for (group, new), fragment in zip(touched, fragments, strict=True):
            if not self.wants(group):
                continue
            first, last = self._frames_of(group)
            encoder = self._encoders.get(group.sequence)
            if encoder is None:
                if first == 0 and last is None:
                    result.append(fragment)
                    continue
                if not new or self._lacks(group, first):
                    continue  # sent, or missing
                encoder = self._encoders[group.sequence] = encoder_of(
                    self.encoding, first, last, group.first_frame
                )
            fresh = tuple(encoder.take(group.parts))
            fin = group.finished or encoder.ended
            result.append(GroupFragment(group.sequence, new, first, fresh, fin, group.code))
            if fin or group.code is not None:
                del self._encoders[group.sequence]
        return tuple(result)

    def replace(
        self, params: SubscribeParams, start: int, groups: Iterable[EncodedGroup]
    ) -> tuple[GroupFragment, ...]:
        """SUBSCRIBE_UPDATE: data to send and groups to abort by the new bounds, of all `groups` of the track.

        `start`: where a new subscription with these parameters would begin.
        """
        groups = list(groups)
        before = {group.sequence for group in groups if self.wants(group)}
        asked = params.start_group
        self.start = asked if asked is not None and asked > self.start else min(self.start, start)
        floor = params.start_is_floor and self.past is not None
        if asked is not None and not (floor and asked <= (self.past or 0)):
            self.past = asked
        self.params = params._replace(start_frame=0)
        sent = self._sent | before
        fragments: list[GroupFragment] = []
        for group in groups:
            sequence, wanted = group.sequence, self.wants(group)
            if sequence in before and not wanted:
                # the group may be complete here and still unsent
                self._encoders.pop(sequence, None)
                fragments.append(GroupFragment(sequence, False, 0, (), False, StreamCode.CANCELLED))
                if group.open:
                    sent.discard(sequence)
            elif sequence in before and group.open:
                fragments += self._limit(group)
            elif wanted and group.code is None and sequence not in sent:
                fragments += self.join(group)
        self._sent = sent & {group.sequence for group in groups}
        return tuple(fragments)

    def _limit(self, group: EncodedGroup) -> tuple[GroupFragment, ...]:
        """The new last frame, to an open group."""
        last = self._frames_of(group)[1]
        encoder = self._encoders.get(group.sequence)
        if encoder is None:
            if last is None:
                return ()
            encoder = self._encoders[group.sequence] = encoder_of(self.encoding, 0, last, group.first_frame)
            encoder.take(group.parts)  # already sent
        encoder.limit(last)
        if not encoder.ended:
            return ()
        del self._encoders[group.sequence]
        return (GroupFragment(group.sequence, False, 0, (), True, None),)

    def is_over(self, group: EncodedGroup) -> bool:
        """Nothing more of an unfinished group is wanted."""
        last = self._frames_of(group)[1]
        return not self.wants(group) or (last is not None and group.sequence not in self._encoders)


class GroupFetch:
    """Frames `first` to `last`, inclusive."""

    __slots__ = ("_encoder", "_first", "group")

    def __init__(self, group: EncodedGroup, encoding: Encoding, first: int, last: int | None) -> None:
        self.group = group
        self._first = first
        self._encoder = encoder_of(encoding, first, last, group.first_frame)

    def take(self) -> GroupFragment:
        """Refused if frame `first` is missing, also behind the end (draft 06)."""
        group, first = self.group, self._first
        chunks = tuple(self._encoder.take(group.parts))
        end = group.first_frame + max(1, group.frames)  # of an empty group, frame 0 may be asked for
        code = group.code
        if code is None and (first < group.first_frame or (group.finished and first >= end)):
            code = StreamCode.NOT_FOUND
        fin = group.finished or self._encoder.ended
        return GroupFragment(group.sequence, False, first, chunks, fin, code)
