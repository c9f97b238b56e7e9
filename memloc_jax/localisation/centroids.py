"""Centroid analysis: where between two classes noisy examples lie, by layer.

Section 4 of Dankers & Titov (2024). For a noisy example with original class B
and given class A, t = 0 at the centroid of A's clean examples and t = 1 at
that of B's. One forward pass gives all layers and all pairs of classes.
"""

from typing import Any

import jax
import numpy as np

from memloc_jax.localisation import events, representations, technique
from memloc_jax.models.interface import Tree

# The noisy model as it is, and with half of its blocks from the clean one.
WHOLE = 'noisy'
SETUPS = (WHOLE, 'clean_bottom', 'clean_top')
_PERCENTILES = (12.5, 50, 87.5)
# Of two centroids' mean square, what their squared distance must exceed. States
# are float32, whose rounding alone gives about 1e-14.
_APART = 1e-12


def mixed_blocks(setup: str, noisy: Tree, clean: Tree) -> Tree:
  """The noisy model's blocks, with its lower or upper half from the clean.

  Args:
    setup: 'noisy' for none, 'clean_bottom' or 'clean_top'.
    noisy: blocks, leaves [layer, ...].
    clean: those of the clean model.
  """
  layers = len(jax.tree.leaves(noisy)[0])
  from_clean = {
    'noisy': np.zeros(layers, bool),
    'clean_bottom': np.arange(layers) < layers // 2,
    'clean_top': np.arange(layers) >= layers // 2,
  }[setup]

  def mix(x, y):
    return np.where(from_clean.reshape(-1, *(1,) * (x.ndim - 1)), y, x)

  return jax.tree.map(mix, noisy, clean)


def positions(
  states: np.ndarray, given: np.ndarray, original: np.ndarray, classes: int
) -> dict[tuple[int, int], dict[str, np.ndarray]]:
  """Coordinates between the centroids of every ordered pair of classes.

  t(x) = (x - m_A) . (m_B - m_A) / |m_B - m_A|^2, from inner products with the
  class centroids in float64. Classes without clean examples have no centroid
  and are left out.

  Args:
    states: [L + 1, n, width].
    given: given labels, int [n].
    original: original labels, int [n].
    classes: number of them.

  Returns:
    (A, B) -> group -> t, [L + 1, members]: 'given', clean examples of A;
    'original', clean ones of B; 'noisy', those moved from B to A. NaN where
    the centroids are the same.
  """
  clean = given == original
  counts = np.bincount(given[clean], minlength=classes)
  there = np.flatnonzero(counts)
  one_hot = np.eye(classes)[given] * clean[:, None] / np.maximum(1, counts)
  products, squares, distances = [], [], []
  for layer in states:
    layer = layer.astype(np.float64)
    centroids = one_hot.T @ layer
    products.append(layer @ centroids.T)
    squares.append(centroids @ centroids.T)
    # From `gram`, equal centroids would cancel to rounding and not to zero.
    distances.append([np.square(centroids - each).sum(1) for each in centroids])
  inner, gram = np.stack(products), np.stack(squares)
  apart = np.array(distances)
  result = {}
  for a in there.tolist():
    for b in there.tolist():
      if a == b:
        continue
      along = inner[:, :, b] - inner[:, :, a]
      start = gram[:, a, b] - gram[:, a, a]
      # Classes with the same centroid, as where all texts begin alike.
      least = _APART * (gram[:, a, a] + gram[:, b, b])
      length = np.where(apart[:, a, b] > least, apart[:, a, b], np.nan)
      t = (along - start[:, None]) / length[:, None]
      result[a, b] = {
        'given': t[:, clean & (given == a)],
        'original': t[:, clean & (given == b)],
        'noisy': t[:, (given == a) & (original == b)],
      }
  return result


def pooled(
  pairs: dict[tuple[int, int], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
  """All pairs' coordinates together, each point counting once.

  Args:
    pairs: by classes, the coordinates of each group, [layer, points].

  Returns:
    Of each group, [layer, points of all pairs].
  """
  names = next(iter(pairs.values()))
  return {
    name: np.concatenate([groups[name] for groups in pairs.values()], axis=1)
    for name in names
  }


def _rows(
  setup: str, seed: int, names: tuple[str, str], found: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
  rows = []
  for group, t in found.items():
    if not t.shape[1]:
      continue
    low, median, high = np.percentile(t, _PERCENTILES, axis=1)
    rows += [
      {
        'setup': setup,
        'seed': seed,
        'given': names[0],
        'original': names[1],
        'layer': layer,
        'group': group,
        'count': t.shape[1],
        'mean': t[layer].mean(),
        'low': low[layer],
        'median': median[layer],
        'high': high[layer],
      }
      for layer in range(len(t))
    ]
  return rows


@technique.register_technique('centroids')
def centroids(
  source: technique.Source, config: None, report: technique.Report
) -> technique.Findings:
  """Coordinates and events; no weights of layers."""
  names, rows, found, notes = source.label_names, [], [], []
  jobs = len(SETUPS) * len(source.subjects)
  for number, subject in enumerate(source.subjects):
    noisy, clean = subject.noisy.load(), subject.clean.load()
    moved = subject.mislabelled
    missing = len(names) - len(np.unique(subject.given[~moved]))
    if missing:
      notes.append(
        f'{missing} of {len(names)} classes have no clean examples and are '
        'left out.'
      )
    if missing > len(names) - 2:
      continue  # There is no pair.
    for label, name in enumerate(names):
      touched = (subject.given == label) | (subject.original == label)
      if not (touched & moved).any():
        notes.append(f'class {name!r} has no noisy examples.')
    for step, setup in enumerate(SETUPS):
      job = number * len(SETUPS) + step
      blocks = mixed_blocks(setup, noisy['blocks'], clean['blocks'])
      states = representations.extract(
        source.model,
        noisy | {'blocks': blocks},
        source.examples,
        source.batch_size,
        progress=technique.within(report, job, jobs),
      )
      pairs = positions(states, subject.given, subject.original, len(names))
      for (a, b), groups in pairs.items():
        rows += _rows(setup, subject.seed, (names[a], names[b]), groups)
      together = pooled(pairs)
      rows += _rows(setup, subject.seed, ('all', 'all'), together)
      upper = np.percentile(together['given'], _PERCENTILES[-1], axis=1)
      lower = np.percentile(together['original'], _PERCENTILES[0], axis=1)
      happened = {
        'crossing': float('nan'),
        'initiation': events.initiation(upper, lower),
      }
      if together['noisy'].shape[1]:
        happened['crossing'] = events.crossing(together['noisy'].mean(1))
      found += [
        {
          'event': event,
          'setup': setup,
          'seed': subject.seed,
          'layer': layer,
          'occurred': not np.isnan(layer),
        }
        for event, layer in happened.items()
      ]
  tables = {'centroids': rows, 'events': found} if rows else {}
  return technique.Findings({}, tables, tuple(dict.fromkeys(notes)))
