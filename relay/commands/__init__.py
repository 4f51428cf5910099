"""Commands beside the relay itself. Each is a module with `main`."""
