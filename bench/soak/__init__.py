"""The soak: sessions of every kind come and go for a long time, and the relay must be afterwards what it was before.

`__main__.py` is the command, `crowd.py` and `guests.py` the load, in processes of their own; `line.py` is what cuts
sessions off; `samples.py` reads the relay once a second, `verdict.py` does the arithmetic.
"""
