"""How well rankings find wrong labels, compared on resampled examples."""

import numpy as np

# Elements of a block of resamples held at once.
_CHUNK = 2**22


def quality(
  suspicion: np.ndarray, wrong: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Average precision and AUROC of a ranking of weighted examples.

  Tied examples enter together: average precision is the mean over wrong
  labels of the precision at their score, and ties count half in the AUROC.

  Args:
    suspicion: higher for labels believed wrong, [n].
    wrong: which labels are, bool [n].
    weights: how often each example counts, [resamples, n].

  Returns:
    Both [resamples]; NaN where there is no wrong or no right label.
  """
  order = np.argsort(-suspicion, kind='stable')
  falling = suspicion[order]
  starts = np.flatnonzero(np.append(True, falling[1:] != falling[:-1]))
  sums = lambda chosen: np.add.reduceat(
    (weights * chosen)[:, order], starts, axis=1
  ).astype(np.float64)
  positive, negative = sums(wrong), sums(~wrong)
  hits, alarms = positive.cumsum(axis=1), negative.cumsum(axis=1)
  everyone = hits + alarms
  precision = np.divide(
    hits, everyone, out=np.zeros_like(hits), where=everyone > 0
  )
  outranked = alarms[:, -1:] - alarms + negative / 2
  exists = (hits[:, -1] > 0) & (alarms[:, -1] > 0)
  count = np.where(exists, hits[:, -1], np.nan)
  average = (positive * precision).sum(axis=1) / count
  area = (positive * outranked).sum(axis=1) / (count * alarms[:, -1])
  return average, area


class Resamples:
  """The same resamples of noise draws and examples for every ranking.

  Draws and examples are crossed: the same examples have a wrong label in one
  draw and a right one in another. Both are resampled at once, and a pair
  counts as often as its draw times its example (the pigeonhole bootstrap of
  Owen, 2007), which errs on the wide side.
  """

  def __init__(self, draws: int, examples: int, count: int, seed: int = 0):
    """Draws the weights.

    Args:
      draws: number of noise draws.
      examples: n.
      count: resamples.
      seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    even = lambda size: np.full(size, 1 / size)
    self._draws = rng.multinomial(draws, even(draws), count)
    self._examples = rng.multinomial(examples, even(examples), count)

  def quality(
    self, suspicion: np.ndarray, wrong: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Mean quality over draws.

    Args:
      suspicion: higher for labels believed wrong, [draws, n].
      wrong: which labels are, bool [draws, n].

    Returns:
      Average precision and AUROC of all examples, [2, draws]; and the mean
      over draws of either on every resample, [2, resamples].
    """
    draws, examples = wrong.shape
    point = np.empty((2, draws))
    resampled = np.empty((2, draws, len(self._examples)))
    once = np.ones((1, examples))
    size = max(1, _CHUNK // examples)
    for draw in range(draws):
      ranked = suspicion[draw], wrong[draw]
      point[:, draw] = np.stack(quality(*ranked, once))[:, 0]
      for first in range(0, len(self._examples), size):
        part = slice(first, first + size)
        resampled[:, draw, part] = quality(*ranked, self._examples[part])
    weights = np.where(np.isnan(resampled), 0, self._draws.T)
    total = weights.sum(axis=1)
    mean = (np.nan_to_num(resampled) * weights).sum(axis=1) / np.where(
      total > 0, total, np.nan
    )
    return point, mean


def difference(
  ours: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]
) -> dict[str, dict[str, float]]:
  """One ranking's quality minus another's, with 95 % bootstrap intervals.

  Args:
    ours: what `Resamples.quality` returned.
    other: the same of the other ranking, from the same resamples.

  Returns:
    'average_precision' and 'auroc', each with 'difference', 'low', 'high'.
  """
  result = {}
  for at, name in enumerate(('average_precision', 'auroc')):
    low, high = np.nanquantile(ours[1][at] - other[1][at], (0.025, 0.975))
    result[name] = {
      'difference': float((ours[0][at] - other[0][at]).mean()),
      'low': float(low),
      'high': float(high),
    }
  return result
