"""Programs compiled for machines that may be absent."""
