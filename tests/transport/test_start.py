"""A server's connection starts with less work than aioquic's, sends the same, and frees its handshake state."""

from __future__ import annotations

import asyncio
import gc
import hmac
import inspect
import random
import re
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aioquic import tls
from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic import connection as aioquic_connection
from aioquic.quic import recovery as aioquic_recovery
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionState
from aioquic.quic.crypto import CryptoContext, CryptoPair
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted
from aioquic.quic.logger import QuicLoggerTrace
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicProtocolVersion,
    pull_quic_transport_parameters,
)
from aioquic.tls import CipherSuite, Epoch
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID
from relay.quic.compat import Credentials
from relay.quic.fast import handshake, secrets, start
from relay.quic.fast.client_hello import read_client_hello
from relay.quic.fast.connection import FastConnection
from relay.quic.fast.streams import FastStream

from relay.quic.endpoint import Endpoint
from relay.quic.settings import QuicSettings
from relay.runtime import SYSTEM
from relay.transport.session import StreamData
from tests.transport.virtual import CLIENT, PAIR, SERVER, Recorder, Wire

VERSIONS = QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2


@pytest.fixture(autouse=True)
def pairing() -> Iterator[None]:
    before, Wire.pairing = Wire.pairing, ("aioquic", "fast")
    yield
    Wire.pairing = before


def configured(key: Any = PAIR.key, certificate: x509.Certificate = PAIR.certificate) -> QuicConfiguration:
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["x"], max_datagram_frame_size=1000)
    configuration.certificate, configuration.private_key = certificate, key
    return configuration


def fast_server(configuration: QuicConfiguration, cid: bytes = b"original") -> FastConnection:
    return FastConnection(
        configuration=configuration,
        max_streams_bidi=7,
        max_streams_uni=9,
        original_destination_connection_id=cid,
    )


def aioquic_server(configuration: QuicConfiguration, cid: bytes = b"original") -> Any:
    return QuicConnection(configuration=configuration, original_destination_connection_id=cid)


# -- the constructor


def test_it_has_what_aioquics_constructor_makes() -> None:
    """Finds attributes that are new, missing or different."""
    ours, theirs = vars(fast_server(configured())), vars(aioquic_server(configured()))
    expected = set(theirs) - {"_QuicConnection__frame_handlers"}
    assert expected <= set(ours)
    replaced = {
        *("_local_max_data", "_local_max_streams_bidi", "_local_max_streams_uni", "_logger", "_loss"),
        *("_configuration", "_local_active_connection_id_limit"),
    }
    random_ones = {"_host_cids", "_local_initial_source_connection_id", "_peer_cid", "host_cid"}
    for name in expected - replaced - random_ones:
        assert ours[name] == theirs[name], name
        assert type(ours[name]) is type(theirs[name]), name
    for name in random_ones:
        assert type(ours[name]) is type(theirs[name]), name
    for name in ("_host_cids", "_peer_cid"):
        mine, other = (
            ([ours[name], theirs[name]]) if name == "_peer_cid" else (ours[name][0], theirs[name][0])
        )
        assert (len(mine.cid), mine.sequence_number, mine.was_sent) == (
            len(other.cid),
            other.sequence_number,
            other.was_sent,
        )
        assert len(mine.stateless_reset_token or b"") == len(other.stateless_reset_token or b"")
    loss, other = ours["_loss"], theirs["_loss"]
    for name in set(vars(other)) - {"_cc", "_pacer", "_send_probe", "_logger"}:
        assert getattr(loss, name) == getattr(other, name), name
    assert ours["_local_active_connection_id_limit"] == start.CONNECTION_IDS


def test_nothing_is_shared_that_changes() -> None:
    configuration = configured()
    one, two = vars(fast_server(configuration)), vars(fast_server(configuration))
    for name, value in one.items():
        if isinstance(value, (list, dict, set)) or hasattr(value, "popleft"):
            assert value is not two[name], name


def test_a_new_kind_of_state_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = QuicConnection.__init__

    def extended(self: Any, **options: Any) -> None:
        original(self, **options)
        self._something_new = object()

    monkeypatch.setattr(QuicConnection, "__init__", extended)
    with pytest.raises(TypeError, match="_something_new"):
        start.Blueprint(configured())


