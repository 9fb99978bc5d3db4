"""The parts of the scene simulator: facts, geometry, ice, radiometry and the file. Numpy and scipy, no torch."""
