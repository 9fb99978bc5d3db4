"""Losses: sums over what counts, divided by its number in the global batch by the caller."""
