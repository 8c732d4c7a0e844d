"""Accuracy under a grid of drift levels, and the statistics of the results."""
