"""Accuracy and macro-F1 of many runs at once, on the host."""

import numpy as np

# Training macro-F1 from which the paper calls a training set memorised.
FITTED = 0.993


def epoch_fitted(epoch: np.ndarray, macro_f1: np.ndarray) -> int | None:
  """First epoch with a macro-F1 of at least `FITTED`, or None.

  Args:
    epoch: evaluated epochs, increasing, [evaluations].
    macro_f1: on the run's own labels after each, [evaluations].
  """
  fitted = epoch[macro_f1 >= FITTED]
  return int(fitted[0]) if len(fitted) else None


def scores(
  logits: np.ndarray, labels: np.ndarray, member: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Accuracy and macro-averaged F1.

  Args:
    logits: [runs, n, classes]; those of non-members are not looked at.
    labels: [runs, n].
    member: examples that count, bool [runs, n].

  Returns:
    Accuracy [runs] and macro-F1 [runs], the mean of F1 over the classes that
    occur among a run's labels or predictions (scikit-learn's convention).
    NaN for a run without finite logits or without examples.
  """
  runs, _, classes = logits.shape
  predicted = logits.argmax(-1)
  row = np.arange(runs)[:, None] * classes
  count = lambda values, where: np.bincount(
    (row + values)[where], minlength=runs * classes
  ).reshape(runs, classes)
  hits = count(labels, member & (predicted == labels))
  given, guessed = count(labels, member), count(predicted, member)
  occurs = (given + guessed) > 0
  with np.errstate(invalid='ignore', divide='ignore'):
    accuracy = hits.sum(1) / member.sum(1)
    f1 = np.where(occurs, 2 * hits / (given + guessed), 0.0)
    macro_f1 = f1.sum(1) / occurs.sum(1)
  finite = (np.isfinite(logits).all(2) | ~member).all(1)
  return np.where(finite, accuracy, np.nan), np.where(finite, macro_f1, np.nan)
