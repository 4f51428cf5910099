"""The server's TLS 1.3 handshake (RFC 8446), without what aioquic repeats for every connection.

Owns the answer to a ClientHello: parameters, key exchange, messages up to Finished; a certificate message is
built once. Must never accept a pre-shared key or early data: no tickets are issued. aioquic parses the
client's Finished and everything unusual.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from aioquic import tls
from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.tls import Direction, Epoch, Group
from cryptography.hazmat.primitives.asymmetric import ec, x448, x25519
from cryptography.hazmat.primitives.serialization import Encoding

from relay.transport.quic.compat import Credentials
from relay.transport.quic.fast.client_hello import read_client_hello
from relay.transport.quic.fast.secrets import SUITES

_VERIFY_PREFIX = b" " * 64 + tls.SERVER_CONTEXT_STRING + b"\x00"

_SUPPORTED_VERSIONS = b"\x00\x2b\x00\x02\x03\x04"  # extension supported_versions: TLS 1.3
_FINISHED = bytes((tls.HandshakeType.FINISHED,))


def _block(size: int, data: bytes) -> bytes:
    """Prefix `data` with its length in `size` bytes."""
    return len(data).to_bytes(size, "big") + data


def _message(kind: tls.HandshakeType, body: bytes) -> bytes:
    return bytes((kind,)) + _block(3, body)


class Identity:
    """A certificate with its chain and key, encoded for sending."""

    __slots__ = ("algorithms", "message", "sign")

    def __init__(self, credentials: Credentials) -> None:
        chain = (credentials.certificate, *credentials.chain)
        entries = b"".join(_block(3, each.public_bytes(Encoding.DER)) + b"\x00\x00" for each in chain)
        self.message = _message(tls.HandshakeType.CERTIFICATE, b"\x00" + _block(3, entries))
        asked = tls.Context(is_client=False)
        asked.certificate_private_key = credentials.key
        self.algorithms = {
            int(each): tls.signature_algorithm_params(each)
            for each in asked._signature_algorithms_for_private_key()
        }
        """Signature algorithms for the key, the preferred first, with their signing parameters."""
        self.sign: Callable[..., bytes] = credentials.key.sign


def identity_of(credentials: Credentials) -> Identity:
    """The identity of `credentials`, cached as long as they live: until certificates are reloaded."""
    found = credentials.ready
    if found is None:
        found = credentials.ready = Identity(credentials)
    assert isinstance(found, Identity)
    return found


class Schedule:
    """The part of the key schedule that the client's Finished needs."""

    __slots__ = ("cipher_suite",)

    def __init__(self, cipher_suite: tls.CipherSuite) -> None:
        self.cipher_suite = cipher_suite


_MODEL = vars(tls.Context(is_client=False))


