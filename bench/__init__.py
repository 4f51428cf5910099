"""Benchmarks of the relay. `python -m bench --help`; docs/performance.md describes the method.

`__main__.py` is the command, `runner.py` starts relays and their load, `load/` and `peer_relay.py` run in the
environment of the native clients, without the relay. `micro/` times single steps in memory, `soak/` runs sessions for
hours.
"""
