"""Train step, loop, optimizers, parallel strategies, checkpoints, metrics."""
