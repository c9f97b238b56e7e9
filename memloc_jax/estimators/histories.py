"""One run's history of every example: when it learns and forgets what.

What a run would do after it stopped is what it did last: its weights no
longer change, so its last logged state is carried forward.
"""

import dataclasses

import numpy as np

from memloc_jax.estimators import predictions


@dataclasses.dataclass(frozen=True)
class History:
  """One run's history of every example, at T logged epochs; [n] each.

  Attributes:
    forgetting: forgetting events (Toneva et al., 2019, section 3): how often
      an example that is predicted right at one logged epoch is predicted
      wrong at the next one; NaN where it is never right, for which they take
      infinity. They look whenever an example is trained on; logged epochs
      miss what happens in between.
    never_learned: whether it is right at no logged epoch.
    learning_epoch: first logged epoch from which on it stays right (Toneva et
      al., 2019, as Baldock et al., 2021, section 1, put it); the last logged
      epoch + 1 where it is wrong at the end.
    censored: whether it is, bool.
    confidence: mean over epochs of the given label's probability, in [0, 1]
      (dataset cartography, Swayamdipta et al., 2020, section 2), as the next
      two.
    variability: standard deviation of that probability over epochs, with
      divisor T, in [0, 0.5].
    correctness: share of the epochs at which it is right.
    aum: area under the margin (Pleiss et al., 2020, section 3.1): mean over
      epochs of the given label's logit minus the largest other one.
    el2n: length of the vector of probabilities minus the one-hot label (Paul
      et al., 2021, section 2), at `early`; in [0, root 2].
    margin: of the logits at the end.
    probability: of the given label, float64 [T, n].
    correct: whether the given label is predicted, bool [T, n].
  """

  forgetting: np.ndarray
  never_learned: np.ndarray
  learning_epoch: np.ndarray
  censored: np.ndarray
  confidence: np.ndarray
  variability: np.ndarray
  correctness: np.ndarray
  aum: np.ndarray
  el2n: np.ndarray
  margin: np.ndarray
  probability: np.ndarray
  correct: np.ndarray


def early(epochs: np.ndarray) -> int:
  """Position in `epochs`, [logged], of the first after a tenth of training.

  EL2N is meant for early training; Paul et al. (2021, section 3) take it after
  epoch 20 of 200.
  """
  return int(np.argmax(10 * np.asarray(epochs) >= epochs[-1]))


def of_run(
  epoch_logits: np.ndarray, run: int, epochs: np.ndarray, labels: np.ndarray
) -> History:
  """The history of one run.

  Args:
    epoch_logits: [runs, T, n, classes], NaN from the first logged epoch on
      that a run was not trained for; may lie on disk.
    run: which.
    epochs: that are logged, int [T].
    labels: given labels, int [n].

  Raises:
    ValueError: logits are not finite up to an epoch, the first or a later
      one, and NaN after it, the same for all examples.
  """
  history, examples = epoch_logits[run], len(labels)
  logged = np.isfinite(np.asarray(history[:, 0, 0]))
  trained = len(logged) if logged.all() else max(int(logged.argmin()), 1)
  shape = (len(epochs), examples)
  probability, correct = np.empty(shape), np.empty(shape, bool)
  aum, margin, el2n = np.empty((3, examples))
  number = np.arange(len(epochs))
  carried = np.minimum(number, trained - 1)
  for at in predictions.blocks(examples):
    values = np.array(history[:, at], np.float64)
    finite = np.isfinite(values).all(axis=2)
    odd = finite != (number < trained)[:, None]
    if odd.any():
      epoch, example = np.argwhere(odd)[0]
      raise ValueError(
        f'Run {run}, epoch {epochs[epoch]}, example {at.start + example}: '
        'logits must be finite up to the last epoch of a run and NaN after it.'
      )
    values, given = values[carried], labels[at]
    probability[:, at] = predictions.probability(values, given)
    correct[:, at] = predictions.correctness(values, given)
    margins = predictions.margin(values, given)
    aum[at], margin[at] = margins.mean(axis=0), margins[-1]
    el2n[at] = _el2n(values[early(epochs)], given)
  learned = np.any(correct, axis=0)
  events = (correct[:-1] & ~correct[1:]).sum(axis=0)
  # The epoch after the last wrong one.
  since = len(epochs) - np.argmin(correct[::-1], axis=0)
  since[correct.all(axis=0)] = 0
  following = np.append(epochs, epochs[-1] + 1)
  return History(
    forgetting=np.where(learned, events, np.nan),
    never_learned=~learned,
    learning_epoch=following[since].astype(np.float64),
    censored=~correct[-1],
    confidence=probability.mean(axis=0),
    variability=probability.std(axis=0),
    correctness=correct.mean(axis=0),
    aum=aum,
    el2n=el2n,
    margin=margin,
    probability=probability,
    correct=correct,
  )


def _el2n(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """L2 norm of softmax minus one-hot, [n] of [n, classes]."""
  probabilities = np.exp(logits - logits.max(axis=-1, keepdims=True))
  probabilities /= probabilities.sum(axis=-1, keepdims=True)
  probabilities[np.arange(len(labels)), labels] -= 1
  return np.linalg.norm(probabilities, axis=-1)
