"""Which given labels are wrong, by runs that were not trained on them."""

import dataclasses

import numpy as np
from scipy import stats

from memloc_jax.estimators import intervals, streaming


@dataclasses.dataclass(frozen=True)
class LabelErrors:
  """Held-out evidence on every given label, from OUT runs only.

  OUT runs are the runs that were not trained on the example. Examples without
  any have NaN, suggested label -1 and category 'review'.

  Attributes:
    pred_probs: mean class probabilities, float32 [n, classes]; rows sum to 1.
      The `pred_probs` of cleanlab, held out for every example.
    self_confidence: mean probability of the given label, in [0, 1], float64
      [n]; lower is more suspicious. It is `Memorisation.generalisation` on
      probabilities.
    suggested: class of the largest mean probability, int64 [n]; the given
      label where it is among the largest, else the first of them.
    margin: mean probability of the rival, the likeliest class other than the
      given label (so the suggested one, where they differ), minus that of the
      given label, in [-1, 1], float64 [n].
    margin_low: lower end of the margin's 95 % interval, float64 [n], see
      `label_errors`.
    agreement: share of OUT runs that predict the suggested label, in [0, 1],
      float64 [n].
    category: 'keep', 'relabel' or 'review', str [n], see `label_errors`.
    out_runs: number of OUT runs, int64 [n].
  """

  pred_probs: np.ndarray
  self_confidence: np.ndarray
  suggested: np.ndarray
  margin: np.ndarray
  margin_low: np.ndarray
  agreement: np.ndarray
  category: np.ndarray
  out_runs: np.ndarray


def label_errors(
  membership: np.ndarray,
  logits: np.ndarray,
  labels: np.ndarray,
  confidence: float = 0.5,
  agreement: float = 0.75,
  margin: float = 0.0,
) -> LabelErrors:
  """Scores to rank label errors by, and what to do about each example.

  The category is 'review' where held-out runs do not know: the suggested
  label's mean probability is below `confidence` (so every class's is), fewer
  than a share `agreement` of the OUT runs predict it, it differs from the
  given label but `margin_low` is not above `margin`, or there is no OUT run.
  Otherwise it is 'keep' where the suggested label is the given one and
  'relabel' where it is not.

  The interval of the margin is Welch's after one pseudo-run at either end of
  the range, at -1 and at 1, as in `memorisation`; both probabilities are of
  the same runs, so it is the t interval of their difference, with k + 1
  degrees of freedom for k OUT runs. The rival is chosen by the same runs,
  which makes the margin of close rivals too large. It is an interval for one
  example at a time.

  Args:
    membership: whether a run was trained on an example, bool [runs, n].
      Failed runs are left out by the caller.
    logits: [runs, n, classes], any float type; may be a memory map, which is
      read in blocks of examples.
    labels: given labels, int [n].
    confidence: least mean probability of a label that is kept or suggested,
      in [0, 1].
    agreement: least share of OUT runs that predict it, in [0, 1].
    margin: what `margin_low` must exceed to relabel, in [-1, 1].

  Returns:
    Scores per example.

  Raises:
    ValueError: the shapes do not fit, a label is no class, a logit is not
      finite, or a threshold is out of its range.
  """
  membership = np.asarray(membership, bool)
  if logits.ndim != 3 or membership.shape != logits.shape[:2]:
    raise ValueError(
      f'membership {membership.shape} and logits {logits.shape} must be '
      '[runs, n] and [runs, n, classes].'
    )
  for name, value, least in (
    ('confidence', confidence, 0),
    ('agreement', agreement, 0),
    ('margin', margin, -1),
  ):
    if not least <= value <= 1:
      raise ValueError(f'{name} {value} is not in [{least}, 1].')

  n, classes = logits.shape[1:]
  out_runs = (~membership).sum(axis=0)
  mean = np.full((n, classes), np.nan)
  suggested = np.full(n, -1)
  agreed = np.full(n, np.nan)
  difference = np.full(n, np.nan)
  low = np.full(n, np.nan)
  for block, values in streaming.logit_blocks(logits, labels):
    outside = ~membership[:, block]
    runs = out_runs[block]
    some = runs > 0
    predicted = values.argmax(axis=-1)
    values -= values.max(axis=-1, keepdims=True)
    np.exp(values, out=values)
    values /= values.sum(axis=-1, keepdims=True)
    average = np.einsum('rb,rbc->bc', outside, values)
    average /= np.maximum(runs, 1)[:, None]
    leader, rival = _leaders(average, labels[block])
    gaps = _at(values, rival) - _at(values, labels[block])
    votes = np.sum(predicted == leader, axis=0, where=outside)
    mean[block][some] = average[some]
    suggested[block][some] = leader[some]
    agreed[block][some] = votes[some] / runs[some]
    difference[block], low[block] = _margin(outside, gaps)

  given = np.take_along_axis(mean, labels[:, None], axis=1)[:, 0]
  known = (mean.max(axis=1, initial=-1.0) >= confidence) & (agreed >= agreement)
  keep = known & (suggested == labels)
  relabel = known & (suggested != labels) & (low > margin)
  return LabelErrors(
    pred_probs=mean.astype(np.float32),
    self_confidence=given,
    suggested=suggested,
    margin=difference,
    margin_low=low,
    agreement=agreed,
    category=np.where(keep, 'keep', np.where(relabel, 'relabel', 'review')),
    out_runs=out_runs,
  )


def _at(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
  """Each example's value of its chosen class, [runs, block]."""
  return np.take_along_axis(values, chosen[None, :, None], axis=-1)[..., 0]


def _leaders(
  average: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """(Suggested label, likeliest class other than the given), int [block]."""
  index = np.arange(len(labels))
  others = average.copy()
  others[index, labels] = -np.inf
  rival = others.argmax(axis=1)
  ahead = average[index, rival] > average[index, labels]
  return np.where(ahead, rival, labels), rival


def _margin(
  outside: np.ndarray, gaps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """(Mean, lower end of its 95 % interval) over OUT runs, NaN without any.

  Args:
    outside: bool [runs, block].
    gaps: differences of two probabilities, in [-1, 1], [runs, block].
  """
  runs = outside.sum(axis=0)
  total = gaps.sum(axis=0, where=outside)
  # The pseudo-runs add 0 to the total and 2 to the squares.
  size = runs + 2
  centre = total / size
  squares = np.square(gaps).sum(axis=0, where=outside) + 2
  variance = (squares - size * np.square(centre)) / (size * (size - 1))
  quantile = stats.t.ppf((1 + intervals.CONFIDENCE) / 2, size - 1)
  low = centre - quantile * np.sqrt(variance)
  some = runs > 0
  mean = np.where(some, total / np.maximum(runs, 1), np.nan)
  return mean, np.where(some, np.maximum(low, -1), np.nan)
