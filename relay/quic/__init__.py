"""QUIC: our connection after the handshake, its endpoint, congestion control, and the hand-over from aioquic."""
