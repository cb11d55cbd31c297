"""Frozen codecs: text, pixels and waveform to latents and back."""
