"""The engine of torchdeck. It knows nothing of the screen, and imports torch only when asked to train."""
