"""How models that are given are read out: what fits the labels they learnt.

A checkpoint does not say what its classification head reads. A BERT classifier
holds its pooler whether or not the code that trained it applied it, and read
in the wrong way a model that fits its labels predicts at random.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from memloc_jax.ensemble import metrics
from memloc_jax.errors import InputError

AUTO = 'auto'
# Most training examples that each model is scored on.
EXAMPLES = 256
# A model fits its labels from this agreement beyond chance (Cohen's kappa) ...
_KAPPA = 0.2
# ... and from so many standard deviations of what shuffled labels give.
_DEVIATIONS = 3.0
# From this sign statistic over examples, one read-out is clearly better.
_CLEARLY = 3.0


@dataclasses.dataclass(frozen=True)
class Fit:
  """How well a model, read out in one way, predicts the labels it learnt.

  Attributes:
    macro_f1: over classes.
    accuracy: share of the examples.
    chance: accuracy of the same predictions against shuffled labels.
    fits: whether the accuracy is clearly above that.
    hits: which examples are predicted, bool [m].
  """

  macro_f1: float
  accuracy: float
  chance: float
  fits: bool
  hits: np.ndarray


def measure(logits: np.ndarray, labels: np.ndarray) -> Fit:
  """Compares predictions with labels.

  Args:
    logits: [m, classes].
    labels: [m].

  Returns:
    Scores. The deviation of the number of hits over permutations of the labels
    is exact (Hoeffding, 1951, "A combinatorial central limit theorem").
  """
  m, classes = logits.shape
  everything = np.ones((1, m), bool)
  accuracy, macro_f1 = metrics.scores(logits[None], labels[None], everything)
  predicted = logits.argmax(-1)
  guessed = np.bincount(predicted, minlength=classes).astype(np.float64)
  given = np.bincount(labels, minlength=classes).astype(np.float64)
  matches = guessed @ given
  chance = matches / m**2
  squares = matches + chance * matches
  squares -= (guessed @ given**2 + guessed**2 @ given) / m
  deviation = math.sqrt(max(squares, 0.0) / max(m - 1, 1))
  hits = predicted == labels
  beyond = hits.sum() - m * chance
  fits = beyond >= _KAPPA * m * (1 - chance) and beyond > 0
  fits &= beyond >= _DEVIATIONS * deviation
  return Fit(
    float(macro_f1[0]), float(accuracy[0]), float(chance), bool(fits), hits
  )


@dataclasses.dataclass(frozen=True)
class Scored:
  """A model that is given.

  Attributes:
    role: its setting, as 'noisy'.
    seed: of the run whose place it takes.
    place: setting and folder, for messages.
    must_fit: whether it is to fit its labels; the reference whose blocks were
      frozen need not.
    fits: by read-out that its checkpoint allows, the one of `transformers`
      first.
  """

  role: str
  seed: int
  place: str
  must_fit: bool
  fits: dict[str, Fit]

  def clearly(self) -> str | None:
    """The read-out that fits clearly better than all others, if one does."""
    best = max(self.fits, key=lambda name: self.fits[name].accuracy)
    others = [name for name in self.fits if name != best]
    if self.fits[best].fits and all(
      _better(self.fits[best], self.fits[name]) for name in others
    ):
      return best
    return None

  def told(self) -> str:
    """The scores of every read-out."""
    return ', '.join(
      f'{fit.macro_f1:.2f} by {name}' for name, fit in self.fits.items()
    )


def _better(one: Fit, other: Fit) -> bool:
  """McNemar's comparison of two ways of predicting the same examples."""
  won = int((one.hits & ~other.hits).sum())
  lost = int((other.hits & ~one.hits).sum())
  return won - lost >= _CLEARLY * math.sqrt(max(won + lost, 1))


@dataclasses.dataclass(frozen=True)
class Decision:
  """How the main models of a study are read out.

  Attributes:
    name: of the read-out, as the family knows it.
    why: in a sentence; '' where no model is given.
    scores: of every given model and read-out, for the manifest.
  """

  name: str
  why: str = ''
  scores: tuple[dict[str, Any], ...] = ()


