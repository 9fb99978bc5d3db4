"""DeepSpeed engine, optimiser, schedule, trainer, checkpoints and hooks."""
