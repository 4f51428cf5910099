"""HTTP beside QUIC."""
