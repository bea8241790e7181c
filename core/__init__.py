"""The engine of torchdeck. It knows nothing of the screen, and imports torch only when asked to train."""

__version__ = "0.1.0"
