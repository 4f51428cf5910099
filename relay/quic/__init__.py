"""QUIC: our connection after the handshake, its endpoint, and the hand-over from aioquic."""
