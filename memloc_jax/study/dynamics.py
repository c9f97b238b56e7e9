"""Stage `dynamics`: what the logged epochs of the map runs tell."""

import collections
import dataclasses
import re

import numpy as np
import pandas as pd

from memloc_jax.estimators import histories, predictions, single_run
from memloc_jax.estimators.dynamics import Curve, Dynamics
from memloc_jax.estimators.dynamics import dynamics as estimate
from memloc_jax.schema import (
  COUNT,
  FLOAT,
  POSITIVE,
  PROBABILITY,
  SIGNED,
  SIZE,
  TEXT,
  Kind,
  Table,
)
from memloc_jax.study.tables import HALF, OF_EXAMPLE, OR_MEAN
from memloc_jax.study.view import View

_UP_TO_1 = Kind(float, high=1)

TABLES = (
  Table(
    'dynamics',
    'training example',
    {
      **OF_EXAMPLE,
      'memorised_epoch': POSITIVE.or_missing(
        'first logged epoch at which counterfactual memorisation is at least '
        '0.25 and its 95 % interval is above 0; missing if there is none'
      ),
      'predicted': Kind(float, text='about -1 to 1').or_missing(
        'memorisation as predicted from single runs out of fold, their mean, '
        'see `single_run`; missing without that table'
      ),
      'forgetting_in forgetting_out': SIZE.or_missing(
        'forgetting events (Toneva et al., 2019): how often the given label '
        'is predicted at one logged epoch and no longer at the next; mean '
        'over the runs that predict it at some epoch, missing if none does'
      ),
      'never_learned_in never_learned_out': PROBABILITY.or_missing(
        'share of the runs that predict it at no logged epoch'
      ),
      'learning_epoch_in learning_epoch_out': Kind(float, 1).or_missing(
        'first logged epoch from which on it is predicted; a run that does '
        'not at the end is censored and counts as the epoch after the last, '
        'so the mean is a lower bound'
      ),
      'censored_in censored_out': PROBABILITY.or_missing('share of these runs'),
      'confidence_in confidence_out': PROBABILITY.or_missing(
        'dataset cartography (Swayamdipta et al., 2020): mean over epochs of '
        'the probability of the given label'
      ),
      'variability_in variability_out': HALF.or_missing(
        'its standard deviation over epochs'
      ),
      'correctness_in correctness_out': PROBABILITY.or_missing(
        'share of the epochs at which the given label is predicted'
      ),
      'aum_in aum_out': FLOAT.or_missing(
        'area under the margin (Pleiss et al., 2020): mean over epochs of the '
        "given label's logit minus the largest other one; low where the label "
        'is doubtful'
      ),
      'el2n_in el2n_out': Kind(float, 0, 2**0.5, text='0 to 1.41').or_missing(
        'EL2N (Paul et al., 2021): length of the vector of probabilities '
        'minus the one-hot label, at the first logged epoch that is at least '
        'a tenth of the last; high is hard'
      ),
    },
    text=(
      'What runs predict for the example after the logged epochs '
      '(`arrays/epochs.npy`), in evaluation mode, with `map.log_epochs`. A '
      'run that stopped early keeps its last predictions for the epochs that '
      'follow, since its weights no longer change. Columns come twice, as '
      'means over the IN runs (`_in`) and over the OUT runs (`_out`), missing '
      'without any.'
    ),
  ),
  Table(
    'dynamics_epochs',
    'group of examples and logged epoch',
    {
      'group': TEXT('`all`, `noisy` or `clean`'),
      'epoch': POSITIVE('logged epoch'),
      'examples': COUNT('in the group'),
      'memorisation': SIGNED.or_missing(
        'their mean counterfactual memorisation after that epoch'
      ),
      'se': SIZE.or_missing('its standard error'),
      'low high': FLOAT.or_missing(
        "its 95 % interval, Student's with K - 1 degrees of freedom"
      ),
      'in_accuracy out_accuracy': PROBABILITY.or_missing(
        'share of the pairs of an example and an IN (OUT) run in which the '
        'run predicts the given label'
      ),
      'memorised': PROBABILITY.or_missing(
        'share of the examples whose `memorised_epoch` has come'
      ),
    },
    text=(
      'Examples with fewer than two IN or OUT runs are left out. The standard '
      'error is over runs, which examples share.'
    ),
  ),
  Table(
    'single_run',
    'single run, and one with `run = -1` for their mean',
    {
      'run': OR_MEAN('row in `arrays/`, or -1'),
      'examples': COUNT(
        'compared: those with two IN and two OUT runs among the others'
      ),
      'r2': _UP_TO_1.or_missing(
        '1 - squared error / squared deviation from the mean; 0 is what the '
        'mean alone reaches'
      ),
      'r2_low r2_high': _UP_TO_1.or_missing(
        '95 % bootstrap interval over examples, and over single runs for '
        'their mean'
      ),
      'r2_in r2_out': _UP_TO_1.or_missing(
        'among examples that the run was trained on, and among the others'
      ),
      'reliability': PROBABILITY.or_missing(
        "of the other runs' estimate: the most that `r2` can be expected to "
        'reach'
      ),
      'corrected': _UP_TO_1.or_missing(
        '`r2 / reliability`, at most 1: against what endless runs would give; '
        'missing if `reliability` is 0'
      ),
      'corrected_low corrected_high': _UP_TO_1.or_missing(
        'its interval; missing where some resample has no reliability'
      ),
      'equivalent_runs': SIZE.or_missing(
        'size of the map whose scores are as reliable as `corrected`'
      ),
    },
    text=(
      'How much of counterfactual memorisation one run tells. A regression '
      "predicts it from a run's history of the example, its final margin and "
      "logits, and the rarity of the example's words and label, fitted for "
      'members and non-members of the run apart. What is predicted comes from '
      'all *other* runs, for examples that the regression was not fitted on; '
      'near-duplicates are in one fold. To save runs with it, memorisation of '
      'some examples must be known.'
    ),
  ),
)


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
