"""Bytes to messages and back, for every version of the protocol; no I/O, no clock, no state of a session.

Owns: the wire format. Must never: import anything but the standard library and `relay.paths`. Called by: transports,
`relay.moq`, tests. Read it in this order: `version` and `errors` (the vocabulary), `announce`, `subscribe`, `control`
and `setup` (one class per message), `decoder` (slices in, messages out), `frame` (live data), `webtransport`.

In every message class `encode` returns a message as it stands on the stream (type where it has one, length, body), or
raises ValueError for what cannot be written. `decode` reads the body alone and raises WireError for what cannot be
read; its caller checks that nothing is left of the body.
"""
