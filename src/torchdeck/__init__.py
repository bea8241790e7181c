"""The terminal workbench for people who train PyTorch models."""

__version__ = "0.1.0"
