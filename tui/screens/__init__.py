"""Screens: each owns what happens on it."""