def test_frame_handlers_are_aioquics() -> None:
    theirs = vars(aioquic_server(configured()))["_QuicConnection__frame_handlers"]
    quic = fast_server(configured())
    table = quic._QuicConnection__frame_handlers
    assert set(table.names) == set(theirs)
    for kind, (handler, epochs) in theirs.items():
        ours, allowed = table[kind]
        assert ours.__name__ == handler.__name__
        assert ours.__self__ is quic
        assert allowed == epochs
    with pytest.raises(KeyError):
        table[0x21]


def test_the_quiet_logger_can_what_aioquic_asks_for(caplog: pytest.LogCaptureFixture) -> None:
    used: set[str] = set()
    for module in (aioquic_connection, aioquic_recovery):
        used |= set(re.findall(r"(?:self\.|\b)_logger\.(\w+)\(", inspect.getsource(module)))
    trace = {name for name in used if hasattr(QuicLoggerTrace, name)}
    quiet = start.QuietLogger(b"\x01\x02")
    assert {name for name in used - trace if not hasattr(quiet, name)} <= {"start_trace", "end_trace"}
    quiet.debug("%s", 1)
    quiet.info("%s", 1)
    assert not caplog.records
    quiet.warning("one %d", 1)
    quiet.error(ValueError("two"))
    assert [record.getMessage() for record in caplog.records] == ["[0102] one 1", "[0102] two"]


def test_transport_parameters_are_aioquics() -> None:
    for version in VERSIONS:
        ours, theirs = fast_server(configured()), aioquic_server(configured())
        parsed = []
        for quic in (ours, theirs):
            quic._version = version
            parsed.append(
                vars(pull_quic_transport_parameters(Buffer(data=quic._serialize_transport_parameters())))
            )
        mine, other = parsed
        assert mine.pop("initial_source_connection_id") == ours.host_cid
        assert other.pop("initial_source_connection_id") == theirs.host_cid
        assert mine.pop("stateless_reset_token") == ours._host_cids[0].stateless_reset_token
        del other["stateless_reset_token"]
        assert (mine.pop("initial_max_streams_bidi"), mine.pop("initial_max_streams_uni")) == (7, 9)
        assert (other.pop("initial_max_streams_bidi"), other.pop("initial_max_streams_uni")) == (128, 128)
        assert mine.pop("active_connection_id_limit") == start.CONNECTION_IDS
        assert other.pop("active_connection_id_limit") == 8
        assert mine == other


# -- keys


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("suite", list(secrets.SUITES))
def test_keys_are_aioquics(suite: CipherSuite, version: int) -> None:
    secret = bytes(range(secrets.SUITES[suite].size))
    ours, theirs = secrets.LeanContext(), CryptoContext()
    for context in (ours, theirs):
        context.setup(cipher_suite=suite, secret=secret, version=version)
    header, payload = b"\x41" + bytes(8) + b"\x00\x07", b"hello" * 10
    assert ours.encrypt_packet(header, payload, 7) == theirs.encrypt_packet(header, payload, 7)
    assert {name: getattr(ours, name) for name in ("cipher_suite", "secret", "version", "key_phase")} == {
        name: getattr(theirs, name) for name in ("cipher_suite", "secret", "version", "key_phase")
    }
    assert set(vars(ours)) == set(vars(theirs))


@pytest.mark.parametrize("suite", list(secrets.SUITES))
def test_hmac_is_that_of_the_library(suite: CipherSuite) -> None:
    dice = random.Random(3)
    ours = secrets.SUITES[suite]
    for _ in range(300):
        key, data = dice.randbytes(dice.randrange(ours.block + 1)), dice.randbytes(dice.randrange(300))
        assert ours.expand(key, data) == hmac.digest(key, data, ours.hash().name)


@pytest.mark.parametrize("version", VERSIONS)
def test_initial_keys_are_aioquics(version: int) -> None:
    ours, theirs = secrets.LeanPair(), CryptoPair()
    secrets.setup_server_initial(ours, b"original", version)
    theirs.setup_initial(cid=b"original", is_client=False, version=version)
    assert ours.send.secret == theirs.send.secret
    assert ours.recv.secret == theirs.recv.secret
    header, payload = b"\xc1" + bytes(20) + b"\x00\x07", b"hello" * 10
    assert ours.encrypt_packet(header, payload, 7) == theirs.encrypt_packet(header, payload, 7)


