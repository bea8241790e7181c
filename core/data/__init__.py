"""Data: sources, transforms, splits and batches."""
