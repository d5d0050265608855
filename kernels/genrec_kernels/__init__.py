"""GPU kernels of HSTU and their plain PyTorch twins."""
