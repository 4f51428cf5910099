"""Start of a server's connection, and release of its handshake state.

Owns shortcuts for what aioquic computes or allocates per connection: a constructor of a hundred assignments,
keys of unused QUIC versions, constant tables, handshake state that an idle viewer would hold for hours. Must
never change the wire except the number of connection ids. Clients start as aioquic's do.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from enum import Enum
from typing import Any

from aioquic import tls
from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    CRYPTO_BUFFER_SIZE,
    Limit,
    QuicConnection,
    QuicConnectionAdapter,
    QuicConnectionId,
    QuicReceiveContext,
    logger,
)
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import (
    QuicFrameType,
    pull_quic_transport_parameters,
    push_quic_transport_parameters,
)
from aioquic.quic.recovery import QuicPacketRecovery, QuicPacketSpace
from aioquic.quic.stream import QuicStream

from relay.transport.quic.compat import Credentials, RelayQuicConnection
from relay.transport.quic.fast.handshake import FinishedContext, ServerContext
from relay.transport.quic.fast.secrets import LeanPair, make_lean, setup_server_initial

CONNECTION_IDS = 4  # one in use, others for migration; each of aioquic's 8 costs a frame, route and object
TOKEN = 16  # bytes of a stateless reset token

_IMMUTABLE = (bool, int, float, str, bytes, Enum, type(None), QuicConfiguration)


class Discarded(dict[Any, Any]):
    """Discarded keys: packets of the handshake are unreadable."""

    def __missing__(self, key: Any) -> CryptoPair:
        return _GONE


_GONE = CryptoPair()
_NO_KEYS = Discarded()
_FINISHED = FinishedContext()


class FrameHandlers:
    """aioquic's table of frame handlers, bound on demand: aioquic binds 33 methods per connection."""

    __slots__ = ("_connection",)

    names: dict[int, tuple[str, frozenset[tls.Epoch]]]

    def __init__(self, connection: QuicConnection) -> None:
        self._connection = connection

    def __getitem__(self, frame_type: int) -> tuple[Any, frozenset[tls.Epoch]]:
        name, epochs = self.names[frame_type]
        return getattr(self._connection, name), epochs


FrameHandlers.names = {
    kind: (handler.__name__, epochs)
    for kind, (handler, epochs) in vars(QuicConnection(configuration=QuicConfiguration(is_client=True)))[
        "_QuicConnection__frame_handlers"
    ].items()
}


class QuietLogger:
    """Replaces aioquic's log adapter above debug level."""

    __slots__ = ("_cid",)

    def __init__(self, cid: bytes) -> None:
        self._cid = cid

    def debug(self, *_: object) -> None: ...

    info = debug

    def warning(self, text: object, *arguments: object) -> None:
        self._adapter().warning(text, *arguments)

    def error(self, text: object, *arguments: object) -> None:
        self._adapter().error(text, *arguments)

    def _adapter(self) -> QuicConnectionAdapter:
        return QuicConnectionAdapter(logger, {"id": self._cid.hex()})


class InitialKeys(dict[int, CryptoPair]):
    """Initial keys by version, made on demand; none once the Initial space is discarded."""

    def __init__(self, cid: bytes, space: QuicPacketSpace) -> None:
        super().__init__()
        self._cid = cid
        self._space = space

    def __missing__(self, version: int) -> CryptoPair:
        if self._space.discarded:
            return _GONE
        pair = self[version] = LeanPair()
        setup_server_initial(pair, self._cid, version)
        return pair


class Blueprint:
    """Common state of a server's new connections: aioquic's constructor, run once."""

    def __init__(self, configuration: QuicConfiguration) -> None:
        model = QuicConnection(configuration=configuration, original_destination_connection_id=bytes(8))
        self.plain: dict[str, Any] = {}
        self.fresh: list[tuple[str, Any, Any]] = []
        for name, value in vars(model).items():
            if name in _PERSONAL:
                continue
            if isinstance(value, (list, dict, deque, set)):
                self.fresh.append((name, type(value), value))
            elif isinstance(value, _IMMUTABLE):
                self.plain[name] = value
            else:
                raise TypeError(f"aioquic's {name} is new here")
        self.parameters: dict[tuple[Any, ...], bytes] = {}  # encoded, without the connection's own


