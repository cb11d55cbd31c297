"""Batches of latents, under the name that programs of earlier versions import."""

from ccl_jax.data.sets.batches import LatentBatches

__all__ = ["LatentBatches"]
