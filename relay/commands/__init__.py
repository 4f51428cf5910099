"""Commands beside the relay itself: modules with `main`."""
