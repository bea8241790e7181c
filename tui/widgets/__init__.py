"""Widgets: each shows one thing, and owns the keys for it."""
