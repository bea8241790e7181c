"""From a batch to its loss and its figures, task by task."""
