"""Random ensembles that tests of several estimators share."""

import numpy as np


def balanced(runs, n, seed=0):
  """Each example IN for half of the runs."""
  rng = np.random.default_rng(seed)
  return rng.random((runs, n)).argsort(axis=0) < runs // 2


def influences(membership, values):
  """Influence of training on evaluation examples, [n, m], the whole matrix.

  NaN rows without IN or without OUT runs.
  """
  sides = np.stack([membership, ~membership]).astype(float)
  runs = sides.sum(axis=1)[..., None]
  sums = np.einsum('skn,km->snm', sides, np.asarray(values, float))
  inside, outside = sums / np.where(runs > 0, runs, np.nan)
  return inside - outside


def remembering(runs, n, gap=1.0, seed=0):
  """Membership, and scaled logits that are higher by `gap` where IN."""
  rng = np.random.default_rng(seed)
  membership = balanced(runs, n, seed)
  scaled = rng.normal(0, 2, n) + rng.gamma(3, 0.3, n) * rng.normal(
    0, 1, (runs, n)
  )
  return membership, scaled + gap * membership
