"""Scene files: a reader for each format."""
