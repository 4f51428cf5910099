"""IETF moq-transport: bytes to messages and back, for drafts 14, 16, 18 to 22; no I/O, no clock, no state of a session.

`profile` is the only file that names drafts: a `DraftProfile` is a row of switches, and all else asks it. `values`,
`parameters`, `messages` and `data` are the vocabulary, the same for all drafts; `control` writes and reads messages,
`streams` and `decoder` objects. `codes` has the error tables.

Encoders raise ValueError for what does not fit, or what the draft lacks: our fault. Decoders raise WireError alone.
"""
