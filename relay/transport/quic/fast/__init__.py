"""The fast path: short packets of a connection in pure Python, everything unusual in aioquic's own methods."""
