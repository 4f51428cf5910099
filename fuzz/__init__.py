"""Fuzzing of everything in the relay that reads bytes of a peer or an operator: `python -m fuzz`.

`targets/` are run, `corpus/` has one file per target, which `tests/fuzz` replays.
"""
