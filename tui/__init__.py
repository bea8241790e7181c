"""The terminal of torchdeck."""
