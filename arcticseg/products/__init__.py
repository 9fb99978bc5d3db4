"""From a scene and a network to files that an analyst can use."""
