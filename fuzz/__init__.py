"""Fuzzing of everything in the relay that reads bytes of a peer or an operator.

Owns the targets (`targets/`), the corpus (`corpus/`, one file per target) and the runner: `python -m fuzz`.
Must never be imported by the relay. `tests/fuzz` replays the corpus.
"""
