"""Media to sets of latents."""
