"""The load: native moq-rs clients, in processes that `bench.runner` starts and controls by lines of JSON.

Their environment has moq-rs only: imports are the standard library, `moq` and this package.
"""
