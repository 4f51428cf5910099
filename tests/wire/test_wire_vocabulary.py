"""Versions, code tables and the WebTransport headers and capsules."""

from __future__ import annotations

import pytest

from relay.paths import normalize
from relay.wire import errors
from relay.wire.errors import (
    OldCode,
    SessionCode,
    StreamCode,
    WireError,
    from_http3,
    relay_stream_code,
    session_code_for,
    stream_code_for,
    to_http3,
)
from relay.wire.varint import MAX_VARINT, encode_varint
from relay.wire.version import (
    ALL_VERSIONS,
    ALPN_VERSIONS,
    Draft,
    Version,
    alpns_for,
    version_from_name,
    version_from_setup_code,
)
from relay.wire.webtransport import (
    CloseCapsuleDecoder,
    WebTransportClose,
    encode_close_capsule,
    parse_protocol_list,
    quote_protocol,
    uni_prefix,
)

OLD = [Version.LITE_01, Version.LITE_02]
CURRENT = [version for version in Version if version not in OLD]


def test_version_names() -> None:
    assert [version.setup_code for version in Version] == list(range(0xFF0DAD01, 0xFF0DAD07))
    for version in Version:
        assert version_from_name(version.name_on_wire) is version
        assert version_from_name(f"{version:02}") is version_from_name(f" {version:d} ") is version
    for name in ("", "7", "006", "moq-lite-6x", "moq-lite-06-wip", "moql"):
        with pytest.raises(ValueError, match=r"moq-lite-01, .*moq-lite-06"):
            version_from_name(name)


def test_tokens_by_version() -> None:
    assert alpns_for(ALL_VERSIONS) == list(ALPN_VERSIONS)
    assert alpns_for(Version) == [token for token in ALPN_VERSIONS if token[:5] not in ("moqt-", "moq-0")]
    assert alpns_for([Draft.DRAFT_18, Draft.DRAFT_20]) == ["moqt-21", "moqt-20", "moqt-18"]
    assert alpns_for([Draft.DRAFT_14]) == ["moq-00"]
    assert alpns_for([Version.LITE_02]) == ["moql"]
    assert alpns_for([Version.LITE_01, Version.LITE_04]) == ["moq-lite-04", "moql", "moql-01"]
    assert alpns_for([]) == []
    for version in CURRENT:
        assert [ALPN_VERSIONS[token] for token in alpns_for([version])] == [version]
    assert ALPN_VERSIONS["moql"] is ALPN_VERSIONS["moql-01"] is None


def test_only_01_and_02_are_chosen_by_setup() -> None:
    assert [version_from_setup_code(version.setup_code) for version in Version] == [
        *OLD,
        None,
        None,
        None,
        None,
    ]


@pytest.mark.parametrize("version", OLD)
def test_codes_toward_old_peers(version: Version) -> None:
    for code in (StreamCode.NOT_FOUND, StreamCode.UNROUTABLE):
        assert stream_code_for(version, code) == 13
    for other in (*set(StreamCode) - {StreamCode.NOT_FOUND, StreamCode.UNROUTABLE}, 64, 71, 13, 40):
        assert stream_code_for(version, other) == 0
    assert session_code_for(version, SessionCode.NO_ERROR) == 0
    assert session_code_for(version, SessionCode.UNAUTHORIZED) == 6
    assert session_code_for(version, SessionCode.PROTOCOL_VIOLATION) == 15
    assert session_code_for(version, SessionCode.VERSION_NEGOTIATION) == 9
    assert session_code_for(version, SessionCode.KEY_VALUE_FORMATTING) == 5
    assert {session_code_for(version, code) for code in SessionCode} <= set(OldCode)
    assert session_code_for(version, 468) == 468


@pytest.mark.parametrize("version", CURRENT)
def test_codes_toward_current_peers(version: Version) -> None:
    for code in StreamCode:
        assert stream_code_for(version, code) == code
    assert [stream_code_for(version, code) for code in (71, 40, 30, -1, 2**32)] == [71, 0, 0, 0, 0]
    for session_code in SessionCode:
        assert session_code_for(version, session_code) == session_code
    assert [session_code_for(version, code) for code in (468, 5, 2**32)] == [468, 1, 1]


def test_codes_passed_on() -> None:
    registered = {0, 1, 2, 3, 4, 5, 18, *range(48, 59)}
    for version in CURRENT:
        for code in range(64):
            assert relay_stream_code(code, version) == (code if code in registered else 0)
        assert [relay_stream_code(code, version) for code in (64, 71, 2**32 - 1, 2**32)] == [
            64,
            71,
            2**32 - 1,
            0,
        ]
    for version in OLD:
        assert [relay_stream_code(code, version) for code in range(100)] == [
            51 if n == 13 else 0 for n in range(100)
        ]


