"""Transport error codes and frame types (RFC 9000, 19 and 20)."""

from __future__ import annotations

from typing import Final

NO_ERROR: Final = 0x0
INTERNAL_ERROR: Final = 0x1
CONNECTION_REFUSED: Final = 0x2
FLOW_CONTROL_ERROR: Final = 0x3
STREAM_LIMIT_ERROR: Final = 0x4
STREAM_STATE_ERROR: Final = 0x5
FINAL_SIZE_ERROR: Final = 0x6
FRAME_ENCODING_ERROR: Final = 0x7
TRANSPORT_PARAMETER_ERROR: Final = 0x8
CONNECTION_ID_LIMIT_ERROR: Final = 0x9
PROTOCOL_VIOLATION: Final = 0xA
APPLICATION_ERROR: Final = 0xC
CRYPTO_BUFFER_EXCEEDED: Final = 0xD
KEY_UPDATE_ERROR: Final = 0xE
AEAD_LIMIT_REACHED: Final = 0xF
CRYPTO_ERROR: Final = 0x100  # and the number of a TLS alert
UNEXPECTED_MESSAGE: Final = CRYPTO_ERROR + 10

PADDING: Final = 0x00
PING: Final = 0x01
ACK: Final = 0x02
ACK_ECN: Final = 0x03
RESET_STREAM: Final = 0x04
STOP_SENDING: Final = 0x05
CRYPTO: Final = 0x06
NEW_TOKEN: Final = 0x07
STREAM: Final = 0x08  # to 0x0f, with these bits
STREAM_FIN: Final = 0x01
STREAM_LENGTH: Final = 0x02
STREAM_OFFSET: Final = 0x04
MAX_DATA: Final = 0x10
MAX_STREAM_DATA: Final = 0x11
MAX_STREAMS_BIDI: Final = 0x12
MAX_STREAMS_UNI: Final = 0x13
DATA_BLOCKED: Final = 0x14
STREAM_DATA_BLOCKED: Final = 0x15
STREAMS_BLOCKED_BIDI: Final = 0x16
STREAMS_BLOCKED_UNI: Final = 0x17
NEW_CONNECTION_ID: Final = 0x18
RETIRE_CONNECTION_ID: Final = 0x19
PATH_CHALLENGE: Final = 0x1A
PATH_RESPONSE: Final = 0x1B
TRANSPORT_CLOSE: Final = 0x1C
APPLICATION_CLOSE: Final = 0x1D
HANDSHAKE_DONE: Final = 0x1E
DATAGRAM: Final = 0x30  # and 0x31, with a length (RFC 9221)
IMMEDIATE_ACK: Final = 0x1F  # draft-ietf-quic-ack-frequency
ACK_FREQUENCY: Final = 0xAF  # draft-ietf-quic-ack-frequency


class QuicError(Exception):
    """A violation by the peer, or a limit of ours: the connection closes with `code`."""

    def __init__(self, code: int, frame_type: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.frame_type = frame_type  # 0 if no frame caused it
        self.reason = reason
