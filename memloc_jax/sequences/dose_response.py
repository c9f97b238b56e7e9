"""How extraction depends on the number of times that a run saw a document.

A logistic model of the IN runs, in the logarithm of exposures (copies times
epochs) to base 2:

  logit P(run r extracts document d) = a + b log2 exposures_d + u_r + v_d

with normal random effects of run and document. Documents were randomised to
doses, so that the slope is the effect of the dose.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import linalg, optimize, special, stats

from memloc_jax.estimators import intervals

# Standard deviations of weak normal priors on the intercept at the mean
# exposure and on the slope per doubling: they keep both finite where doses
# separate perfectly what is extracted from what is not.
_PRIOR = np.array([10.0, 5.0])
# Bounds of the logarithms of the random effects' standard deviations.
_LOG_SD = (np.log(0.01), np.log(10.0))
_GRID = 2001  # exposures at which the bands are looked at
_STEPS = 100  # of Newton's method, far more than are needed
_WIDTH = 0.05  # of the differences that curvature is taken from


@dataclasses.dataclass(frozen=True)
class DoseResponse:
  """The fitted model.

  Attributes:
    intercept: log odds at the mean of log2 exposures, for the average run and
      document.
    slope: log odds per doubling of the exposures.
    slope_low: lower end of its 95 % interval.
    slope_high: upper end.
    run_sd: standard deviation of runs, in log odds.
    document_sd: standard deviation of documents.
    half: exposures at which half of the documents are extracted; inf beyond
      the most exposures, 0 below the fewest, NaN where the rate falls.
    half_low: lower end of its 95 % interval; inf or 0 as above.
    half_high: upper end.
    least: fewest exposures of a document.
    most: most exposures.
  """

  intercept: float
  slope: float
  slope_low: float
  slope_high: float
  run_sd: float
  document_sd: float
  half: float
  half_low: float
  half_high: float
  least: float
  most: float

  def text(self) -> str:
    """The exposures at which half is extracted, as '24 (18 to 31)'."""
    if np.isnan(self.half):
      return 'none'
    shown = [self._shown(x) for x in (self.half, self.half_low, self.half_high)]
    if len(set(shown)) == 1:
      return shown[0]
    return f'{shown[0]} ({shown[1]} to {shown[2]})'

  def _shown(self, exposures: float) -> str:
    if np.isinf(exposures):
      return f'> {self.most:g}'
    return f'{exposures:.3g}' if exposures else f'< {self.least:g}'


def fit(
  exposures: np.ndarray, inside: np.ndarray, hits: np.ndarray
) -> DoseResponse:
  """Fits the model to the IN runs of documents that were given doses.

  By maximum likelihood, with random effects integrated out by Laplace's
  approximation. The dose at which half is extracted is where the fitted line
  crosses 0; its interval holds the exposures at which the line's own interval
  has 0 (Fieller, 1954). Where even at the most exposures clearly less than half
  is extracted, or at the fewest more, by an interval over documents, it lies
  beyond.

  Args:
    exposures: copies times epochs of each document's IN runs, [documents].
    inside: whether a run has the document, bool [runs, documents].
    hits: whether a run extracts it, bool [runs, documents].

  Raises:
    ValueError: the shapes differ, exposures are not positive, or all are
      equal.
  """
  exposures = np.asarray(exposures, np.float64)
  inside, hits = np.asarray(inside, bool), np.asarray(hits, bool)
  if inside.shape != hits.shape or inside.shape[1:] != exposures.shape:
    raise ValueError(
      f'exposures {exposures.shape}, inside {inside.shape} and hits '
      f'{hits.shape} must be [documents] and twice [runs, documents].'
    )
  if not np.all(exposures > 0) or len(np.unique(exposures)) < 2:
    raise ValueError('Exposures must be positive, and more than one number.')
  x = np.log2(exposures)
  model = _Model(x - x.mean(), inside, hits)
  rate = np.clip(hits[inside].mean(), 0.01, 0.99)
  found = optimize.minimize(
    model.objective,
    [special.logit(rate), 1.0, np.log(0.5), np.log(0.5)],
    method='L-BFGS-B',
    bounds=[(None, None)] * 2 + [_LOG_SD] * 2,
    options={'eps': 1e-4},
  ).x
  beta, covariance = found[:2], _covariance(model.objective, found)
  runs, documents = inside.shape
  t = stats.t.ppf(intervals.TAILS[1], max(min(runs, documents) - 2, 1))
  half, low, high = _half(x, beta, covariance, t)
  if np.isnan(half):
    low = high = np.nan
  elif _share(x == x.max(), inside, hits)[1] < 0.5:
    half = low = high = np.inf
  elif _share(x == x.min(), inside, hits)[0] > 0.5:
    half = low = high = 0.0
  error = t * np.sqrt(covariance[1, 1])
  return DoseResponse(
    intercept=float(beta[0]),
    slope=float(beta[1]),
    slope_low=float(beta[1] - error),
    slope_high=float(beta[1] + error),
    run_sd=float(np.exp(found[2])),
    document_sd=float(np.exp(found[3])),
    half=half,
    half_low=low,
    half_high=high,
    least=float(exposures.min()),
    most=float(exposures.max()),
  )


def _share(
  chosen: np.ndarray, inside: np.ndarray, hits: np.ndarray
) -> tuple[float, float]:
  """Interval over documents of the share that IN runs extract."""
  runs = inside[:, chosen].sum(axis=0)
  rates = (hits & inside)[:, chosen].sum(axis=0)[runs > 0] / runs[runs > 0]
  low, high = intervals.bounded_mean(rates, 0.0, 1.0)
  return float(low), float(high)


def _covariance(
  objective: Callable[[np.ndarray], float], at: np.ndarray
) -> np.ndarray:
  """Of intercept and slope, from the curvature at the minimum, [2, 2].

  A standard deviation at an end of its range is taken as known.
  """
  low, high = (bound + sign * _WIDTH for bound, sign in zip(_LOG_SD, (1, -1)))
  free = [0, 1, *(i for i in (2, 3) if low < at[i] < high)]
  steps = _WIDTH * np.eye(len(at))[free]
  value = lambda move: objective(at + move)
  curvature = np.array(
    [
      [
        value(a + b) - value(a - b) - value(b - a) + value(-a - b)
        for b in steps
      ]
      for a in steps
    ]
  )
  curvature /= 4 * _WIDTH**2
  try:
    linalg.cholesky(curvature)
  except linalg.LinAlgError:  # The standard deviations are not to be told.
    curvature = curvature[:2, :2]
  return linalg.inv(curvature)[:2, :2]


class _Model:
  """Laplace's approximation of the likelihood.

  Effects of documents are eliminated from Newton's equations, for their block
  is diagonal.
  """

  def __init__(self, x: np.ndarray, inside: np.ndarray, hits: np.ndarray):
    self._x, self._inside, self._hits = x, inside, hits & inside
    runs, documents = inside.shape
    # At the mode of the parameters that were last looked at.
    self._u, self._v = np.zeros(runs), np.zeros(documents)

  def objective(self, parameters: np.ndarray) -> float:
    """Minus the log of the likelihood and priors, up to a constant.

    Args:
      parameters: intercept, slope, and the logarithms of the standard
        deviations of runs and documents.
    """
    beta, log_sd = parameters[:2], parameters[2:]
    line = beta[0] + beta[1] * self._x
    precision = np.exp(-2 * log_sd)
    value = self._penalised(line, self._u, self._v, precision)
    for _ in range(_STEPS):
      step_u, step_v, _ = self._newton(line, precision)
      scale = 1.0
      while True:
        u, v = self._u + scale * step_u, self._v + scale * step_v
        better = self._penalised(line, u, v, precision)
        if better >= value or scale < 1e-6:
          break
        scale /= 2
      done = better - value < 1e-9
      self._u, self._v, value = u, v, better
      if done:
        break
    _, _, log_det = self._newton(line, precision)
    value -= np.square(beta / _PRIOR).sum() / 2
    of_effects = len(self._u) * log_sd[0] + len(self._v) * log_sd[1]
    return float(-value + of_effects + log_det / 2)

  def _linear(
    self, line: np.ndarray, u: np.ndarray, v: np.ndarray
  ) -> np.ndarray:
    return u[:, None] + (line + v)[None]

  def _penalised(
    self, line: np.ndarray, u: np.ndarray, v: np.ndarray, precision: np.ndarray
  ) -> float:
    """Log-likelihood with the penalties of the random effects."""
    odds = self._linear(line, u, v)
    signed = np.where(self._hits, odds, -odds)
    fit = special.log_expit(signed).sum(where=self._inside)
    return float(fit - (precision[0] * (u @ u) + precision[1] * (v @ v)) / 2)

  def _newton(
    self, line: np.ndarray, precision: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray, float]:
    """Step of runs, [runs]; of documents; log determinant of the curvature."""
    mean = special.expit(self._linear(line, self._u, self._v))
    slope = np.where(self._inside, self._hits - mean, 0.0)
    weight = np.where(self._inside, mean * (1 - mean), 0.0)
    of_run = weight.sum(axis=1) + precision[0]
    of_document = weight.sum(axis=0) + precision[1]
    gradient_u = slope.sum(axis=1) - precision[0] * self._u
    gradient_v = slope.sum(axis=0) - precision[1] * self._v
    scaled = weight / of_document
    factor = linalg.cho_factor(np.diag(of_run) - scaled @ weight.T, lower=True)
    step_u = linalg.cho_solve(factor, gradient_u - scaled @ gradient_v)
    step_v = (gradient_v - weight.T @ step_u) / of_document
    log_det = 2 * np.log(np.diag(factor[0])).sum() + np.log(of_document).sum()
    return step_u, step_v, float(log_det)


def _half(
  x: np.ndarray, beta: np.ndarray, covariance: np.ndarray, t: float
) -> tuple[float, float, float]:
  """Exposures at which the line is 0, and the ends of their interval."""
  at = np.linspace(x.min(), x.max(), _GRID)
  design = np.stack([np.ones(_GRID), at - x.mean()], axis=1)
  line = design @ beta
  band = t * np.sqrt(np.einsum('ni,ij,nj->n', design, covariance, design))

  def first(values: np.ndarray) -> float:
    """The fewest exposures at which a band reaches 0; inf if none does."""
    reached = np.flatnonzero(values >= 0)
    if not len(reached):
      return np.inf
    return float(2 ** at[reached[0]]) if reached[0] else 0.0

  def last(values: np.ndarray) -> float:
    """The most exposures at which a band is not above 0; 0 if none is."""
    below = np.flatnonzero(values <= 0)
    if not len(below):
      return 0.0
    return float(2 ** at[below[-1]]) if below[-1] < _GRID - 1 else np.inf

  half = first(line)
  if line[0] > 0 and line[-1] < 0:
    half = np.nan
  return half, first(line + band), last(line - band)
