"""The load: native moq-rs clients, in processes that `bench.runner` starts and controls by lines of JSON.

Runs in an environment with moq-rs only, so it imports the standard library, `moq` and itself.
"""
