"""Checkpoints of every kind: a run's, converted weights', slice by slice."""
