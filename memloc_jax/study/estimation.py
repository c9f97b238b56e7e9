"""Stage `estimate`: from predictions to scores per example."""

import dataclasses

import numpy as np
import pandas as pd

from memloc_jax.estimators import detection, fitting, predictions
from memloc_jax.estimators.memorisation import Memorisation, memorisation
from memloc_jax.study import attribution
from memloc_jax.study.context import Study
from memloc_jax.study.manifest import update_manifest
from memloc_jax.study.stages import stage


@stage('estimate', needs=('score',))
def estimate(study: Study) -> None:
  """Writes what the map's predictions tell; nothing without map runs."""
  membership = study.workdir.read_array('membership')
  if membership is None:
    return
  logits = study.workdir.read_array('logits')
  data, labels = study.data, study.data.labels[study.noisy_set]
  noisy = data.noisy[study.noisy_set]
  scores = example_scores(membership, logits, labels)
  attributed = attribution.attribute(
    membership, logits, labels, data.label_names
  )
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
  )
  if data.kinds is not None:
    examples['kind'] = data.kinds
  study.workdir.write_table('examples', examples)
  for name, table in attributed.tables.items():
    study.workdir.write_table(name, table)
  study.workdir.write_array('pred_probs', attributed.pred_probs)
  found = detection.rows(
    {
      '1 - generalisation': 1 - scores['generalisation'],
      'counterfactual memorisation': scores['counterfactual_memorisation'],
    },
    noisy,
    labels,
    data.kinds,
  )
  if found:
    study.workdir.write_table('detection', pd.DataFrame(found))
  fit = dataclasses.asdict(
    fitting.in_accuracy(membership, logits, labels, noisy)
  )
  # JSON has no NaN, which is the accuracy on noisy labels where none are.
  fit = {name: None if np.isnan(x) else x for name, x in fit.items()}
  update_manifest(study, {'in_accuracy': fit})


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
  blocks = [
    _example_scores(membership[:, at], np.asarray(logits[:, at]), labels[at])
    for at in predictions.blocks(len(labels))
  ]
  return {
    name: np.concatenate([block[name] for block in blocks])
    for name in blocks[0]
  }


def _example_scores(
  membership: np.ndarray, logits: np.ndarray, labels: np.ndarray
) -> dict[str, np.ndarray]:
  by_probability = memorisation(
    membership, predictions.probability(logits, labels), 'welch'
  )
  by_correctness = memorisation(
    membership, predictions.correctness(logits, labels), 'newcombe'
  )
  return {
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