# -- the handshake


def talk(client: QuicConnection, server: QuicConnection, lose: Callable[[bytes], bool] | None = None) -> None:
    now = 1.0
    for _ in range(60):
        quiet = True
        for sender, receiver, address in ((client, server, CLIENT), (server, client, SERVER)):
            for data, _ in sender.datagrams_to_send(now) if sender is client or server._network_paths else ():
                quiet = False
                if lose is None or not lose(data):
                    receiver.receive_datagram(data, address, now)
                    if isinstance(receiver, FastConnection):
                        receiver.finish_receiving(now)
        if quiet:
            return
        now += 0.03


def completed(quic: QuicConnection) -> HandshakeCompleted | None:
    found = None
    while (event := quic.next_event()) is not None:
        if isinstance(event, HandshakeCompleted):
            found = event
    return found


def signed(key: Any) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    algorithm = (
        None if isinstance(key, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)) else hashes.SHA256()
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(PAIR.certificate.not_valid_before_utc)
        .not_valid_after(PAIR.certificate.not_valid_after_utc)
        .sign(key, algorithm)
    )


def client_of(
    versions: tuple[int, ...] = VERSIONS,
    on_ticket: Callable[[tls.SessionTicket], None] | None = None,
    **options: Any,
) -> QuicConnection:
    """A client that begins with the last of `versions` and prefers the first."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["x"], verify_mode=0, **options)
    configuration.supported_versions = list(versions)
    configuration.original_version = versions[-1]
    client = QuicConnection(configuration=configuration, session_ticket_handler=on_ticket)
    client.connect(SERVER, 1.0)
    return client


def server_for(client: QuicConnection, configuration: QuicConfiguration) -> FastConnection:
    return fast_server(configuration, client.original_destination_connection_id)


@pytest.mark.parametrize("versions", [VERSIONS[:1], VERSIONS[1:], VERSIONS, VERSIONS[::-1]])
@pytest.mark.parametrize("suite", list(secrets.SUITES))
def test_every_cipher_in_every_version(suite: CipherSuite, versions: tuple[int, ...]) -> None:
    """The last two pairs change the version (RFC 9368), and with it the Initial keys."""
    client = client_of(versions, cipher_suites=[suite])
    server = server_for(client, configured())
    talk(client, server)
    done = completed(client)
    assert done is not None
    assert done.alpn_protocol == "x"
    assert not done.session_resumed
    assert completed(server) is not None
    assert client._handshake_confirmed
    assert client._version == server._version == versions[0]
    client.send_stream_data(0, b"hello", end_stream=True)
    talk(client, server)
    assert any(getattr(event, "data", None) == b"hello" for event in iter(server.next_event, None))


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
        ed448.Ed448PrivateKey.generate(),
    ],
    ids=["p256", "p384", "rsa", "ed25519", "ed448"],
)
def test_every_kind_of_key(key: Any) -> None:
    client = client_of()
    certificate = signed(key)
    server = server_for(client, configured(key, certificate))
    talk(client, server)
    assert completed(client) is not None
    assert client.tls._peer_certificate == certificate


@pytest.mark.parametrize(
    "group", [tls.Group.SECP256R1, tls.Group.SECP384R1, tls.Group.X25519, tls.Group.X448]
)
def test_every_group(group: tls.Group, monkeypatch: pytest.MonkeyPatch) -> None:
    original = tls.Context.__init__

    def only(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        self._supported_groups = [group]

    monkeypatch.setattr(tls.Context, "__init__", only)
    client = client_of()
    server = server_for(client, configured())
    talk(client, server)
    assert completed(client) is not None


def test_the_chain_is_sent() -> None:
    other = signed(ec.generate_private_key(ec.SECP256R1()))
    configuration = configured()
    configuration.certificate_chain = [other]
    client = client_of()
    talk(client, server_for(client, configuration))
    assert client.tls._peer_certificate_chain == [other]


def test_the_certificate_is_chosen_by_name_and_a_new_one_is_used_at_once() -> None:
    shown = []
    certificates = [
        Credentials(signed(key), (), key)
        for key in (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    ]
    for credentials in (*certificates, certificates[0]):
        client = client_of(server_name="some.name")
        server = server_for(client, configured())
        asked: list[str | None] = []

        def choose(
            name: str | None, credentials: Credentials = credentials, asked: list[str | None] = asked
        ) -> Credentials:
            asked.append(name)
            return credentials

        server._credentials = choose
        talk(client, server)
        shown.append(client.tls._peer_certificate)
        assert asked == ["some.name"]
    assert shown == [each.certificate for each in (*certificates, certificates[0])]


def test_a_certificate_is_encoded_once() -> None:
    credentials = Credentials(PAIR.certificate, (), PAIR.key)
    assert handshake.identity_of(credentials) is handshake.identity_of(credentials)
    assert handshake.identity_of(Credentials(PAIR.certificate, (), PAIR.key)) is not credentials.ready


def test_no_ticket_is_given_and_none_is_taken() -> None:
    """A client's pre-shared key is ignored: the handshake is a full one."""
    tickets: list[tls.SessionTicket] = []
    client = client_of(on_ticket=tickets.append)
    talk(client, server_for(client, configured()))
    assert completed(client) is not None
    assert not tickets
    client = client_of(on_ticket=tickets.append)
    elsewhere = aioquic_server(configured(), client.original_destination_connection_id)
    elsewhere._session_ticket_handler = lambda ticket: None
    talk(client, elsewhere)
    (ticket,) = tickets
    for garbage in (False, True):
        ticket.ticket = bytes(64) if garbage else ticket.ticket
        client = client_of(session_ticket=ticket)
        server = server_for(client, configured())
        client.send_stream_data(0, b"early")
        talk(client, server)
        done = completed(client)
        assert done is not None
        assert not done.session_resumed
        assert not done.early_data_accepted
        assert client.tls._peer_certificate == PAIR.certificate


