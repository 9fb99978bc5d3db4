"""What a person or a cluster starts."""
