"""Counterfactual memorisation of sequences and of their tokens.

A measure's mean over the runs that have a copy of a sequence's document (IN)
minus its mean over the others (OUT). The run is the unit for every measure:
the tokens of one run are correlated.
"""

import dataclasses
from typing import Literal

import numpy as np
from scipy import stats

from memloc_jax.estimators import flagging, intervals, sides
from memloc_jax.estimators.memorisation import Memorisation, memorisation

# What is known of a measure's values: 0 or 1 (`extractable`); in [0, 1]
# (`accuracy`, `greedy_match`); anything finite (`log_likelihood`).
Range = Literal['binary', 'bounded', 'unbounded']
_BOUNDED = {'binary': 'agresti_caffo', 'bounded': 'welch'}


def doses(copies: np.ndarray) -> np.ndarray:
  """Copies of each document in the runs that have any.

  Args:
    copies: of each document in each run, int [runs, documents].

  Returns:
    int64 [documents]; 0 for documents that no run has.

  Raises:
    ValueError: a document has different numbers of copies in its IN runs, which
      may not be pooled.
  """
  copies = np.asarray(copies, np.int64)
  most = copies.max(axis=0)
  differ = np.flatnonzero(((copies > 0) & (copies != most)).any(axis=0))
  if len(differ):
    raise ValueError(
      f'Document {differ[0]} has different numbers of copies in different '
      'runs; estimate within one of them.'
    )
  return most


def gain(inside: np.ndarray, values: np.ndarray, range: Range) -> Memorisation:
  """IN mean minus OUT mean of a measure, for every sequence.

  Intervals are those of classification where values are in [0, 1], see
  `estimators.memorisation`. Of unbounded values it is Welch's t interval, and
  the standard error is the root of the sum of the variances of both means.

  Source: Zhang et al. (2023, arXiv 2112.12938).

  Args:
    inside: whether a run has the sequence's document, bool [runs, sequences].
    values: of the measure, [runs, sequences].
    range: of the values.

  Returns:
    Per sequence. `training_memorisation` is the IN mean, `generalisation` the
    OUT mean, in the measure's unit.

  Raises:
    ValueError: the shapes differ, or a value is not in the range.
  """
  inside, values = _checked(inside, values)
  if range != 'unbounded':
    return memorisation(inside, values, _BOUNDED[range])
  seen, unseen = _side(inside, values), _side(~inside, values)
  a, b = seen.variance_of_mean, unseen.variance_of_mean
  difference, se = seen.mean - unseen.mean, np.sqrt(a + b)
  half = stats.t.ppf(intervals.TAILS[1], _freedom(seen, unseen)) * se
  return Memorisation(
    training_memorisation=seen.mean,
    generalisation=unseen.mean,
    counterfactual_memorisation=difference,
    se=se,
    low=difference - half,
    high=difference + half,
    in_runs=seen.runs,
    out_runs=unseen.runs,
  )


@dataclasses.dataclass(frozen=True)
class TokenGains:
  """Gains of the tokens of sequences, arrays [sequences, positions].

  Attributes:
    gain: IN mean minus OUT mean of the log-probability, in nats. Their mean is
      the gain of the sequence's `log_likelihood`.
    low: lower end of Welch's 95 % interval over runs.
    high: upper end.
    q: false discovery rate at which the gain is above 0, controlled within the
      sequence (Benjamini & Hochberg, 1995); NaN without two runs on a side.
  """

  gain: np.ndarray
  low: np.ndarray
  high: np.ndarray
  q: np.ndarray


def token_gains(inside: np.ndarray, logp: np.ndarray) -> TokenGains:
  """Gain of every token of the continuations, with intervals over runs.

  Args:
    inside: whether a run has the sequence's document, bool [runs, sequences].
    logp: [runs, sequences, positions].

  Raises:
    ValueError: the shapes differ, or a value is not finite.
  """
  inside = np.asarray(inside, bool)
  positions = logp.shape[2]
  of_tokens = np.repeat(inside, positions, axis=1)
  flat = np.reshape(logp, (len(logp), -1))
  found = gain(of_tokens, flat, 'unbounded')
  seen, unseen = _side(of_tokens, flat), _side(~of_tokens, flat)
  difference = found.counterfactual_memorisation
  # Where all runs of either side agree, a difference is certain.
  certain = np.where(difference > 0, np.inf, -np.inf)
  score = np.divide(difference, found.se, out=certain, where=found.se > 0)
  p = stats.t.sf(score, _freedom(seen, unseen))
  p[np.isnan(found.se)] = np.nan
  shape = (-1, positions)
  q = [flagging.benjamini_hochberg(row) for row in p.reshape(shape)]
  return TokenGains(
    gain=difference.reshape(shape),
    low=found.low.reshape(shape),
    high=found.high.reshape(shape),
    q=np.reshape(q, shape),
  )


