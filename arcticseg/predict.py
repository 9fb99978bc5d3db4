"""Products of charts that a program of one's own has drawn, for use from Python."""

from arcticseg.products.geotiff import write_geotiff

__all__ = ["write_geotiff"]
