"""Encodes media into sets of latents."""
