"""What the hot cache does on a GPU, measured."""
