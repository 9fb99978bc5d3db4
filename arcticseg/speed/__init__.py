"""How fast a training is, what bounds it, and how fast and large it will be elsewhere."""
