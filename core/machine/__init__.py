"""The machine: devices, their readings, the ranks of a distributed training, and processes."""
