"""The hand-over from aioquic to our own connection.

Uses private names of aioquic, see tests/quic/test_private_names.py.
"""

from __future__ import annotations

from relay.quic.handshake import Handshake
from relay.quic.start import PeerParameters, Start

__all__ = ["PeerParameters", "Start", "take_over"]


def take_over(handshake: Handshake) -> Start:
    """What our connection begins with. Only once `handshake.complete`; packets are in `handshake.early`."""
    host = handshake._host_cids[0]
    version, peer_cid = handshake._version, handshake._remote_initial_source_connection_id
    address = handshake.get_peer_address()
    assert handshake.receive_secret
    assert version is not None
    assert peer_cid is not None
    assert address is not None
    loss = handshake._loss
    measured = loss._rtt_initialized
    return Start(
        is_client=handshake.is_client,
        version=version,
        suite=handshake.suite,
        send_secret=handshake.send_secret,
        receive_secret=handshake.receive_secret,
        host_cid=host.cid,
        host_token=host.stateless_reset_token or b"",
        peer_cid=peer_cid,
        peer_token=handshake.peer.token,
        peer=handshake.peer,
        address=address,
        rtt=loss._rtt_smoothed if measured else 0.0,
        rtt_variance=loss._rtt_variance if measured else 0.0,
        rtt_min=loss._rtt_min if measured else 0.0,
        rtt_latest=loss._rtt_latest if measured else 0.0,
        packet_number=0,  # aioquic has sent no 1-RTT packet
    )
