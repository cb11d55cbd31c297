"""The feature networks of the metrics."""
