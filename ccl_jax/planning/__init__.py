"""Compiles programs for machines that may be absent, and reports on them."""
