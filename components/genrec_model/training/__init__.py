"""Training of HSTU: windows of histories, two objectives, checkpoints."""
