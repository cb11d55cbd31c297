"""Folders in buckets: their paths, their locks, and local copies of their files."""
