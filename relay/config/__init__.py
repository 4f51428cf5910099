"""The relay's configuration: one frozen model per TOML table, and how it is put together.

The command line calls `load`; programs that embed the relay build a `Config`:

    Config(server=Server(listen=Address("::", 4443), tls=ServerTls(generate=("localhost",))), auth=Auth(public=""))
"""

from relay.config.address import Address
from relay.config.load import load
from relay.config.root import Root
from relay.config.sources import ConfigError
from relay.config.tables import (
    Auth,
    Client,
    ClientTls,
    Cluster,
    Config,
    Http,
    Https,
    Internal,
    Log,
    Public,
    Server,
    ServerTls,
    Web,
)
from relay.model.limits import Limits
from relay.quic.settings import QuicSettings
from relay.wire.version import Draft, Version

__all__ = [
    "Address",
    "Auth",
    "Client",
    "ClientTls",
    "Cluster",
    "Config",
    "ConfigError",
    "Draft",
    "Http",
    "Https",
    "Internal",
    "Limits",
    "Log",
    "Public",
    "QuicSettings",
    "Root",
    "Server",
    "ServerTls",
    "Version",
    "Web",
    "load",
]
