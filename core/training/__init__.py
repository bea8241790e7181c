"""Training: losses, optimizers, schedules, the loop, its state and the session around it."""