def hello() -> bytes:
    context = tls.Context(is_client=True, alpn_protocols=["x", "y"], server_name="some.name")
    context.handshake_extensions = [(0x39, b"\x01\x02")]
    buffers = {epoch: Buffer(capacity=4096) for epoch in Epoch}
    context.handle_message(b"", buffers)
    return buffers[Epoch.INITIAL].data


def answer(context: tls.Context, message: bytes) -> Any:
    buffers = {epoch: Buffer(capacity=16384) for epoch in Epoch}
    try:
        context.handle_message(message, buffers)
    except Exception as error:  # noqa: BLE001 - compared with the original's
        return type(error), str(error)
    return (
        context.state,
        context.alpn_negotiated,
        len(buffers[Epoch.INITIAL].data),
        context.received_extensions,
        context.client_random,
        context.legacy_session_id,
    )


def aioquic_context() -> tls.Context:
    context = tls.Context(is_client=False, alpn_protocols=["x"])
    context.certificate, context.certificate_private_key = PAIR.certificate, PAIR.key
    return context


def lean_context() -> tls.Context:
    context = handshake.ServerContext(alpns=["x"], cipher_suites=None)
    credentials = Credentials(PAIR.certificate, (), PAIR.key)
    context.choose = lambda name: credentials
    return context


def test_the_context_has_what_aioquics_has() -> None:
    ours, theirs = vars(lean_context()), vars(aioquic_context())
    assert set(theirs) <= set(ours)
    for name in set(theirs) - {"certificate", "certificate_private_key", "update_traffic_key_cb"}:
        assert ours[name] == theirs[name], name


def aioquics_reading(data: bytes) -> tls.ClientHello | None:
    buf = Buffer(data=data)
    try:
        read = tls.pull_client_hello(buf)
    except Exception:  # noqa: BLE001 - whatever it does not read, ours must not either
        return None
    return read if buf.eof() else None


def test_hellos_are_read_as_by_aioquic() -> None:
    good = hello()
    assert read_client_hello(good) == aioquics_reading(good)
    assert read_client_hello(good) is not None
    dice = random.Random(11)
    read = 0
    for round_ in range(20_000):
        data = bytearray(good)
        for _ in range(dice.choice([1, 1, 2, 3])):
            at = dice.randrange(len(data))
            if dice.random() < 0.7:
                data[at] = dice.choice([0, 1, 2, data[at] ^ 1, (data[at] + 1) & 255, dice.randrange(256)])
            elif dice.random() < 0.5:
                del data[at]
            else:
                data.insert(at, dice.randrange(256))
        if round_ % 2:
            data[1:4] = (len(data) - 4).to_bytes(3, "big")
        ours = read_client_hello(bytes(data))
        if ours is not None:
            assert ours == aioquics_reading(bytes(data)), bytes(data).hex()
            read += 1
    assert read > 1000
    for end in range(len(good)):
        assert read_client_hello(good[:end]) is None