def decide(scored: Sequence[Scored], wanted: str = AUTO) -> Decision:
  """The one read-out of all models that are given.

  Args:
    scored: all of them, at least one.
    wanted: a read-out that all of them allow; or 'auto': the one that fits
      clearly better. If two fit equally well, it is that of `transformers`.

  Returns:
    The decision.

  Raises:
    InputError: there is none, of which the message gives the scores.
  """
  if wanted == AUTO:
    _refuse_unfit(scored)
    name, reason = _best(scored)
  else:
    name, reason = wanted, 'as --config.model.read_out says'
  count = len(next(iter(scored[0].fits.values())).hits)
  names = list(dict.fromkeys(n for one in scored for n in one.fits))
  lowest = ', '.join(
    f'{other} {min(values):.2f}'
    for other in sorted(names, key=lambda n: n != name)
    if (
      values := [
        one.fits[other].macro_f1
        for one in scored
        if other in one.fits and (one.must_fit or len(scored) == 1)
      ]
    )
  )
  return Decision(
    name,
    f'Given models are read out at {name}, {reason}; lowest macro-F1 on the '
    f'labels that they learnt ({count} examples, models: {len(scored)}): '
    f'{lowest}.',
    tuple(
      {
        'purpose': one.role,
        'seed': one.seed,
        'read_out': other,
        'macro_f1': round(fit.macro_f1, 4),
        'accuracy': round(fit.accuracy, 4),
        'chance': round(fit.chance, 4),
        'fits': fit.fits,
      }
      for one in scored
      for other, fit in one.fits.items()
    ),
  )


def unfit(scored: Sequence[Scored], name: str) -> list[Scored]:
  """Models that do not fit their labels when they are read out at `name`."""
  return [one for one in scored if one.must_fit and not one.fits[name].fits]


def _refuse_unfit(scored: Sequence[Scored]) -> None:
  for one in scored:
    if one.must_fit and not any(fit.fits for fit in one.fits.values()):
      chance = max(fit.chance for fit in one.fits.values())
      raise InputError(
        f'{one.place} does not fit the labels that it is said to have learnt: '
        f'macro-F1 {one.told()} (accuracy '
        f'{max(f.accuracy for f in one.fits.values()):.2f}, by chance '
        f'{chance:.2f}); check that the study has the task, task.limit, '
        'task.noise and task.seed that it was trained with, or take it as it '
        'is by naming its read-out in --config.model.read_out.'
      )


def _best(scored: Sequence[Scored]) -> tuple[str, str]:
  """The common read-out, and the reason for it."""
  clear: dict[str, Scored] = {}
  for one in scored:
    if (name := one.clearly()) is not None:
      clear.setdefault(name, one)
  allowed = [
    name for name in scored[0].fits if all(name in one.fits for one in scored)
  ]
  possible = [name for name in allowed if not unfit(scored, name)]
  if len(clear) > 1 or not possible or not clear.keys() <= set(possible):
    _refuse_disagreement(scored, clear)
  if len(allowed) == 1 == max(len(one.fits) for one in scored):
    return allowed[0], 'the only way that their checkpoints allow'
  if clear:
    return next(iter(clear)), 'which fits clearly better than any other'
  best = possible[0]
  if best == allowed[0]:
    return best, 'as transformers does, since no other fits clearly better'
  return best, 'the one at which all of them fit'


def _refuse_disagreement(
  scored: Sequence[Scored], clear: dict[str, Scored]
) -> None:
  """Names two models that no read-out goes with."""
  pair = list(clear.values())[:2]
  if len(pair) < 2:
    first = pair[0] if pair else next(one for one in scored if one.must_fit)
    name = next(name for name, fit in first.fits.items() if fit.fits)
    name = next(iter(clear), name)
    other = next(
      one
      for one in scored
      if one is not first
      and (name not in one.fits or (one.must_fit and not one.fits[name].fits))
    )
    pair = [first, other]
  first, second = pair
  raise InputError(
    f'{first.place} and {second.place} are not read out in the same way: '
    f'macro-F1 on the labels that they learnt is {first.told()} for the first '
    f'and {second.told()} for the second; give models that were trained by the '
    'same code.'
  )
