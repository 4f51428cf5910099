"""The soak: sessions of every kind for a long time; afterwards the relay must be as before.

`__main__.py` is the command, `crowd.py` and `guests.py` the load in processes of their own, `line.py` their bad
networks; `samples.py` reads the relay once a second, `verdict.py` evaluates.
"""
