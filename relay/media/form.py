"""The form that frames have in MP4 files.

H.264 and H.265 whose parameter sets are in the stream get a configuration record at the first key frame, and AAC with
ADTS headers at its first frame.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from relay.media import mp4
from relay.media.bits import adts_frame, avc_record, hevc_record, is_annex_b, length_prefixed
from relay.media.catalog import Rendition

OUT_OF_BAND: Final = {"avc3": "avc1", "hev1": "hvc1"}
"""The name of a codec with a configuration record, by that without."""

AAC_FRAME: Final = 1024  # samples, of the common kind


class Mp4Form:
    """Brings the frames of one rendition into that form."""

    def __init__(self, rendition: Rendition) -> None:
        self.rendition = rendition

    @property
    def header(self) -> bytes | None:
        """Ftyp and moov; None until the first key frame has told what they say."""
        return None if self._waits else mp4.header(self.rendition)

    def plain(self, data: bytes, *, key: bool) -> bytes:
        """A frame as MP4 has it, empty if it cannot be decoded."""
        codec = self.rendition.codec
        if codec.startswith("mp4a") and (found := adts_frame(data)):
            config, data = found
            if self._waits:
                self.rendition = replace(self.rendition, description=config)
        elif codec.startswith(("avc", "hev", "hvc")) and is_annex_b(data):
            if self._waits and key:
                self._describe(data)
            data = length_prefixed(data)
        return b"" if self._waits else data

    def duration(self, data: bytes) -> int:
        """Microseconds that a frame takes, zero if that is unknown."""
        found = self.rendition
        if found.kind == "video":
            return int(1_000_000 / found.framerate) if found.framerate else 0
        if found.codec == "opus":
            return opus_duration(data)
        return AAC_FRAME * 1_000_000 // found.sample_rate if found.sample_rate else 0

    @property
    def _waits(self) -> bool:
        """The set-up of the decoder comes in the stream, and has not come yet."""
        in_band = self.rendition.codec.startswith(("avc", "hev", "hvc", "mp4a"))
        return in_band and self.rendition.description is None

    def _describe(self, data: bytes) -> None:
        name, dot, rest = self.rendition.codec.partition(".")
        record = avc_record(data) if name.startswith("avc") else hevc_record(data)
        if record is not None:
            codec = OUT_OF_BAND.get(name, name) + dot + rest
            self.rendition = replace(self.rendition, codec=codec, description=record)


def opus_duration(packet: bytes) -> int:
    """Microseconds of sound in an Opus packet (RFC 6716, section 3.1)."""
    if not packet:
        return 0
    config, code = packet[0] >> 3, packet[0] & 3
    if config < 12:
        each = (10_000, 20_000, 40_000, 60_000)[config & 3]
    elif config < 16:
        each = (10_000, 20_000)[config & 1]
    else:
        each = (2_500, 5_000, 10_000, 20_000)[config & 3]
    count = (1, 2, 2, packet[1] & 63 if len(packet) > 1 else 0)[code]
    return each * count
