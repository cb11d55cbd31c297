"""Trains a mel VAE or a vocoder of one's own."""
