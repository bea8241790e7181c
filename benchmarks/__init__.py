"""Ratios against the tutorial loop, the physical limit and Lightning; each within one run, for machines are noisy."""