def test_http3_mapping_covers_its_range_and_skips_the_reserved_gaps() -> None:
    first = to_http3(0)
    for mapped in range(first - 40, first + 400):
        code = from_http3(mapped)
        reserved = (mapped - 0x21) % 0x1F == 0
        if mapped < first or reserved:
            assert code is None
        else:
            assert code is not None
            assert to_http3(code) == mapped
    assert from_http3(to_http3(2**32 - 1)) == 2**32 - 1
    assert from_http3(to_http3(2**32 - 1) + 1) is None
    for code in (-1, 2**32):
        with pytest.raises(ValueError, match="32 bits"):
            to_http3(code)


def test_every_error_has_codes() -> None:
    tree = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, WireError)]
    for each in tree:
        assert each("why").close_code(Version.LITE_01) in set(OldCode)
        wanted = {
            errors.TooManyMessages: SessionCode.TOO_MANY_REQUEST_UPDATES,
            errors.NoCommonVersion: SessionCode.VERSION_NEGOTIATION,
        }.get(each, SessionCode.PROTOCOL_VIOLATION)
        assert each("why").close_code(Version.LITE_06) == wanted
    assert errors.DecodeError("why").close_code(Version.LITE_02) == 5


def test_varints_have_a_range() -> None:
    assert encode_varint(MAX_VARINT) == b"\xff" * 8
    for value in (-1, MAX_VARINT + 1):
        with pytest.raises(ValueError, match="varint"):
            encode_varint(value)


@pytest.mark.parametrize(
    "path, normal", [("", ""), ("///", ""), ("/a//b/", "a/b"), ("a/../b", "a/../b"), ("A/%2f", "A/%2f")]
)
def test_path_normal_form(path: str, normal: str) -> None:
    assert normalize(path) == normal


def test_uni_prefix() -> None:
    assert uni_prefix(0).hex() == "405400"
    assert uni_prefix(64).hex() == "40544040"


def wrap(kind: int, payload: bytes) -> bytes:
    return encode_varint(kind) + encode_varint(len(payload)) + payload


def test_other_frames_and_capsules_are_skipped_unkept() -> None:
    close = encode_close_capsule(7, "bye", in_data_frame=False)
    noise = (
        wrap(0x21, bytes(100_000)) + wrap(0, wrap(0x1234, bytes(100_000))) + wrap(0, b"") + wrap(0x40, b"")
    )
    for tail in (close, wrap(0, close), wrap(0, close[:5]) + wrap(0x21, b"zz") + wrap(0, close[5:])):
        decoder = CloseCapsuleDecoder()
        for offset in range(0, len(noise), 1000):
            assert decoder.feed(noise[offset : offset + 1000]) is None
            assert not decoder.buffered
        assert decoder.feed(tail + b"more") == WebTransportClose(7, "bye")
        assert decoder.feed(close) is None


def test_close_capsule_has_a_size() -> None:
    longest = encode_close_capsule(1, "é" * 600, in_data_frame=True)
    assert CloseCapsuleDecoder().feed(longest) == WebTransportClose(1, "é" * 512)
    for size in (3, 1029):
        decoder = CloseCapsuleDecoder()
        with pytest.raises(WireError):
            decoder.feed(encode_varint(0x2843) + encode_varint(size))
        with pytest.raises(WireError):
            decoder.feed(b"")
    with pytest.raises(ValueError, match="32 bits"):
        encode_close_capsule(2**32, "", in_data_frame=True)


def test_a_reason_that_is_no_text_still_closes() -> None:
    found = CloseCapsuleDecoder().feed(wrap(0x2843, b"\0\0\0\1\xff"))
    assert found == WebTransportClose(1, "\N{REPLACEMENT CHARACTER}")


@pytest.mark.parametrize(
    "header, names",
    [
        ("", []),
        ("  ", []),
        ('"moq-lite-05", "moq-lite-04"', ["moq-lite-05", "moq-lite-04"]),
        ('"a","b"\t,\t"c" ', ["a", "b", "c"]),
        (r'"a\"b\\c"', ['a"b\\c']),
        ('"a";q=1;x, "b"; v="1,2" ;w=?1', None),
        ('"a";q=1.5;x, "b"; v="1,2";w=?1;t=tok/en;b=:aGk=:', ["a", "b"]),
    ],
)
def test_protocol_list(header: str, names: list[str] | None) -> None:
    if names is None:
        with pytest.raises(ValueError, match="quoted strings"):
            parse_protocol_list(header)
    else:
        assert parse_protocol_list(header) == names


@pytest.mark.parametrize(
    "header", ["moql", '"a",', ',"a"', '"a" "b"', '"a', r'"\x"', '"é"', "1", '("a")', '"a";Q=1']
)
def test_malformed_protocol_list(header: str) -> None:
    with pytest.raises(ValueError, match="quoted strings"):
        parse_protocol_list(header)


def test_quoted_protocol() -> None:
    assert quote_protocol("moq-lite-05") == '"moq-lite-05"'
    assert quote_protocol('a"\\') == r'"a\"\\"'
    for name in ("é", "a\n", "\x7f"):
        with pytest.raises(ValueError, match="ASCII"):
            quote_protocol(name)
