"""The run directory: written, listed, recorded. Reading it imports no torch."""
