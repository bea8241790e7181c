"""A run in this process: the thread that trains it, and everything that listens to it."""
