"""A whole study with Ray Tune."""
