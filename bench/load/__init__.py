"""The load: native moq-rs clients, in processes of their own that `bench.runner` starts and talks to in lines of JSON.

Runs in an environment with moq-rs and nothing else, so it imports the standard library, `moq` and itself.
"""
