"""The domain: scenes, charts, grids and scores, in numpy and xarray; no torch."""
