"""QUIC: endpoint, connections, streams, certificates. Only `compat.py` reaches into aioquic."""
