"""Models: our nets, torchvision's, the user's own; weights; the summary tree."""
