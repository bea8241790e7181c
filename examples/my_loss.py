"""A loss of your own: a function or an nn.Module of (logits, targets) that gives one number.

torchdeck --batch --set loss.name=examples/my_loss.py:focal_loss --set loss.args.gamma=1.5
"""

import torch.nn.functional as F
from torch import Tensor


def focal_loss(logits: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """Cross entropy that looks away from what is already right (Lin et al. 2017, arxiv.org/abs/1708.02002)."""
    log_p = F.log_softmax(logits, 1).gather(1, targets[:, None]).squeeze(1)
    return -((1 - log_p.exp()) ** gamma * log_p).mean()
