"""Stage `estimate`: from predictions to scores per example."""

import dataclasses
import hashlib
import itertools

import numpy as np
import pandas as pd

from memloc_jax.curate import triage
from memloc_jax.estimators import (
  detection,
  fitting,
  flagging,
  predictions,
  sides,
)
from memloc_jax.estimators.memorisation import Memorisation, memorisation
from memloc_jax.study import attribution, pilot
from memloc_jax.study.view import View

# Counts of runs in no pair, see `flagging.counts`.
_SINGLE = ('in_right', 'in_runs', 'out_right', 'out_runs')


def estimate(study: View) -> None:
  """Writes what the map's predictions tell; nothing without map runs."""
  membership = study.workdir.read_array('membership')
  if membership is None:
    return
  logits = study.workdir.array('logits')
  data, labels = study.data, study.data.labels[study.noisy_set]
  noisy = data.noisy[study.noisy_set]
  scores = example_scores(membership, logits, labels)
  attributed = attribution.attribute(
    membership, logits, labels, data.label_names
  )
  held_out = _held_out(study, membership)
  examples = pd.DataFrame(
    {
      'index': np.arange(len(labels)),
      'id': data.ids,
      'hash': data.hashes,
      'text': data.texts,
      'given': np.array(data.label_names)[labels],
      'original': np.array(data.label_names)[data.labels[0]],
      'noisy': noisy,
    }
    | scores
    | attributed.columns
    | held_out
    | {
      'cluster': study.duplicates.cluster,
      'cluster_size': study.duplicates.size,
      'cluster_labels_disagree': study.duplicates.disagree(labels),
    }
  )
  if data.kinds is not None:
    examples['kind'] = data.kinds
  study.workdir.write_table('examples', examples)
  _write_triage(study, triage.rows(examples, data.positions))
  for name, table in attributed.tables.items():
    study.workdir.write_table(name, table)
  study.workdir.write_array('pred_probs', attributed.pred_probs)
  if forecast := pilot.forecast(membership, logits, labels):
    study.workdir.write_table('forecast', pd.DataFrame(forecast))
  found = detection.rows(
    {
      '1 - generalisation': 1 - scores['generalisation'],
      'counterfactual memorisation': scores['counterfactual_memorisation'],
    },
    noisy,
    labels,
    data.kinds,
    # What needs no runs that did not see the example, and no text.
    baselines={
      '1 - training memorisation': 1 - scores['training_memorisation'],
      'rarity of the given label': -np.bincount(labels)[labels].astype(float),
    },
  )
  if found:
    study.workdir.write_table('detection', pd.DataFrame(found))
  fit = dataclasses.asdict(
    fitting.in_accuracy(membership, logits, labels, noisy)
  )
  # JSON has no NaN, which is the accuracy on noisy labels where none are.
  fit = {name: None if np.isnan(x) else x for name, x in fit.items()}
  study.note(
    {
      'in_accuracy': fit,
      'flagging': _flagging(
        scores['flagged'],
        len(membership),
        study.config.map.ratio,
        len(sides.complementary(membership)),
      ),
    },
  )


def _held_out(study: View, membership: np.ndarray) -> dict[str, np.ndarray]:
  """Columns on held-out examples; missing without them."""
  logits = study.workdir.read_array('validation_logits')
  if logits is None:
    nothing = np.full(membership.shape[1], np.nan)
    return {'held_out_value': nothing, 'held_out_value_se': nothing}
  return attribution.held_out(membership, logits, study.data.validation_labels)


def _flagging(
  flagged: np.ndarray, runs: int, ratio: float, pairs: int
) -> dict[str, object]:
  """How many are flagged, and what share of memorised ones can be."""
  powers = pilot.powers(len(flagged), runs, ratio, pairs)
  return {
    'threshold': flagging.THRESHOLD,
    'rate': flagging.RATE,
    'flagged': int(flagged.sum()),
    'power': {f'{size:g}': power for size, power in powers.items()},
  }


def _write_triage(study: View, table: pd.DataFrame) -> None:
  """Writes `triage.csv`; where somebody has edited it, beside theirs."""
  path = study.workdir.path / 'triage.csv'
  digest = lambda: hashlib.sha256(path.read_bytes()).hexdigest()
  written = study.workdir.read_json('.triage.json') or {}
  if path.exists() and digest() != written.get('sha256'):
    names = (f'triage-edited-{i}.csv' for i in itertools.count(1))
    kept = next(n for n in names if not (study.workdir.path / n).exists())
    path.rename(study.workdir.path / kept)
    study.progress.warn(f'The edited triage.csv is now {kept}.')
  study.workdir.write_csv('triage', table)
  study.workdir.write_json('.triage.json', {'sha256': digest()})


def example_scores(
  membership: np.ndarray, logits: np.ndarray, labels: np.ndarray
) -> dict[str, np.ndarray]:
  """The score columns of the `examples` table, from `arrays/` alone.

  Args:
    membership: bool [runs, n].
    logits: [runs, n, classes]; looked at by blocks of examples, so that it
      may lie on disk.
    labels: given labels, int [n].

  Returns:
    Columns by name, each [n].
  """
  pairs = sides.complementary(membership)
  blocks = [
    _example_scores(
      membership[:, at], np.asarray(logits[:, at]), labels[at], pairs
    )
    for at in predictions.blocks(len(labels))
  ]
  columns = {
    name: np.concatenate([block[name] for block in blocks])
    for name in blocks[0]
  }
  # Over all examples at once, as it is about the flagged ones together.
  single = [columns.pop(f'single_{name}') for name in _SINGLE]
  differ = flagging.PairCounts(
    len(pairs), columns.pop('better'), columns.pop('worse')
  )
  flags = flagging.by_correctness(*single, pairs=differ)
  return columns | {'cm_q': flags.q, 'flagged': flags.flagged}


def _example_scores(
  membership: np.ndarray,
  logits: np.ndarray,
  labels: np.ndarray,
  pairs: np.ndarray,
) -> dict[str, np.ndarray]:
  """Columns of some examples, and the counts that their flags need."""
  correct = predictions.correctness(logits, labels)
  by_probability = memorisation(
    membership, predictions.probability(logits, labels), 'welch', pairs
  )
  by_correctness = memorisation(membership, correct, 'agresti_caffo', pairs)
  counts = flagging.counts(membership, correct, pairs)
  return {
    **{f'single_{name}': counts.pop(name) for name in _SINGLE},
    **counts,
    **_columns(by_probability, ''),
    'in_runs': by_probability.in_runs,
    'out_runs': by_probability.out_runs,
    **_columns(by_correctness, '_accuracy'),
  }


def _columns(scores: Memorisation, ending: str) -> dict[str, np.ndarray]:
  names = {
    'training_memorisation': scores.training_memorisation,
    'generalisation': scores.generalisation,
    'counterfactual_memorisation': scores.counterfactual_memorisation,
    'cm_se': scores.se,
    'cm_low': scores.low,
    'cm_high': scores.high,
  }
  return {f'{name}{ending}': values for name, values in names.items()}
