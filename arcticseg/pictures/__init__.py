"""Pictures and pages: maps, tiles, curves, the report."""
