"""Decodes media files to pictures and sound."""
