"""Weights from elsewhere, and for elsewhere."""
