"""Kinds of sessions; `session.py` defines the interface."""
