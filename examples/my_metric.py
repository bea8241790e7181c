"""A metric of your own: a function of (logits, targets), averaged over the samples; or an Ignite Metric class.

torchdeck --batch --set 'tracking.metrics=["examples/my_metric.py:confidence"]'
"""

from torch import Tensor


def confidence(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean probability of the predicted class."""
    return logits.softmax(1).amax(1).mean()
