"""Stage `dynamics`: what the logged epochs of the map runs tell."""

import collections
import dataclasses
import re

import numpy as np
import pandas as pd

from memloc_jax.estimators import histories, predictions, single_run
from memloc_jax.estimators.dynamics import Curve, Dynamics
from memloc_jax.estimators.dynamics import dynamics as estimate
from memloc_jax.study.view import View

# Runs from each of which alone memorisation is predicted.
_SINGLE = 8


def dynamics(study: View) -> None:
  """Writes `dynamics` and what belongs to it; nothing without logged epochs."""
  logged = study.workdir.read_array('epoch_logits')
  if logged is None:
    return
  membership = np.array(study.workdir.array('membership'))
  epochs = np.array(study.workdir.array('epochs'))
  labels = study.data.labels[study.noisy_set]
  noisy = study.data.noisy[study.noisy_set]
  groups = {'all': np.ones_like(noisy)}
  if noisy.any():
    groups |= {'noisy': noisy, 'clean': ~noisy}
  found = estimate(membership, logged, epochs, labels, groups)
  study.workdir.write_table('dynamics_epochs', _by_epoch(found))
  for name, values in {
    'dynamic_memorisation': found.dynamic.counterfactual_memorisation,
    'dynamic_memorisation_se': found.dynamic.se,
  }.items():
    study.workdir.write_array(name, values.astype(np.float32))
  table = _by_example(found)
  logits = study.workdir.array('logits')
  predicted = _from_one_run(study, membership, logged, epochs, logits, labels)
  if predicted is not None:
    study.workdir.write_table('single_run', _by_run(predicted))
    table['predicted'] = predicted.predicted
  study.workdir.write_table('dynamics', table)


def rarity(texts: tuple[str, ...]) -> np.ndarray:
  """How rare the words of a text are among all texts.

  Words are runs of letters, digits and underscores, in lower case.

  Args:
    texts: n of them.

  Returns:
    float64 [n, 3]: mean and largest surprisal in nats, -log of the share of
    the texts that have the word, over a text's distinct words (0 if there are
    none), and the logarithm of one more than the number of words.
  """
  words = [re.findall(r'\w+', text.lower()) for text in texts]
  having = collections.Counter(w for each in words for w in set(each))
  rows = []
  for each in words:
    surprisal = [np.log(len(texts) / having[w]) for w in set(each)] or [0.0]
    rows.append((np.mean(surprisal), max(surprisal), np.log1p(len(each))))
  return np.array(rows)


def _from_one_run(
  study: View,
  membership: np.ndarray,
  logged: np.ndarray,
  epochs: np.ndarray,
  logits: np.ndarray,
  labels: np.ndarray,
) -> single_run.SingleRun | None:
  """Memorisation predicted from single runs; None where runs are too few."""
  fold = single_run.folds(study.duplicates.cluster)
  if len(np.unique(fold)) < 2:
    return None
  share = np.bincount(labels)[labels] / len(labels)
  extra = np.column_stack(
    [rarity(study.data.texts), -np.log(share), study.duplicates.size]
  )
  single = {
    run: single_run.features(
      histories.of_run(logged, run, epochs, labels),
      membership[run],
      logits[run],
      labels,
      extra,
    )
    for run in range(min(_SINGLE, len(membership)))
  }
  values = np.concatenate(
    [
      predictions.probability(logits[:, at], labels[at])
      for at in predictions.blocks(len(labels))
    ],
    axis=1,
  )
  found = single_run.predict(membership, values, single, fold)
  return found if found.mean.examples else None


def _by_example(found: Dynamics) -> pd.DataFrame:
  sides = {
    'in': dataclasses.asdict(found.seen),
    'out': dataclasses.asdict(found.unseen),
  }
  return pd.DataFrame(
    {
      'index': np.arange(len(found.memorised_epoch)),
      'memorised_epoch': found.memorised_epoch,
      'predicted': np.nan,
    }
    | {
      f'{name}_{side}': of[name]
      for name in sides['in']
      for side, of in sides.items()
    }
  )


def _by_epoch(found: Dynamics) -> pd.DataFrame:
  """One row a group and logged epoch."""
  names = [field.name for field in dataclasses.fields(Curve)]
  return pd.concat(
    [
      pd.DataFrame(
        {'group': group, 'epoch': found.epochs}
        | {name: getattr(curve, name) for name in names}
      )
      for group, curve in found.curves.items()
    ],
    ignore_index=True,
  )


def _by_run(found: single_run.SingleRun) -> pd.DataFrame:
  """One row a single run, after that of their mean, run -1."""
  qualities = {-1: found.mean} | found.by_run
  return pd.DataFrame(
    [
      {'run': run} | dataclasses.asdict(quality)
      for run, quality in qualities.items()
    ]
  )
