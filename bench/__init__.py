"""Benchmarks of the relay. `python -m bench --help`; docs/performance.md tells the method.

`__main__.py` is the command, `runner.py` starts relays and the load on them, `load/` and `peer_relay.py` run in the
environment that has the native clients and import nothing of the relay. `micro/` times single steps in memory, `soak/`
lets sessions come and go for hours.
"""
