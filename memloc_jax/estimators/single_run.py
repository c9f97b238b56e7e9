"""Memorisation predicted from one run, to tell when many are not needed."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer, StandardScaler

from memloc_jax.estimators import intervals
from memloc_jax.estimators import memorisation as estimator
from memloc_jax.estimators.histories import History
from memloc_jax.estimators.sides import complementary, divide

_FOLDS = 5
_RESAMPLES = 1000
_CHUNK = 2**21  # elements of a block of resamples held at once
# Fewer members or non-members than this teach nothing but their mean.
_FEWEST = 10


@dataclasses.dataclass(frozen=True)
class PredictionQuality:
  """How much of memorisation is predicted; 95 % intervals, NaN if unknown.

  Attributes:
    examples: that were compared: those with a standard error of memorisation.
    r2: out-of-fold R squared against memorisation as the other runs estimate
      it: 1 - squared error / squared deviation from the mean over examples,
      at most 1; 0 is what the mean alone would reach.
    r2_low: lower end of its interval.
    r2_high: upper end.
    r2_in: the same among the examples that the run was trained on.
    r2_out: among the others.
    reliability: of the estimate, see `sample_size.reliability`: the largest R
      squared that any prediction of it can be expected to reach.
    corrected: r2 / reliability, at most 1: R squared against what endless
      runs would give, since the other runs' noise is in the squared error and
      in the squared deviation alike.
    corrected_low: lower end of its interval.
    corrected_high: upper end.
    equivalent_runs: size of a map that is as reliable as `corrected` says the
      prediction is, see `sample_size.reliability_at`; 0 where that is not above
      0, NaN where it is 1.
  """

  examples: int
  r2: float
  r2_low: float
  r2_high: float
  r2_in: float
  r2_out: float
  reliability: float
  corrected: float
  corrected_low: float
  corrected_high: float
  equivalent_runs: float


@dataclasses.dataclass(frozen=True)
class SingleRun:
  """The predictor's quality and what it predicts.

  Attributes:
    mean: of the single runs.
    by_run: of every single run, by its number.
    predicted: memorisation, mean of the runs' out-of-fold predictions,
      float64 [n]; NaN where it could not be compared.
  """

  mean: PredictionQuality
  by_run: dict[int, PredictionQuality]
  predicted: np.ndarray


def features(
  history: History,
  member: np.ndarray,
  logits: np.ndarray,
  labels: np.ndarray,
  extra: np.ndarray,
) -> np.ndarray:
  """What one run tells of every example.

  Args:
    history: of the run.
    member: whether the run was trained on an example, bool [n].
    logits: at its end, [n, classes].
    labels: given labels, int [n].
    extra: what is known without any run, as how rare an example's words are,
      [n, f].

  Returns:
    float64 [n, 11 + f]. The first column is membership, the others are
    forgetting events (0 if never learned), never learned, learning epoch,
    confidence, variability, correctness, area under the margin, EL2N, margin
    at the end, and how far its logits lie from the mean logits of its class,
    then `extra`.
  """
  logits = np.asarray(logits, np.float64)
  sums = np.zeros((logits.shape[1],) * 2)
  np.add.at(sums, labels, logits)
  counts = np.bincount(labels, minlength=len(sums))
  centroids = sums / np.maximum(counts, 1)[:, None]
  return np.column_stack(
    [
      member,
      np.nan_to_num(history.forgetting),
      history.never_learned,
      history.learning_epoch,
      history.confidence,
      history.variability,
      history.correctness,
      history.aum,
      history.el2n,
      history.margin,
      np.linalg.norm(logits - centroids[labels], axis=1),
      extra,
    ]
  )


def folds(groups: np.ndarray, seed: int = 0) -> np.ndarray:
  """Five folds of examples, those of one group in one fold.

  Args:
    groups: equal for examples that belong together, int [n]: an example must
      not be predicted from its own near-duplicates.
    seed: of the draw.

  Returns:
    Fold of every example, int [n].
  """
  distinct, group = np.unique(groups, return_inverse=True)
  order = np.random.default_rng(seed).permutation(len(distinct))
  return order[group] % _FOLDS


def predict(
  membership: np.ndarray,
  values: np.ndarray,
  single: Mapping[int, np.ndarray],
  fold: np.ndarray,
  seed: int = 0,
) -> SingleRun:
  """Predicts memorisation from single runs, out of fold.

  For each single run in turn: counterfactual memorisation is estimated from
  all *other* runs, so that nothing of the run is in what is predicted, and a
  regression from the run's features is fitted on four folds of the examples
  and judged on the fifth. It is ridge regression on cubic splines with five
  knots of every feature, its penalty chosen by leave-one-out among 13 values
  from 1e-2 to 1e4, fitted for members and non-members of the run apart, since
  the same history means another thing for them.

  To use such a predictor, some examples must have known memorisation; it is
  for the others that one run is then enough.

  Intervals are percentiles of 1000 bootstrap resamples of the examples, and
  for the mean of the single runs too. They say nothing of what other runs
  would make of the estimate itself.

  Args:
    membership: whether a run was trained on an example, bool [runs, n].
      Failed runs are left out by the caller.
    values: probability of the given label at a run's end, [runs, n].
    single: features of the single runs by their number, finite, the first one
      membership, [n, f] each, see `features`.
    fold: of every example, int [n], see `folds`.
    seed: of the bootstrap.

  Raises:
    ValueError: there is no single run or only one fold.
  """
  membership = np.asarray(membership, bool)
  if not single or len(np.unique(fold)) < 2:
    raise ValueError('There must be a single run and two folds or more.')
  shape = (len(single), membership.shape[1])
  target, se, predicted = np.full((3, *shape), np.nan)
  for at, (run, inputs) in enumerate(single.items()):
    rest = np.delete(membership, run, axis=0)
    scores = estimator.memorisation(
      rest, np.delete(values, run, axis=0), pairs=complementary(rest)
    )
    se[at] = scores.se
    target[at] = scores.counterfactual_memorisation
    known = np.isfinite(scores.se)
    predicted[at] = _out_of_fold(
      inputs, membership[run], np.where(known, target[at], np.nan), fold
    )
  known = np.isfinite(se)
  judged = _Judged(
    known,
    np.where(known, target, 0.0),
    np.where(known, np.square(target - predicted), 0.0),
    np.where(known, np.square(se), 0.0),
  )
  drawn = _resampled(judged, np.random.default_rng(seed))
  others = len(membership) - 1
  in_runs = membership[list(single)]
  point = judged.quality(np.ones((1, shape[1])))[:, 0]
  sides = [
    judged.only(side).quality(np.ones((1, shape[1])))[0, 0]
    for side in (in_runs, ~in_runs)
  ]
  picks = np.random.default_rng([seed, 1]).integers(
    len(single), size=(_RESAMPLES, len(single))
  )
  of_runs = np.take_along_axis(drawn, picks[None], axis=2)
  count = known.sum(axis=1)
  return SingleRun(
    mean=_summary(
      int(count.mean()), point, of_runs, [side.mean() for side in sides], others
    ),
    by_run={
      run: _summary(
        int(count[at]),
        point[:, [at]],
        drawn[:, :, [at]],
        [side[at] for side in sides],
        others,
      )
      for at, run in enumerate(single)
    },
    predicted=divide(
      np.where(known, predicted, 0.0).sum(axis=0), known.sum(axis=0)
    ),
  )


@dataclasses.dataclass(frozen=True)
class _Judged:
  """Predictions beside what they are compared with, [single runs, n] each.

  Attributes:
    known: whether an example can be compared; what follows is 0 elsewhere.
    target: memorisation.
    error: squared error of the prediction.
    noise: squared standard error of the target.
  """

  known: np.ndarray
  target: np.ndarray
  error: np.ndarray
  noise: np.ndarray

  def only(self, chosen: np.ndarray) -> '_Judged':
    """The same of chosen examples, [single runs, n]."""
    return _Judged(
      self.known & chosen,
      *(x * chosen for x in (self.target, self.error, self.noise)),
    )

  def quality(self, times: np.ndarray) -> np.ndarray:
    """R squared and reliability of resamples.

    Args:
      times: how often an example is in a resample, [resamples, n].

    Returns:
      [2, resamples, single runs]; NaN where there is nothing to predict.
    """
    count = times @ self.known.T
    mean = divide(times @ self.target.T, count)
    deviation = times @ np.square(self.target).T - count * np.square(mean)
    # What rounding leaves of equal targets is none.
    deviation = np.where(deviation > 1e-12 * count, deviation, np.nan)
    noise = divide(times @ self.noise.T, count)
    true = np.maximum(divide(deviation, count - 1) - noise, 0)
    r2 = 1 - times @ self.error.T / deviation
    return np.stack([r2, true / (true + noise)])


def _resampled(judged: _Judged, rng: np.random.Generator) -> np.ndarray:
  """R squared and reliability of resampled examples.

  Returns:
    [2, resamples, single runs].
  """
  examples = judged.known.shape[1]
  share = np.full(examples, 1 / examples)
  chunk = max(1, _CHUNK // examples)
  parts = [
    judged.quality(
      rng.multinomial(examples, share, min(chunk, _RESAMPLES - first)).astype(
        np.float64
      )
    )
    for first in range(0, _RESAMPLES, chunk)
  ]
  return np.concatenate(parts, axis=1)


def _out_of_fold(
  inputs: np.ndarray, member: np.ndarray, target: np.ndarray, fold: np.ndarray
) -> np.ndarray:
  """Predictions [n] by models that saw neither the example nor its fold.

  Args:
    inputs: features, the first one membership, [n, f].
    member: the same, bool [n].
    target: [n], NaN where it is not known.
    fold: of every example, int [n].
  """
  predicted = np.full(len(target), np.nan)
  known = np.isfinite(target)
  for held_out in np.unique(fold):
    teaching = known & (fold != held_out)
    for side in (member, ~member):
      asked = side & (fold == held_out)
      taught = side & teaching
      if taught.sum() < _FEWEST:
        predicted[asked] = target[teaching].mean() if teaching.any() else np.nan
      elif asked.any():
        model = _model().fit(inputs[taught, 1:], target[taught])
        predicted[asked] = model.predict(inputs[asked, 1:])
  return predicted


def _model():
  return make_pipeline(
    SplineTransformer(n_knots=5, degree=3, extrapolation='constant'),
    StandardScaler(),
    RidgeCV(np.logspace(-2, 4, 13)),
  )


def _summary(
  examples: int,
  point: np.ndarray,
  drawn: np.ndarray,
  sides: list[float],
  runs: int,
) -> PredictionQuality:
  """One quality, of one single run or the mean of several.

  Args:
    examples: that were compared.
    point: R squared and reliability, [2, single runs].
    drawn: the same of resamples, [2, resamples, single runs].
    sides: R squared among members and among non-members.
    runs: behind the estimate that is predicted.
  """
  r2, reliability = point.mean(axis=-1)
  corrected = _corrected(r2, reliability)
  some, reliabilities = drawn.mean(axis=-1)
  r2_low, r2_high = np.quantile(some, intervals.TAILS)
  low, high = np.quantile(_corrected(some, reliabilities), intervals.TAILS)
  equivalent = np.nan
  if corrected <= 0:
    equivalent = 0.0
  elif corrected < 1 and reliability < 1:
    odds = lambda x: x / (1 - x)
    equivalent = runs * odds(corrected) / odds(reliability)
  return PredictionQuality(
    examples=examples,
    r2=float(r2),
    r2_low=float(r2_low),
    r2_high=float(r2_high),
    r2_in=float(sides[0]),
    r2_out=float(sides[1]),
    reliability=float(reliability),
    corrected=float(corrected),
    corrected_low=float(low),
    corrected_high=float(high),
    equivalent_runs=float(equivalent),
  )


def _corrected(r2, reliability):
  """R squared over reliability, at most 1; NaN where that is 0."""
  r2, reliability = np.asarray(r2), np.asarray(reliability)
  return np.minimum(divide(r2, reliability), 1)
