"""Training: data in, phases of epochs, checkpoints."""
