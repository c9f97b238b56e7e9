"""Membership inference on documents, and whether it could do without a model.

Scores are [runs, documents], higher for documents that a run is believed to
have. Loss, zlib, min-k and min-k++ are in `measures`; LiRA is
`estimators.privacy.lira`, of log-likelihoods in the place of scaled logits. All
are graded against the copies that runs really have.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats
from sklearn.feature_extraction.text import TfidfVectorizer

from memloc_jax.estimators import intervals
from memloc_jax.sequences.counterfactual import Average, over_runs

# True positive rates are quoted at the first rate with enough documents that
# are not members, at the second otherwise.
RATES, ENOUGH = (0.01, 0.05), 1000
_FOLDS = 5
_RIDGE = 1.0  # in units of a text's similarity to itself
_GRAMS = (1, 2)  # words
_MOST_GRAMS = 20_000
_MOST_TEXTS = 4000  # drawn at random: the work grows with their cube


def reference(inside: np.ndarray, log_likelihood: np.ndarray) -> np.ndarray:
  """Log-likelihood minus the mean of the other runs without the document.

  Args:
    inside: whether a run has a document, bool [runs, documents].
    log_likelihood: [runs, documents].

  Returns:
    float64 [runs, documents]; NaN for documents that fewer than two runs
    lack, so that a score's existence does not give its membership away.
  """
  outside = ~np.asarray(inside, bool)
  values = np.asarray(log_likelihood, np.float64)
  total = values.sum(axis=0, where=outside)
  runs = outside.sum(axis=0)
  others = (total - np.where(outside, values, 0)) / np.maximum(
    runs - outside, 1
  )
  return np.where(runs >= 2, values - others, np.nan)


@dataclasses.dataclass(frozen=True)
class Grade:
  """How well a score separates members, pooled over runs and documents.

  Attributes:
    auc: area under the ROC curve, with its 95 % interval.
    rate: false positive rate, see `RATES`.
    tpr: largest true positive rate of a threshold with at most that rate of
      false positives, with its 95 % interval.
    members: pairs of a run and a document that it has.
    others: pairs of a run and a document that it lacks.
  """

  auc: Average
  rate: float
  tpr: Average
  members: int
  others: int


def grade(
  inside: np.ndarray,
  scores: np.ndarray,
  cluster: np.ndarray | None = None,
  resamples: int = 1000,
  seed: int = 0,
) -> Grade:
  """Grades a score against membership.

  Intervals are percentiles of a two-way bootstrap: runs and clusters are both
  drawn with replacement, and a pair counts as often as both of them were drawn
  (the pigeonhole bootstrap: Owen, 2007).

  Args:
    inside: whether a run has a document, bool [runs, documents].
    scores: [runs, documents]; NaN is left out.
    cluster: equal for documents that are in the same runs, int [documents];
      None leaves each by itself.
    resamples: number of resamples.
    seed: of the bootstrap.

  Raises:
    ValueError: the shapes differ, or a side has no score.
  """
  inside, scores = np.asarray(inside, bool), np.asarray(scores, np.float64)
  if inside.ndim != 2 or inside.shape != scores.shape:
    raise ValueError(
      f'inside {inside.shape} and scores {scores.shape} must both be '
      '[runs, documents].'
    )
  known = ~np.isnan(scores)
  run, document = np.nonzero(known)
  # From the highest score on.
  order = np.argsort(-scores[known], kind='stable')
  run, document = run[order], document[order]
  member, ranked = inside[run, document], scores[run, document]
  if member.all() or not member.any():
    raise ValueError('Members and others must both have scores.')
  ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
  lacked = (~inside & known).any(axis=0).sum()
  rate = RATES[0] if lacked >= ENOUGH else RATES[1]
  names = np.arange(scores.shape[1]) if cluster is None else cluster
  _, group = np.unique(names, return_inverse=True)

  def quality(weight: np.ndarray) -> tuple[float, float]:
    hits = np.cumsum(weight * member)[ends]
    false = np.cumsum(weight * ~member)[ends]
    if not hits[-1] or not false[-1]:
      return np.nan, np.nan
    # Trapezia: ties count half.
    area = np.sum(np.diff(hits, prepend=0) * (false[-1] - false))
    area += np.sum(np.diff(hits, prepend=0) * np.diff(false, prepend=0)) / 2
    allowed = np.searchsorted(false, rate * false[-1] + 1e-9, side='right')
    tpr = hits[allowed - 1] / hits[-1] if allowed else 0.0
    return area / (hits[-1] * false[-1]), tpr

  rng = np.random.default_rng([0x6D6961, seed])
  runs, groups = len(scores), int(group.max()) + 1
  drawn = []
  for _ in range(resamples):
    of_run = np.bincount(rng.integers(runs, size=runs), minlength=runs)
    of_group = np.bincount(rng.integers(groups, size=groups), minlength=groups)
    drawn.append(
      quality((of_run[run] * of_group[group[document]]).astype(float))
    )
  low, high = np.nanquantile(np.array(drawn), intervals.TAILS, axis=0)
  auc, tpr = quality(np.ones(len(run)))
  return Grade(
    auc=Average(float(auc), float(low[0]), float(high[0])),
    rate=rate,
    tpr=Average(float(tpr), float(low[1]), float(high[1])),
    members=int(member.sum()),
    others=int((~member).sum()),
  )


def blind(
  texts: Sequence[str],
  length: np.ndarray,
  inside: np.ndarray,
  cluster: np.ndarray | None = None,
  seed: int = 0,
) -> Average:
  """AUC of an attack that sees the texts and no model.

  Ridge regression of a run's membership on words, pairs of words and length,
  fitted on other documents. Where it differs from 0.5 by more than 0.03,
  membership goes with the texts, and no attack can be believed.

  Args:
    texts: [documents].
    length: tokens of each document, int [documents].
    inside: whether a run has a document, bool [runs, documents].
    cluster: equal for documents that are in the same runs, which are kept
      together, int [documents]; None leaves each by itself.
    seed: of the division of the documents into five parts.

  Returns:
    Mean over runs of the AUC within parts, with its interval over runs.
  """
  rng = np.random.default_rng([0x626C69, seed])
  names = np.arange(len(texts)) if cluster is None else np.asarray(cluster)
  kept = np.sort(rng.permutation(len(texts))[:_MOST_TEXTS])
  texts, length = [texts[i] for i in kept], np.asarray(length)[kept]
  inside = np.asarray(inside, bool)[:, kept]
  _, group = np.unique(names[kept], return_inverse=True)
  part = (rng.permutation(int(group.max()) + 1) % _FOLDS)[group]
  words = TfidfVectorizer(
    ngram_range=_GRAMS, max_features=_MOST_GRAMS, token_pattern=r'(?u)\w+'
  ).fit_transform(texts)
  size = (
    stats.zscore(np.log(length)) if np.ptp(length) else np.zeros(len(texts))
  )
  # Each text has the similarity 1 to itself by its words.
  alike = (words @ words.T).toarray() + np.outer(size, size)
  target = inside - inside.mean(axis=1, keepdims=True)
  areas = np.full((len(inside), _FOLDS), np.nan)
  for fold in range(_FOLDS):
    test, rest = np.flatnonzero(part == fold), np.flatnonzero(part != fold)
    fitted = alike[np.ix_(rest, rest)] + _RIDGE * np.eye(len(rest))
    scores = alike[np.ix_(test, rest)] @ np.linalg.solve(
      fitted, target[:, rest].T
    )
    for run, score in enumerate(scores.T):
      # Within parts: a part with more members leaves fewer to be fitted.
      areas[run, fold] = _area(score, inside[run, test])
  with np.errstate(invalid='ignore'):
    count = (~np.isnan(areas)).sum(axis=1)
    return over_runs(np.nansum(areas, axis=1) / np.where(count, count, np.nan))


def _area(scores: np.ndarray, member: np.ndarray) -> float:
  """Area under the ROC curve; NaN where a side is empty."""
  ones, others = int(member.sum()), int((~member).sum())
  if not ones or not others:
    return np.nan
  above = stats.rankdata(scores)[member].sum() - ones * (ones + 1) / 2
  return float(above / (ones * others))