@dataclasses.dataclass(frozen=True)
class Average:
  """A mean over sequences, with its 95 % interval over runs."""

  value: float
  low: float
  high: float


def average(inside: np.ndarray, values: np.ndarray) -> Average:
  """Mean over sequences of IN mean minus OUT mean, with interval over runs.

  Sequences share their runs, so that their own errors do not average out as
  independent ones would. Every run's contribution to the mean is looked at as
  a whole: runs are independent, given who has which document.

  Args:
    inside: whether a run has the sequence's document, bool [runs, sequences].
    values: of the measure, [runs, sequences].

  Returns:
    Over the sequences with two runs on either side; NaN without any.

  Raises:
    ValueError: the shapes differ, or a value is not finite.
  """
  inside, values = _checked(inside, values)
  seen, unseen = _side(inside, values), _side(~inside, values)
  usable = (seen.runs > 1) & (unseen.runs > 1)
  if not usable.any():
    return Average(np.nan, np.nan, np.nan)
  difference = float((seen.mean - unseen.mean)[usable].mean())
  # Residuals are smaller than errors, for the means are their own.
  weight = lambda side: 1 / np.sqrt(side.runs * (side.runs - 1.0))
  with np.errstate(divide='ignore', invalid='ignore'):
    parts = np.where(
      inside,
      (values - seen.mean) * weight(seen),
      -(values - unseen.mean) * weight(unseen),
    )
  error = np.sqrt(np.square(parts[:, usable].mean(axis=1)).sum())
  half = stats.t.ppf(intervals.TAILS[1], len(inside) - 2) * error
  return Average(difference, difference - half, difference + half)


def over_runs(values: np.ndarray) -> Average:
  """Mean of one value per run, with Student's interval.

  Args:
    values: [runs]; NaN is left out.

  Returns:
    NaN ends with fewer than two runs.
  """
  known = np.asarray(values, np.float64)
  known = known[~np.isnan(known)]
  if len(known) < 2:
    value = float(known.mean()) if len(known) else np.nan
    return Average(value, np.nan, np.nan)
  value = float(known.mean())
  half = stats.t.ppf(intervals.TAILS[1], len(known) - 1)
  half *= known.std(ddof=1) / np.sqrt(len(known))
  return Average(value, float(value - half), float(value + half))


def _checked(
  inside: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  inside, values = np.asarray(inside, bool), np.asarray(values, np.float64)
  if inside.ndim != 2 or inside.shape != values.shape:
    raise ValueError(
      f'inside {inside.shape} and values {values.shape} must both be '
      '[runs, sequences].'
    )
  finite = np.isfinite(values)
  if not finite.all():
    run, sequence = np.argwhere(~finite)[0]
    raise ValueError(
      f'The value of run {run}, sequence {sequence} is not finite; leave '
      'failed runs out.'
    )
  return inside, values


def _side(chosen: np.ndarray, values: np.ndarray) -> sides.Side:
  """Moments of the chosen runs' values, whatever their range."""
  runs = chosen.sum(axis=0)
  mean = sides.divide(values.sum(axis=0, where=chosen), runs)
  squares = np.square(values - mean).sum(axis=0, where=chosen)
  return sides.Side(runs, mean, squares)


def _freedom(seen: sides.Side, unseen: sides.Side) -> np.ndarray:
  """Satterthwaite's degrees of freedom; those of both sides if all agree."""
  a, b = seen.variance_of_mean, unseen.variance_of_mean
  parts = sides.divide(np.square(a), seen.runs - 1)
  parts += sides.divide(np.square(b), unseen.runs - 1)
  most = (seen.runs + unseen.runs - 2).astype(np.float64)
  return np.divide(np.square(a + b), parts, out=most, where=parts > 0)
