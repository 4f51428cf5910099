"""The version of this distribution."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("moq-relay")
except PackageNotFoundError:  # a source tree that is not installed
    VERSION = "0"
