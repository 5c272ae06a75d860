"""What the benchmark commands share: their form, clocks, a training step, and the same step in plain PyTorch."""
