"""moq-relay: a Media over QUIC relay."""
