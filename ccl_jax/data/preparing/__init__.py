"""Examines media before they are encoded: shots, black bars, loudness, offsets."""
