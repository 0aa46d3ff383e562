"""Log metrics and lifecycle events of a training run; nothing here ever hurts the training."""