class ServerContext(tls.Context):
    """aioquic's server TLS context, with an own answer to the ClientHello."""

    def __init__(self, *, alpns: list[str] | None, cipher_suites: list[Any] | None) -> None:
        # Lists are replaced, never changed, except the keys of a curve, which are not kept here.
        self.__dict__.update(_MODEL)
        self._alpn_protocols = alpns
        if cipher_suites is not None:
            self._cipher_suites = cipher_suites
        self.offered: tuple[str, ...] = ()  # the client's ALPN protocols
        self.choose: Callable[[str | None], Credentials]  # chooses the certificate for a server name

    def _server_handle_hello(self, input_buf: Buffer, initial_buf: Buffer, handshake_buf: Buffer) -> None:
        message = input_buf.data_slice(0, input_buf.capacity)
        hello = read_client_hello(message)
        if hello is None:
            hello = tls.pull_client_hello(input_buf)
        else:
            input_buf.seek(len(message))
        identity = identity_of(self.choose(hello.server_name))

        # Choices in aioquic's order, so that alerts are the same.
        cipher_suite = tls.negotiate(
            self._cipher_suites,
            hello.cipher_suites,
            tls.AlertHandshakeFailure("No supported cipher suite"),
        )
        compression = tls.negotiate(
            self._legacy_compression_methods,
            hello.legacy_compression_methods,
            tls.AlertHandshakeFailure("No supported compression method"),
        )
        algorithm = tls.negotiate(
            list(identity.algorithms),
            hello.signature_algorithms,
            tls.AlertHandshakeFailure("No supported signature algorithm"),
        )
        tls.negotiate(
            self._supported_versions,
            hello.supported_versions,
            tls.AlertProtocolVersion("No supported protocol version"),
        )
        if hello.key_share is None:
            raise tls.AlertMissingExtension("ClientHello has no key share")
        if self._alpn_protocols is not None:
            self.offered = tuple(hello.alpn_protocols or ())
            self.alpn_negotiated = tls.negotiate(
                self._alpn_protocols,
                hello.alpn_protocols,
                tls.AlertNoApplicationProtocol("No common ALPN protocols"),
            )
        self.client_random = hello.random
        self.legacy_session_id = hello.legacy_session_id
        self.received_extensions = hello.other_extensions
        if self.alpn_cb is not None:
            assert self.alpn_negotiated is not None
            self.alpn_cb(self.alpn_negotiated)
        share, shared = self._exchange(hello.key_share)

        suite = SUITES[cipher_suite]
        self.key_schedule = Schedule(cipher_suite)  # type: ignore[assignment]
        derive = suite.derive
        transcript = suite.hash(message)

        # ServerHello
        body = b"".join(
            (
                b"\x03\x03",
                os.urandom(32),
                _block(1, hello.legacy_session_id),
                int(cipher_suite).to_bytes(2, "big"),
                bytes((compression,)),
                _block(2, _SUPPORTED_VERSIONS + b"\x00\x33" + _block(2, share)),
            )
        )
        message = _message(tls.HandshakeType.SERVER_HELLO, body)
        initial_buf.push_bytes(message)
        transcript.update(message)
        secret = suite.expand(suite.derived, shared)
        digest = transcript.digest()
        ours = derive(secret, b"s hs traffic", digest)
        theirs = derive(secret, b"c hs traffic", digest)
        self.update_traffic_key_cb(Direction.ENCRYPT, Epoch.HANDSHAKE, cipher_suite, ours)
        self.update_traffic_key_cb(Direction.DECRYPT, Epoch.HANDSHAKE, cipher_suite, theirs)

        # EncryptedExtensions, Certificate, CertificateVerify, Finished
        extensions = []
        if self.alpn_negotiated is not None:
            name = _block(1, self.alpn_negotiated.encode("ascii"))
            extensions.append((int(tls.ExtensionType.ALPN), _block(2, name)))
        extensions += self.handshake_extensions
        body = b"".join(kind.to_bytes(2, "big") + _block(2, data) for kind, data in extensions)
        message = _message(tls.HandshakeType.ENCRYPTED_EXTENSIONS, _block(2, body)) + identity.message
        handshake_buf.push_bytes(message)
        transcript.update(message)
        signature = identity.sign(_VERIFY_PREFIX + transcript.digest(), *identity.algorithms[algorithm])
        body = int(algorithm).to_bytes(2, "big") + _block(2, signature)
        message = _message(tls.HandshakeType.CERTIFICATE_VERIFY, body)
        transcript.update(message)
        finished = suite.expand(ours, suite.finished_info)
        proof = _FINISHED + _block(3, suite.expand(finished, transcript.digest()))
        handshake_buf.push_bytes(message + proof)
        transcript.update(proof)

        # 1-RTT keys; the client's come into use with its Finished.
        secret = suite.expand(suite.expand(secret, suite.derived_info), bytes(suite.size))
        digest = transcript.digest()
        self._enc_key = derive(secret, b"s ap traffic", digest)
        self.update_traffic_key_cb(Direction.ENCRYPT, Epoch.ONE_RTT, cipher_suite, self._enc_key)
        self._next_dec_key = derive(secret, b"c ap traffic", digest)
        finished = suite.expand(theirs, suite.finished_info)
        self._expected_verify_data = suite.expand(finished, digest)
        self._set_state(tls.State.SERVER_EXPECT_FINISHED)

    def _exchange(self, shares: list[tuple[int, bytes]]) -> tuple[bytes, bytes]:
        """Our key share extension and the shared secret, for the first group that we support."""
        private: Any
        try:
            for group, data in shares:
                if group not in self._supported_groups:
                    continue
                if group == Group.X25519:
                    private = x25519.X25519PrivateKey.generate()
                    secret = private.exchange(x25519.X25519PublicKey.from_public_bytes(data))
                elif group == Group.X448:
                    private = x448.X448PrivateKey.generate()
                    secret = private.exchange(x448.X448PublicKey.from_public_bytes(data))
                else:
                    theirs = tls.decode_public_key((group, data))
                    assert isinstance(theirs, ec.EllipticCurvePublicKey)
                    private = ec.generate_private_key(tls.GROUP_TO_CURVE[group]())
                    secret = private.exchange(ec.ECDH(), theirs)
                kind, ours = tls.encode_public_key(private.public_key())
                return int(kind).to_bytes(2, "big") + _block(2, ours), secret
        except ValueError:
            raise tls.AlertIllegalParameter("ClientHello has an invalid key share") from None
        raise tls.AlertHandshakeFailure("No supported key share")


class FinishedContext:
    """Replaces the context of a finished handshake, which takes no more messages.

    QUIC forbids TLS key updates (RFC 9001, 6), and no client certificate is requested.
    """

    state = tls.State.SERVER_POST_HANDSHAKE
    _peer_certificate = None

    @staticmethod
    def handle_message(_data: bytes, _buffers: object) -> None:
        raise tls.AlertUnexpectedMessage
