"""Scene files, one reader a format."""
