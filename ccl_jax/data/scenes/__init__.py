"""Synthetic scenes whose sound and picture are synchronous exactly."""
