"""Decoders: the maps of an encoder to one map of features."""
