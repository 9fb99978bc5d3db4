"""Encoders: an image to maps of features."""