def test_a_hello_with_every_kind_of_extension_is_read() -> None:
    full = tls.ClientHello(
        bytes(32),
        b"",
        [0x1301, 0x1302],
        [0],
        alpn_protocols=["x", "moq-lite-05"],
        key_share=[(0x1D, bytes(32)), (0x11EC, bytes(1216))],
        psk_key_exchange_modes=[1],
        server_name="some.name",
        signature_algorithms=[0x0403],
        supported_groups=[0x1D, 0x17],
        supported_versions=[0x0304],
        other_extensions=[(0x39, b"\x01\x02"), (0x0A0A, b"")],
    )
    buf = Buffer(capacity=4000)
    tls.push_client_hello(buf, full)
    assert read_client_hello(buf.data) == full


def test_broken_hellos_are_answered_as_by_aioquic() -> None:
    good = hello()
    assert answer(lean_context(), good) == answer(aioquic_context(), good)
    dice = random.Random(7)
    answers = set()
    for _ in range(2000):
        data = bytearray(good)
        for _ in range(dice.choice([1, 1, 2, 5])):
            data[dice.randrange(len(data))] = dice.randrange(256)
        ours, theirs = answer(lean_context(), bytes(data)), answer(aioquic_context(), bytes(data))
        assert ours == theirs, bytes(data).hex()
        answers.add(ours[0])
    assert len(answers) > 8


def test_a_wrong_finished_is_refused() -> None:
    context = lean_context()
    buffers = {epoch: Buffer(capacity=16384) for epoch in Epoch}
    context.handle_message(hello(), buffers)
    with pytest.raises(tls.AlertDecryptError):
        context.handle_message(b"\x14\x00\x00\x30" + bytes(48), buffers)


# -- freed state


