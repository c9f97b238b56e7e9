"""Trivial baselines: what a technique must beat to be of any use."""

import jax
import numpy as np

from memloc_jax.localisation import technique
from memloc_jax.models.interface import Tree


def block_distance(first: Tree, second: Tree) -> np.ndarray:
  """Euclidean distance between two models' parameters, block by block.

  Args:
    first: blocks, leaves [layer, ...].
    second: blocks of another model.

  Returns:
    float64 [L].
  """
  squares = jax.tree.map(
    lambda x, y: (
      np.square(np.subtract(x, y, dtype=np.float64)).reshape(len(x), -1).sum(1)
    ),
    first,
    second,
  )
  return np.sqrt(sum(jax.tree.leaves(squares)))


def _findings(rows: list[np.ndarray]) -> technique.Findings:
  return technique.Findings({'': technique.LayerScores(np.stack(rows))})


@technique.register_technique('difference_norm', baseline=True)
def difference_norm(
  source: technique.Source, config: None, report: technique.Report
) -> technique.Findings:
  """Distance between the noisy and the clean model."""
  del config, report
  return _findings(
    [
      block_distance(s.noisy.load()['blocks'], s.clean.load()['blocks'])
      for s in source.subjects
    ]
  )


@technique.register_technique('pretrained_distance', baseline=True)
def pretrained_distance(
  source: technique.Source, config: None, report: technique.Report
) -> technique.Findings:
  """Distance between the noisy model and the pretrained weights."""
  del config, report
  start = source.pretrained['blocks']
  return _findings(
    [block_distance(s.noisy.load()['blocks'], start) for s in source.subjects]
  )


@technique.register_technique('constant', baseline=True)
def constant(
  source: technique.Source, config: None, report: technique.Report
) -> technique.Findings:
  """The same for every layer: a guess."""
  del config, report
  return _findings([np.ones(source.model.num_layers) for _ in source.subjects])
