"""A run: its config, its folder, its parts."""
