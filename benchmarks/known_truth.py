"""Intervals, errors and tests on simulated studies whose truth is known.

Three questions that real ensembles cannot answer, because the truth must be
known or the chance must be tiny: what dependence between runs does to standard
errors and p-values, what intervals of few seeds cover, and how often the test
of thousands of runs rejects a true hypothesis at levels of 1e-5 and less.
"""

from typing import Any

import numpy as np
from scipy import special, stats

from memloc_jax.ensemble import membership
from memloc_jax.estimators import flagging, sides
from memloc_jax.study import comparison

# Examples that make up a run's quality, and the one that is looked at.
_EXAMPLES = 40
# Of a value that is right with these chances; they differ by the threshold.
_SEEN, _UNSEEN = 0.625, 0.375
_SEED = 0


def designs() -> dict[str, list[tuple[int, bool]]]:
  """Sizes of the blocks of a map, and whether a block is one of pairs."""
  return {
    '16 pairs': [(16, True)],
    'one block of 32': [(32, False)],
    '8 blocks of 4': [(4, False)] * 8,
    '4 blocks of 8': [(8, False)] * 4,
    '30 runs and 8 pairs': [(30, False), (8, True)],
    'independent subsets': [(1, False)] * 32,
  }


def _member(
  blocks: list[tuple[int, bool]], ratio: float, rng: np.random.Generator
) -> np.ndarray:
  """Whether runs see examples, bool [runs, examples]."""
  parts = []
  for size, paired in blocks:
    if size == 1:
      count = round(ratio * _EXAMPLES)
      parts.append(rng.random((1, _EXAMPLES)).argsort(1).argsort(1) < count)
      continue
    seed = int(rng.integers(2**31))
    part = membership.balanced(size, _EXAMPLES, ratio, seed)
    if paired:
      part = np.stack([part, ~part], axis=1).reshape(2 * size, -1)
    parts.append(part)
  return np.concatenate(parts)


def runs(
  blocks: list[tuple[int, bool]],
  share: float,
  studies: int,
  ratio: float = 0.5,
  seed: int = _SEED,
) -> dict[str, float]:
  """What is claimed of one example under the hypothesis, over many studies.

  A run predicts the example where what it saw of the others, which help or
  harm by fixed amounts, and its own luck add up to enough: more easily if it
  saw the example, so that its memorisation is the threshold of the flags.

  Args:
    blocks: of the map.
    share: of the variance between runs that is due to what they saw.
    studies: simulated.
    ratio: share of the runs that an example is in.
    seed: of the simulation.

  Returns:
    `variance` of the memorisation of probabilities over what Welch's takes it
    to be; the same with the pair as a unit, `corrected`; how often the exact
    test rejects at 0.05 where runs are units, `rejected`, and where pairs are,
    `rejected_pairs`; how often `cm_low` to `cm_high` holds the truth, `covered`
    and `covered_pairs`.
  """
  rng = np.random.default_rng(seed)
  effect = rng.normal(size=_EXAMPLES)
  effect[0] = 0
  effect -= effect[1:].mean() * (np.arange(_EXAMPLES) > 0)
  scale = np.sqrt(ratio * (1 - ratio) * np.square(effect).sum())
  gap = special.ndtri(_SEEN) - special.ndtri(_UNSEEN)
  members, lucks = [], []
  for _ in range(studies):
    member = _member(blocks, ratio, rng)
    members.append(member)
    lucks.append(rng.normal(size=len(member)))
  seen = np.stack([member[:, 0] for member in members], axis=1)
  quality = np.stack(
    [
      np.sqrt(share) * ((member - ratio) @ effect) / scale
      + np.sqrt(1 - share) * luck
      for member, luck in zip(members, lucks)
    ],
    axis=1,
  )
  latent = special.ndtri(_UNSEEN) + gap * seen + quality
  correct = latent > 0
  values = special.ndtr(2 * latent)
  rows = _pairs(blocks)
  side = sides.sides(seen, values)
  both = sides.shared(seen, values, *side, rows)
  welch, units = sides.variance(*side), sides.variance(*side, both)
  scores = side[0].mean - side[1].mean
  known = np.isfinite(welch)
  # A run's quality has a standard normal distribution, whatever its causes.
  mean = lambda shift: special.ndtr(2 * shift / np.sqrt(5))
  start = special.ndtri(_UNSEEN)
  true = mean(start + gap) - mean(start)
  found = {
    'variance': float(scores[known].var() / welch[known].mean()),
    'corrected': float(scores[known].var() / units[known].mean()),
  }
  for ending, chosen, dependent in (
    ('', rows[:0], None),
    ('_pairs', rows, both),
  ):
    low, high = sides.ends(*side, 'welch', dependent)
    found[f'covered{ending}'] = float(((low <= true) & (true <= high)).mean())
    counts = flagging.counts(seen, correct, chosen)
    differ = flagging.PairCounts(
      len(chosen), counts.pop('better'), counts.pop('worse')
    )
    p = flagging.by_correctness(**counts, pairs=differ).p
    found[f'rejected{ending}'] = float((p <= 0.05).mean())
  return found


def _pairs(blocks: list[tuple[int, bool]]) -> np.ndarray:
  """Rows of the two runs of every pair, int [pairs, 2]."""
  at, rows = 0, []
  for size, paired in blocks:
    if paired:
      rows += [(at + 2 * i, at + 2 * i + 1) for i in range(size)]
    at += size * (1 + paired)
  return np.array(rows, int).reshape(-1, 2)


