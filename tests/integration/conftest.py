"""Tests that run the commands; the fixtures that they share with others are in tests/conftest.py."""
