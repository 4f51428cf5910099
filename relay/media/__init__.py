"""Media for the commands: the hang catalog, its containers, and files and devices by PyAV (extra `media`).

`av` is imported by `library.py` only when a command needs it: a relay runs without it.
"""
