"""Checkpoints: written whole, read without running anything."""
