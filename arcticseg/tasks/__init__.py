"""What a network is trained to do: a batch in, a loss and its parts out."""
