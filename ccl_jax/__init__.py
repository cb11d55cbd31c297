"""Joint audio-video diffusion transformers with Cross-Modal Context Learning."""

__version__ = "0.1.0"
