"""IETF moq-transport: bytes to messages and back, for drafts 14, 16, 18 to 22; no I/O, no clock, no state of a session.

`profile` is the only file that names drafts: all else asks the switches of a `DraftProfile`.

Encoders raise ValueError for what does not fit, or what the draft lacks: our fault. Decoders raise WireError
alone.
"""
