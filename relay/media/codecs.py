"""Codec strings as WebCodecs has them, from what a container knows of a stream.

A codec string names the decoder that a stream needs: `avc1.64001f`, `vp09.00.10.08`, `mp4a.40.2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from relay.media.bits import nal_units, raw
from relay.media.errors import MediaError

H264_SPS: Final = 7  # NAL unit types
H265_SPS: Final = 33

VIDEO: Final = ("h264", "hevc", "vp8", "vp9", "av1")
AUDIO: Final = ("aac", "opus")
"""Names of FFmpeg, of the codecs that players take."""

VP9_LEVELS: Final = (
    *((36_864, 10), (73_728, 11), (122_880, 20), (245_760, 21), (552_960, 30)),
    *((983_040, 31), (2_228_224, 40), (8_912_896, 50), (35_651_584, 60)),
)
"""Largest picture in pixels, and the level."""


@dataclass(frozen=True, slots=True)
class Described:
    """How a decoder is set up."""

    codec: str
    description: bytes | None = None
    """Set-up data outside of the stream, as WebCodecs takes it: avcC, hvcC, AudioSpecificConfig, OpusHead."""


def h264(extradata: bytes) -> Described:
    """With an avcC the description is out of band (`avc1`), else the parameter sets are in the stream (`avc3`)."""
    if extradata[:1] == b"\1" and len(extradata) > 6:
        return Described(f"avc1.{extradata[1:4].hex()}", extradata)
    for unit in nal_units(extradata):
        if unit[0] & 31 == H264_SPS and len(unit) > 3:
            return Described(f"avc3.{unit[1:4].hex()}")
    raise MediaError("the H.264 stream has no parameter sets")


def h265(extradata: bytes) -> Described:
    """As `h264`, with `hvc1` and `hev1`."""
    if extradata[:1] == b"\1" and len(extradata) > 22:
        return Described(f"hvc1.{_hevc_profile(extradata[1:13])}", extradata)
    for unit in nal_units(extradata):
        if unit[0] >> 1 & 63 == H265_SPS and len(unit) > 15:
            return Described(f"hev1.{_hevc_profile(raw(unit)[3:15])}")
    raise MediaError("the H.265 stream has no parameter sets")


def _hevc_profile(profile: bytes) -> str:
    """ISO/IEC 14496-15, annex E, of the twelve bytes of general profile, tier and level."""
    space = ("", "A", "B", "C")[profile[0] >> 6]
    compatibility = int(f"{int.from_bytes(profile[1:5], 'big'):032b}"[::-1], 2)
    tier = "H" if profile[0] & 32 else "L"
    constraints = "".join(f".{byte:X}" for byte in profile[5:11].rstrip(b"\0"))
    return f"{space}{profile[0] & 31}.{compatibility:X}.{tier}{profile[11]}{constraints}"


def vp9(profile: int, pixels: int, depth: int) -> Described:
    """`profile` is 0 to 3, `pixels` are those of a picture; the level is the lowest one for that size."""
    level = next((level for most, level in VP9_LEVELS if pixels <= most), 62)
    return Described(f"vp09.{profile:02}.{level:02}.{depth:02}")


def av1(extradata: bytes) -> Described:
    """From an av1C. The sequence header is in the stream, too, before each key frame."""
    if len(extradata) < 4 or extradata[0] != 0x81:
        raise MediaError("the AV1 stream has no configuration record (av1C)")
    profile, level = extradata[1] >> 5, extradata[1] & 31
    tier = "H" if extradata[2] & 0x80 else "M"
    depth = 8 if not extradata[2] & 0x40 else 12 if extradata[2] & 0x20 else 10
    return Described(f"av01.{profile}.{level:02}{tier}.{depth:02}")


def aac(config: bytes) -> Described:
    """From an AudioSpecificConfig."""
    if len(config) < 2:
        raise MediaError("the AAC stream has no AudioSpecificConfig")
    kind = config[0] >> 3
    if kind == 31:  # an escape, for the rare ones
        kind = 32 + ((config[0] & 7) << 3 | config[1] >> 5)
    return Described(f"mp4a.40.{kind}", config)


def opus(head: bytes) -> Described:
    """From an OpusHead, which a decoder needs for more than two channels only."""
    mapping = head[18] if len(head) > 18 else 0
    return Described("opus", head if mapping else None)
