"""Mixtures of sets, under the name that programs of earlier versions import."""

from ccl_jax.data.sets.mixture import Mixture, open_mixture

__all__ = ["Mixture", "open_mixture"]