def dependence(studies: int) -> list[dict[str, Any]]:
  """A row for each design and share of the variance that subsets cause."""
  rows = [
    {'design': name, 'share': share, 'ratio': 0.5}
    | runs(blocks, share, studies)
    for name, blocks in designs().items()
    for share in (1.0, 0.5, 0.0)
  ]
  return rows + [
    {'design': f'one block of {size}', 'share': 1.0, 'ratio': ratio}
    | runs([(size, False)], 1.0, studies, ratio)
    for size, ratio in ((30, 0.7), (30, 0.2), (100, 0.5))
  ]


def clusters(
  seeds: int, per_seed: int, mean: float, correlation: float, studies: int
) -> dict[str, float]:
  """Coverage and width of `clustered_interval` on 0-1 values.

  Args:
    seeds: of a study.
    per_seed: values of one seed.
    mean: true.
    correlation: within a seed, from 0 to 1.
    studies: simulated.

  Returns:
    `coverage`, mean `width`, and `normal`, the coverage of the interval with
    the normal quantile, as it was before.
  """
  rng = np.random.default_rng([_SEED, seeds, per_seed])
  shape = (studies, seeds, 1)
  chance = np.full(shape, mean)
  if correlation == 1:
    chance = (rng.random(shape) < mean).astype(float)
  elif correlation > 0:
    spread = (1 - correlation) / correlation
    chance = rng.beta(mean * spread, (1 - mean) * spread, shape)
  values = rng.random((studies, seeds, per_seed)) < chance
  cluster = np.repeat(np.arange(seeds), per_seed)
  ends = np.array(
    [
      comparison.clustered_interval(each.ravel().astype(float), cluster)[1:]
      for each in values
    ]
  )
  holds = lambda low, high: float(((low <= mean) & (mean <= high)).mean())
  before = np.array([_normal(each.astype(float)) for each in values])
  return {
    'coverage': holds(*ends.T),
    'normal': holds(*before.T),
    'width': float((ends[:, 1] - ends[:, 0]).mean()),
  }


def _normal(values: np.ndarray) -> tuple[float, float]:
  """Wilson's on n / d with the normal quantile, [seeds, per seed]."""
  seeds, size = values.shape
  n, mean = values.size, values.mean()
  effect, independent = size, values.var() / n
  if independent > 0:
    sums = (values - mean).sum(1)
    robust = seeds / (seeds - 1) * np.square(sums).sum() / n**2
    effect = np.clip(robust / independent, 1, size)
  z2 = stats.norm.ppf(0.975) ** 2 * effect / n
  centre = (mean + z2 / 2) / (1 + z2)
  half = np.sqrt(z2 * (mean * (1 - mean) + z2 / 4)) / (1 + z2)
  return centre - half, centre + half


def seeds(studies: int) -> list[dict[str, Any]]:
  """A row for each number of seeds: the least and the mean coverage."""
  rows = []
  for count in (3, 4, 6, 10):
    for size in (3, 6):
      found = [
        clusters(count, size, mean, correlation, studies)
        for mean in (0.1, 0.3, 0.5, 0.7, 0.9, 0.97)
        for correlation in (0.0, 0.2, 0.5, 1.0)
      ]
      of = lambda name, f=found: [each[name] for each in f]
      rows.append(
        {
          'seeds': count,
          'per_seed': size,
          'coverage': float(np.mean(of('coverage'))),
          'least': min(of('coverage')),
          'normal': float(np.mean(of('normal'))),
          'normal_least': min(of('normal')),
          'width': float(np.mean(of('width'))),
        }
      )
  return rows


def size_of_test(runs_a_side: int, level: float) -> dict[str, float]:
  """Largest chance to reject a true hypothesis, of tables of many runs.

  Over 2 000 accuracies at the border of the hypothesis, by summing all
  results, so that nothing is simulated.

  Returns:
    `exact` and `normal`: that chance over the level, of the test and of the
    normal limit of its statistic.
  """
  threshold = flagging.THRESHOLD
  p = flagging.p_values(runs_a_side, runs_a_side, threshold)
  limit = normal_limit(runs_a_side, runs_a_side, threshold)
  most = {'exact': 0.0, 'normal': 0.0}
  for out in np.linspace(0, 1 - threshold, 2001):
    chance = flagging.joint(runs_a_side, runs_a_side, out + threshold, out)
    for name, table in (('exact', p), ('normal', limit)):
      most[name] = max(most[name], float(chance[table <= level].sum()))
  return {name: chance / level for name, chance in most.items()}


def normal_limit(in_runs: int, out_runs: int, threshold: float) -> np.ndarray:
  """What p-values of many runs were before: those of a normal score."""
  score = flagging.score(in_runs, out_runs, threshold)
  score = np.maximum.accumulate(score, axis=0)
  return stats.norm.sf(np.maximum.accumulate(score[:, ::-1], axis=1)[:, ::-1])


def test_sizes() -> list[dict[str, Any]]:
  """A row for each number of runs a side and level."""
  return [
    {'runs': runs_a_side, 'level': level} | size_of_test(runs_a_side, level)
    for runs_a_side in (201, 400)
    for level in (0.05, 1e-3, 1e-5, 1e-8)
  ]
