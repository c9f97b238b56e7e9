"""All techniques of the package: importing them registers them."""

from memloc_jax.localisation import (
  ablation,
  accounting,
  baselines,
  centroids,
  gradients,
  probing,
  retraining,
  rewinding,
  swapping,
)
from memloc_jax.localisation.technique import TECHNIQUES

__all__ = (
  'TECHNIQUES',
  'ablation',
  'accounting',
  'baselines',
  'centroids',
  'gradients',
  'probing',
  'retraining',
  'rewinding',
  'swapping',
)
