"""Bytes to messages and back, for every version of the protocol; no I/O, no clock, no state of a session.

In every message class `encode` returns the whole message (type where it has one, length, body), or raises
ValueError for values that do not fit. `decode` reads the body alone, and raises WireError; its caller checks
that nothing is left.
"""
