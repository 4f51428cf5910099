"""QUIC: endpoint, connections, streams, certificates. `compat.py` and `fast/` use private names of aioquic."""
