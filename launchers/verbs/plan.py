"""Placeholder."""
def add_arguments(parser): pass
