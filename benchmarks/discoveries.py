"""What studies of few runs flag and foresee, compared with the other runs."""

import math
from typing import Any

import numpy as np

from benchmarks.intervals import Sample
from benchmarks.subsamples import Ensemble
from memloc_jax.estimators import flagging, sample_size
from memloc_jax.estimators.memorisation import from_sides

RATES = (0.05, 0.1)
# Memorisation that a search should not miss.
_STRONG = 0.5
_INTERVALS = {'correctness': 'agresti_caffo', 'probability': 'welch'}


def flags(study: Sample, kind: str) -> flagging.Flags:
  """The project's test of every example."""
  if kind == 'probability':
    return flagging.by_probability(study.seen, study.unseen)
  right = [
    np.rint(side.mean * side.runs).astype(int)
    for side in (study.seen, study.unseen)
  ]
  return flagging.by_correctness(
    right[0], study.seen.runs, right[1], study.unseen.runs
  )


def discoveries(ensemble: Ensemble, taken: np.ndarray) -> list[dict[str, Any]]:
  """Realised false discovery rate and power of flagging.

  An example is memorised if the score over the other runs is above the
  threshold. That score has an error, and there are always examples close to
  the threshold; so the rate is also given with only those for false that are
  below it by two standard errors.

  Args:
    ensemble: all runs.
    taken: which runs a study has, bool [draws, runs].

  Returns:
    A row for each kind of value and rate, means over studies: `memorised`
    examples, `flagged` examples, `fdr` (the share of false ones among the
    flagged, 0 where there are none), its standard error `fdr_se`, `fdr_most`
    (the largest share of any study), `fdr_clear`, `power` (share of memorised
    examples that are flagged) and `power_strong` (of those above 0.5); the
    powers are None where no study has such examples.
  """
  rows = []
  for kind in ensemble.values:
    found = {rate: [] for rate in RATES}
    for chosen in taken:
      q = flags(ensemble.take(chosen, kind), kind).q
      other = ensemble.take(~chosen, kind)
      for rate in RATES:
        found[rate].append(_one(q <= rate, other))
    for rate, studies in found.items():
      columns = {name: [s[name] for s in studies] for name in studies[0]}
      row = {name: _mean(values) for name, values in columns.items()}
      row['fdr_se'] = float(np.std(columns['fdr'])) / math.sqrt(len(taken))
      row['fdr_most'] = max(columns['fdr'])
      rows.append({'kind': kind, 'rate': rate} | row)
  return rows


def _one(flagged: np.ndarray, other: Sample) -> dict[str, float | None]:
  """One study's flags [n] and the other runs."""
  threshold = flagging.THRESHOLD
  memorised = other.score > threshold
  strong = other.score > _STRONG
  clear = other.score + 2 * np.sqrt(other.variance) < threshold
  share = lambda part, whole: float((part & whole).sum() / max(1, whole.sum()))
  power = lambda whole: share(flagged, whole) if whole.any() else None
  return {
    'memorised': float(memorised.sum()),
    'flagged': float(flagged.sum()),
    'fdr': share(~memorised, flagged),
    'fdr_clear': share(clear, flagged),
    'power': power(memorised),
    'power_strong': power(strong),
  }


def _mean(values: list[float | None]) -> float | None:
  known = [x for x in values if x is not None]
  return float(np.mean(known)) if known else None


def reliability(
  ensemble: Ensemble, taken: np.ndarray, sizes: tuple[int, ...]
) -> list[dict[str, Any]]:
  """Reliability of the ranking, predicted by one study and realised.

  Realised is the squared correlation with the score over the other runs,
  divided by the reliability of that score, which is close to 1.

  Args:
    ensemble: all runs.
    taken: which runs a study has, bool [draws, runs].
    sizes: numbers of runs for which the study also predicts it.

  Returns:
    A row for each kind of value: `predicted`, `realised` and their root mean
    square difference `rms`, over studies; and `at`, the mean prediction for
    each of `sizes`.
  """
  rows = []
  for kind in ensemble.values:
    predicted, realised = [], []
    for chosen in taken:
      study, other = ensemble.take(chosen, kind), ensemble.take(~chosen, kind)
      predicted.append(_reliability(study, kind))
      correlation = np.corrcoef(study.score, other.score)[0, 1]
      realised.append(correlation**2 / _reliability(other, kind))
    gaps = np.subtract(predicted, realised)
    runs = int(taken[0].sum())
    rows.append(
      {
        'kind': kind,
        'predicted': float(np.mean(predicted)),
        'realised': float(np.mean(realised)),
        'rms': float(np.sqrt(np.square(gaps).mean())),
        'at': {
          str(size): float(
            np.mean(
              [sample_size.reliability_at(r, runs, size) for r in predicted]
            )
          )
          for size in sizes
        },
      }
    )
  return rows


def _reliability(sample: Sample, kind: str) -> float:
  return sample_size.reliability(
    from_sides(sample.seen, sample.unseen, _INTERVALS[kind])
  )
