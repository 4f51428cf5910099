"""Bytes to messages and back, for every version of the protocol; no I/O, no clock, no state of a session.

Read it in this order: `version` and `errors` (the vocabulary), `announce`, `subscribe`, `control` and `setup`
(one class per message), `decoder` (slices in, messages out), `frame` (the path of live data), `webtransport`.

Owns: the wire format. Must never: import anything above it, or anything but the standard library. Called by:
transports, the sessions of `relay.moq` and tests.
"""
