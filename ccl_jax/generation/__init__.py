"""From a checkpoint and a prompt to clips."""