_PERSONAL = frozenset(
    (
        "_host_cids",
        "_local_initial_source_connection_id",
        "_local_max_data",
        "_local_max_streams_bidi",
        "_local_max_streams_uni",
        "_logger",
        "_loss",
        "_original_destination_connection_id",
        "_peer_cid",
        "host_cid",
    )
)
"""Objects created per connection, see `ServerStart._construct`."""


def blueprint_of(configuration: QuicConfiguration) -> Blueprint:
    """The blueprint of connections with `configuration`; of it, only the certificate may change later."""
    kept = vars(configuration)  # stored there, to be freed with it
    found: Blueprint | None = kept.get("_blueprint")
    if found is None:
        found = kept["_blueprint"] = Blueprint(configuration)
    return found


class ServerStart(RelayQuicConnection):
    """The start of a server's connection.

    Size: it sets, on the same object, the fields that aioquic's constructor would set.
    """

    _blueprint: Blueprint

    @property
    def _QuicConnection__frame_handlers(self) -> FrameHandlers:  # noqa: N802 - as the original is mangled
        return FrameHandlers(self)

    @_QuicConnection__frame_handlers.setter
    def _QuicConnection__frame_handlers(self, value: object) -> None:  # noqa: N802
        """Ignore the table of aioquic's constructor."""

    def _construct(self, configuration: QuicConfiguration, original_cid: bytes | None) -> None:
        if configuration.is_client or configuration.quic_logger is not None or original_cid is None:
            super()._construct(configuration, original_cid)
            return
        blueprint = self._blueprint = blueprint_of(configuration)
        state = self.__dict__
        state.update(blueprint.plain)
        for name, make, value in blueprint.fresh:
            state[name] = make(value)
        size = configuration.connection_id_length
        noise = os.urandom(2 * size + TOKEN)
        cid = noise[:size]
        self._host_cids = [QuicConnectionId(cid, 0, noise[2 * size :], was_sent=True)]
        self.host_cid = self._local_initial_source_connection_id = cid
        self._peer_cid = QuicConnectionId(noise[size : 2 * size], None)  # type: ignore[arg-type]
        self._original_destination_connection_id = original_cid
        self._local_max_streams_bidi = Limit(QuicFrameType.MAX_STREAMS_BIDI, "max_streams_bidi", 0)
        self._local_max_streams_uni = Limit(QuicFrameType.MAX_STREAMS_UNI, "max_streams_uni", 0)
        self._logger = (
            QuicConnectionAdapter(logger, {"id": original_cid.hex()})
            if logger.isEnabledFor(logging.INFO)
            else QuietLogger(original_cid)  # type: ignore[assignment]
        )
        self._loss = QuicPacketRecovery(
            congestion_control_algorithm=configuration.congestion_control_algorithm,
            initial_rtt=configuration.initial_rtt,
            max_datagram_size=self._max_datagram_size,
            peer_completed_address_validation=True,
            quic_logger=None,
            send_probe=self._send_probe,
            logger=self._logger,
        )
        self._local_active_connection_id_limit = CONNECTION_IDS

    def _initialize(self, peer_cid: bytes) -> None:
        if self._is_client or self._quic_logger is not None:
            super()._initialize(peer_cid)
            return
        configuration = self._configuration
        context = ServerContext(
            alpns=configuration.alpn_protocols,
            cipher_suites=configuration.cipher_suites,
        )
        self.tls = context
        context.choose = self._credentials or self._only_credentials
        context.handshake_extensions = [
            (int(tls.ExtensionType.QUIC_TRANSPORT_PARAMETERS), self._serialize_transport_parameters())
        ]
        context.alpn_cb = self._alpn_handler
        context.update_traffic_key_cb = self._update_traffic_key
        initial, handshake, one_rtt = tls.Epoch.INITIAL, tls.Epoch.HANDSHAKE, tls.Epoch.ONE_RTT
        self._spaces = {
            initial: QuicPacketSpace(),
            handshake: QuicPacketSpace(),
            one_rtt: QuicPacketSpace(is_application_data=True),
        }
        self._loss.spaces = list(self._spaces.values())
        self._cryptos_initial = InitialKeys(peer_cid, self._spaces[initial])
        pair = self._make_pair()
        make_lean(pair)
        pair.space = self._spaces[one_rtt]
        assert self._version is not None
        self._cryptos = {
            initial: self._cryptos_initial[self._version],
            tls.Epoch.ZERO_RTT: _GONE,
            handshake: LeanPair(),
            one_rtt: pair,
        }
        self._crypto_buffers = {
            initial: Buffer(capacity=CRYPTO_BUFFER_SIZE),
            handshake: Buffer(capacity=CRYPTO_BUFFER_SIZE),
        }
        self._crypto_buffers[one_rtt] = self._crypto_buffers[handshake]  # always empty: no tickets
        self._crypto_streams = {initial: QuicStream(), handshake: QuicStream(), one_rtt: QuicStream()}

    def _only_credentials(self, server_name: str | None) -> Credentials:  # noqa: ARG002 - as a selector
        return self._credentials_in(self._configuration)

    @staticmethod
    def _credentials_in(configuration: QuicConfiguration) -> Credentials:
        assert configuration.certificate is not None
        return Credentials(
            configuration.certificate, tuple(configuration.certificate_chain), configuration.private_key
        )

    def _serialize_transport_parameters(self) -> bytes:
        if self._is_client or self._quic_logger is not None:
            return super()._serialize_transport_parameters()
        limits = self._local_max_streams_bidi, self._local_max_streams_uni
        key = (self._version, *(limit.value for limit in limits))
        shared = self._blueprint.parameters.get(key)
        if shared is None:
            parameters = pull_quic_transport_parameters(
                Buffer(data=super()._serialize_transport_parameters())
            )
            parameters.original_destination_connection_id = None
            parameters.retry_source_connection_id = None
            parameters.initial_source_connection_id = None
            parameters.stateless_reset_token = None
            buffer = Buffer(capacity=2 * CRYPTO_BUFFER_SIZE)
            push_quic_transport_parameters(buffer, parameters)
            shared = self._blueprint.parameters[key] = buffer.data
        original, ours = self._original_destination_connection_id, self._local_initial_source_connection_id
        token = self._host_cids[0].stateless_reset_token
        assert token is not None
        retried = self._retry_source_connection_id
        # RFC 9000, 18.2
        return b"".join(
            (
                b"\x00" + bytes((len(original),)) + original,
                b"" if retried is None else b"\x10" + bytes((len(retried),)) + retried,
                b"\x0f" + bytes((len(ours),)) + ours,
                b"\x02" + bytes((len(token),)) + token,
                shared,
            )
        )

    def _replenish_connection_ids(self) -> None:
        wanted = min(CONNECTION_IDS, self._remote_active_connection_id_limit) - len(self._host_cids)
        if wanted <= 0:
            return
        size = self._configuration.connection_id_length
        noise = os.urandom(wanted * (size + TOKEN))
        for start in range(0, len(noise), size + TOKEN):
            middle = start + size
            self._host_cids.append(
                QuicConnectionId(noise[start:middle], self._host_cid_seq, noise[middle : middle + TOKEN])
            )
            self._host_cid_seq += 1

    def _handle_padding_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        """As aioquic's, which counts the thousand padding bytes of an Initial one by one."""
        at = buf.tell()
        if self._quic_logger is None:
            rest = buf.data_slice(at, buf.capacity)
            buf.seek(at + len(rest) - len(rest.lstrip(b"\0")))
        else:
            super()._handle_padding_frame(context, frame_type, buf)

    def _forget_handshake(self) -> None:
        """Free handshake state. Later handshake packets are unreadable."""
        if self._is_client or not self._crypto_buffers:
            return
        one_rtt = tls.Epoch.ONE_RTT
        space = self._spaces[one_rtt]
        self.tls = _FINISHED  # type: ignore[assignment]
        self._cryptos_initial = _NO_KEYS
        self._cryptos = Discarded({one_rtt: self._cryptos[one_rtt]})
        self._crypto_buffers = {}
        self._crypto_streams = {one_rtt: self._crypto_streams[one_rtt]}
        self._spaces = Spaces({one_rtt: space})
        self._loss.spaces = [space]


class Spaces(dict[tls.Epoch, QuicPacketSpace]):
    """The remaining packet number spaces; discarded ones are read-only dummies."""

    def __missing__(self, epoch: tls.Epoch) -> QuicPacketSpace:
        return _NO_SPACE


_NO_SPACE = QuicPacketSpace()
_NO_SPACE.discarded = True