class Opened:
    """A session whose packets to the server are kept."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.kept: list[bytes] = []
        self.wire.lose = self._keep
        self.client, self.server = self.wire.open()
        self.quic: Any = self.wire.server_quic

    def _keep(self, target: str, data: bytes) -> bool:
        if target == "server":
            self.kept.append(data)
        return False

    def still_works(self) -> None:
        recorder = Recorder()
        assert self.wire.server is not None
        self.server.start(recorder)
        self.client.open_uni().write([b"hello"], fin=True)
        self.wire.run()
        assert [event.data for event in recorder.events if isinstance(event, StreamData)] == [b"hello"]
        assert self.quic._state is QuicConnectionState.CONNECTED


def test_nothing_is_left_of_the_handshake() -> None:
    quic = Opened().quic
    assert set(quic._crypto_streams) == set(quic._spaces) == set(quic._cryptos) == {Epoch.ONE_RTT}
    assert not quic._crypto_buffers
    assert quic.tls is start._FINISHED
    assert quic._loss.spaces == [quic._spaces[Epoch.ONE_RTT]]


def test_packets_of_the_handshake_do_no_harm_afterwards() -> None:
    opened = Opened()
    before = opened.quic._spaces[Epoch.ONE_RTT].largest_received_packet
    for data in list(opened.kept):
        opened.wire.server_connection.receive(data, CLIENT, opened.wire.now)
        opened.wire.server_connection.drained(opened.wire.now)
    opened.wire.run()
    assert opened.quic._spaces[Epoch.ONE_RTT].largest_received_packet == before
    assert start._NO_SPACE.largest_received_packet == -1
    assert start._NO_SPACE.discarded
    assert not start._GONE.recv.is_valid()
    assert not start._GONE.send.is_valid()
    assert not start._NO_KEYS
    opened.still_works()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("late", [False, True])
def test_an_initial_of_somebody_else_does_no_harm(version: int, late: bool) -> None:
    """Anyone on the path can forge Initial packets: a close in one must not end an established connection."""
    opened = Opened()
    if late:
        opened.still_works()
    forged = QuicConnection(
        configuration=QuicConfiguration(is_client=True, alpn_protocols=["x"], original_version=version)
    )
    cid = opened.wire.client_quic.original_destination_connection_id
    forged._peer_cid.cid = forged._original_destination_connection_id = cid
    forged.connect(SERVER, 1.0)
    (data, _), *_ = forged.datagrams_to_send(1.0)
    forged.close(error_code=1, frame_type=0)
    for each in (data, *(packet for packet, _ in forged.datagrams_to_send(1.0))):
        opened.wire.server_connection.receive(each, CLIENT, opened.wire.now)
        opened.wire.server_connection.drained(opened.wire.now)
    if not late:
        opened.still_works()
    assert opened.quic._state is QuicConnectionState.CONNECTED


def test_initial_keys_are_not_made_again_once_their_space_is_discarded() -> None:
    space = aioquic_recovery.QuicPacketSpace()
    keys = start.InitialKeys(b"original", space)
    assert keys[VERSIONS[0]].recv.is_valid()
    space.discarded = True
    assert not keys[VERSIONS[1]].recv.is_valid()
    assert list(keys) == [VERSIONS[0]]


@pytest.mark.parametrize("data", [b"\x18\x00\x00\x01\x00", b"\x14", bytes(4)])
def test_tls_after_the_handshake_ends_the_connection(data: bytes) -> None:
    """RFC 9001, 6 demands it for a KeyUpdate message."""
    opened = Opened()
    opened.wire.client_quic._crypto_streams[Epoch.ONE_RTT].sender.write(data)
    opened.wire.client_connection.touch()
    opened.wire.run()
    close = opened.wire.client_quic._close_event
    assert isinstance(close, ConnectionTerminated)
    assert close.error_code == QuicErrorCode.CRYPTO_ERROR + tls.AlertDescription.unexpected_message


@pytest.mark.parametrize("lost", range(1, 6))
def test_what_follows_the_handshake_is_repeated_when_lost(lost: int) -> None:
    """HANDSHAKE_DONE and NEW_CONNECTION_ID, in any packet."""
    wire = Wire()
    count = 0

    def lose(target: str, data: bytes) -> bool:
        nonlocal count
        if target == "client" and not data[0] & 0x80:
            count += 1
            return count <= lost
        return False

    wire.lose = lose
    wire.open()
    wire.advance(5.0)
    assert wire.client_quic._handshake_confirmed
    assert len(wire.client_quic._peer_cid_available) == start.CONNECTION_IDS - 1
    issued = {each.cid for each in wire.server_quic._host_cids[1:]}
    assert (
        {each.cid for each in wire.client_quic._peer_cid_available} == issued == wire.server_connection.cids
    )


def test_used_connection_ids_are_replaced() -> None:
    wire = Wire()
    wire.open()
    seen = {wire.client_quic._peer_cid.cid}
    for _ in range(10):
        wire.client_quic.change_connection_id()
        wire.client_connection.touch()
        wire.run()
        seen.add(wire.client_quic._peer_cid.cid)
        assert len(wire.server_quic._host_cids) == start.CONNECTION_IDS
        assert {each.cid for each in wire.server_quic._host_cids} - seen <= wire.server_connection.cids
    assert len(seen) == 11
    assert len(wire.server_quic._peer_cid_available) <= start.CONNECTION_IDS


def test_a_peer_that_gives_more_ids_than_announced_is_refused() -> None:
    opened = Opened()
    client: Any = opened.wire.client_quic
    client._remote_active_connection_id_limit = 8
    client._replenish_connection_ids()
    opened.wire.client_connection.touch()
    opened.wire.run()
    close = client._close_event
    assert close is not None
    assert close.error_code == QuicErrorCode.CONNECTION_ID_LIMIT_ERROR


@pytest.mark.parametrize(
    "plain",
    [
        b"\x18\x01",
        b"\x18\x01\x00\x08" + bytes(9),
        b"\x04\x00\x00",
        b"\x05\x40",
        b"\x19",
        b"\x01\x18\x05\x00\x15" + bytes(40),
    ],
)
def test_broken_frames_between_others_end_the_connection(plain: bytes) -> None:
    opened = Opened()
    with pytest.raises(aioquic_connection.QuicConnectionError) as caught:
        opened.quic._read_frames(plain, opened.wire.now)
    assert caught.value.error_code == QuicErrorCode.FRAME_ENCODING_ERROR


def test_padding_is_skipped_up_to_the_next_frame() -> None:
    quic: Any = Opened().quic
    for data in (bytes(5), bytes(3) + b"\x01\x00", b"\x00\x01"):
        ours, theirs = Buffer(data=data), Buffer(data=data)
        ours.pull_uint_var()
        theirs.pull_uint_var()
        quic._handle_padding_frame(None, 0, ours)
        QuicConnection._handle_padding_frame(quic, None, 0, theirs)  # type: ignore[arg-type]
        assert ours.tell() == theirs.tell()


def test_a_ping_is_answered_at_once() -> None:
    opened = Opened()
    opened.still_works()
    opened.wire.client_quic.send_ping(5)
    at = opened.wire.now
    opened.wire.client_connection.transmit(at)
    opened.wire._exchange()
    assert opened.wire.now == at
    assert opened.quic._spaces[Epoch.ONE_RTT].ack_at is None
    assert not any(space.ack_eliciting_in_flight for space in opened.wire.client_quic._spaces.values())


async def test_newcomers_in_every_turn_do_not_silence_others() -> None:
    class Told:
        gone = False
        times = 0

        def transmit(self, now: float) -> None:
            self.times += 1

    endpoint, connection = Endpoint(QuicSettings(), SYSTEM), Told()
    for _ in range(20):
        endpoint._delay_transmit = True  # set by each session request
        endpoint.touch(connection)  # type: ignore[arg-type]
        await asyncio.sleep(0)
    assert connection.times >= 9


def test_distant_deadlines_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened()
    connection = opened.wire.server_connection
    armed: list[float] = []
    monkeypatch.setattr(
        type(opened.wire.server_side), "arm", lambda side, deadline, connection: armed.append(deadline)
    )
    for step in range(40):
        connection.armed.clear()
        opened.wire.now += 0.01
        connection.last_received = opened.wire.now
        connection.arm(opened.wire.now)
        due = connection._deadline()
        assert due is not None
        assert due > opened.wire.now + 1, step
        assert due <= armed[-1] < due + 0.126
    assert len(set(armed)) <= 5


def test_a_released_connection_leaves_no_reference_cycle() -> None:
    opened = Opened()
    quic: Any = opened.quic
    connection = opened.wire.server_connection
    quic.release()
    connection.left()
    gone = weakref.ref(quic)
    opened.quic = opened.wire.server_quic = connection.quic = None  # type: ignore[assignment]
    del quic
    assert gone() is None


def test_a_dead_peer_is_found_by_a_relay_that_pauses_all_the_time() -> None:
    """Each pause restarted half of the idle time-out."""
    wire = Opened().wire
    connection, quic = wire.server_connection, wire.server_quic
    begin = now = wire.now
    while quic._close_at is not None and quic._close_at > now:
        now += 0.5
        connection.resume(now, 0.3)
        assert now < begin + 3 * connection.idle_timeout
    assert now > begin + connection.idle_timeout  # the pauses are not counted


def test_a_live_peer_is_given_time_after_a_long_pause() -> None:
    wire = Opened().wire
    connection, quic = wire.server_connection, wire.server_quic
    now = wire.now + 3600
    connection.resume(now, 3600)
    assert quic._close_at == now + connection.idle_timeout / 2


async def test_one_pause_counts_once() -> None:
    """Two timers are late by it."""
    endpoint, late = Endpoint(QuicSettings(), SYSTEM), []

    class Fake:
        def resume(self, _now: float, seconds: float) -> None:
            late.append(seconds)

    endpoint.connections = {Fake()}  # type: ignore[arg-type]
    endpoint._notice_stall(10.0, 11.0)
    endpoint._notice_stall(9.5, 11.01)
    endpoint._notice_stall(11.0, 11.5)
    assert late == [1.0, 0.5]


def test_streams_of_a_failed_connection_leave_no_reference_cycle() -> None:
    """They are freed at once, with all unacknowledged data, without the garbage collector."""

    def streams() -> int:
        return sum(type(thing) is FastStream for thing in gc.get_objects())

    gc.collect()
    before = streams()
    opened = Opened()
    opened.wire.lose = lambda target, _data: target == "client"
    for _ in range(20):
        opened.server.open_uni().write([b"never acknowledged"])
    opened.wire.run()
    quic: Any = opened.quic
    assert len(quic._streams) >= 20
    gc.disable()
    try:
        held = streams()
        quic.release()
        assert streams() <= held - 20
    finally:
        gc.enable()
    assert before <= held
