"""Stage `estimate`: from predictions to scores per example."""

import dataclasses
import hashlib
import itertools
from typing import Any

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
from memloc_jax.schema import (
  BOOL,
  COUNT,
  POSITIVE,
  PROBABILITY,
  SIGNED,
  SIZE,
  TEXT,
  Table,
)
from memloc_jax.study import attribution, decisions, pilot
from memloc_jax.study.progress import Progress
from memloc_jax.study.view import Files, View
from memloc_jax.study.workdir import CSV, Workdir

EXAMPLES = Table(
  'examples',
  'training example',
  {
    'index': COUNT('position in the training set'),
    'id': TEXT(
      "the source's own identity, or the position in the source, counted from 0"
    ),
    'hash': TEXT('first 16 hex digits of the SHA-256 of `text`'),
    'text': TEXT('text as the tokenizer got it'),
    'given': TEXT('name of the given label'),
    'original': TEXT(
      "name of the source's label, or of the right one by `task.true_label`"
    ),
    'noisy': BOOL('whether the two differ'),
    'training_memorisation': PROBABILITY.or_missing(
      'mean over IN runs of the probability of the given label'
    ),
    'generalisation': PROBABILITY.or_missing('mean over OUT runs of the same'),
    'counterfactual_memorisation': SIGNED.or_missing(
      '`training_memorisation - generalisation`; higher is more memorised'
    ),
    'cm_se': SIZE.or_missing(
      'its standard error, sqrt(s_in² / n_in + s_out² / n_out) with sample '
      'variances; the two runs of a pair (`map.pairs`) are not independent, '
      'and twice their covariance is taken off. Plain: without the '
      'correction that the interval has. Needs two runs on either side'
    ),
    'cm_low cm_high': SIGNED.or_missing(
      f'95 % interval: {sides.INTERVALS[sides.OF_PROBABILITY].meaning}'
    ),
    'in_runs out_runs': COUNT('number of IN and of OUT runs, n_in and n_out'),
    'training_memorisation_accuracy': PROBABILITY.or_missing(
      'as `training_memorisation`, with "predicts the given label" (0 or 1) '
      'in place of its probability'
    ),
    'generalisation_accuracy': PROBABILITY.or_missing(
      'as `generalisation`, in the same way: OUT accuracy, also known as '
      'Data-OOB (Kwon and Zou, 2023) and as the C-score (Jiang et al., '
      '2021) at one ratio: one number under three names, see `c_score`'
    ),
    'counterfactual_memorisation_accuracy': SIGNED.or_missing(
      'as `counterfactual_memorisation`, in the same way'
    ),
    'cm_se_accuracy': SIZE.or_missing('its standard error, as `cm_se`'),
    'cm_low_accuracy cm_high_accuracy': SIGNED.or_missing(
      f'95 % interval of that: {sides.INTERVALS[sides.OF_CORRECTNESS].meaning}'
    ),
    'cm_q': PROBABILITY.or_missing(
      'smallest false discovery rate (Benjamini and Hochberg, 1995) at '
      'which the example is among those with '
      '`counterfactual_memorisation_accuracy` above 0.25, by an exact '
      'one-sided test of the counts of runs that predict the given label '
      '(Farrington and Manning, 1990; Chan, 1998); low is surely memorised. '
      'Pairs have a test of their own (Tango, 1998), combined with that of '
      'the other runs (Good, 1955); 0.25 is the threshold of Feldman and '
      'Zhang (2020)'
    ),
    'flagged': BOOL(
      '`cm_q` is at most 0.05; few runs flag few examples, see `memloc plan`'
    ),
    'suggested': TEXT.or_missing(
      'likeliest class by the mean probabilities of OUT runs; missing '
      'without any'
    ),
    'category': TEXT(
      '`keep`: OUT runs agree with the given label; `relabel`: they agree '
      'on another; `review`: neither (its mean probability is below 0.5, '
      'fewer than 0.75 of them predict it, or `label_margin_low` is not '
      'above 0)'
    ),
    'label_margin': SIGNED.or_missing(
      'mean probability over OUT runs of the likeliest class other than the '
      'given one, minus that of the given one; high means that the label is '
      'doubtful'
    ),
    'label_margin_low': SIGNED.or_missing(
      'lower end of its 95 % interval: t, after adding one run at -1 and '
      'one at 1; to rank, `generalisation` is better ([label '
      'errors](results/label_errors.md))'
    ),
    'agreement': PROBABILITY.or_missing(
      'share of OUT runs that predict `suggested`'
    ),
    'data_value': SIGNED.or_missing(
      'mean influence of the example on all training examples, itself '
      'included; below 0 it does harm. It is the Data Banzhaf value (Wang '
      'and Jia, 2023) with the mean probability of the given labels as '
      'utility, if `map.ratio` is one half and neither `map.clusters` nor '
      '`map.small_class` is set; the same difference otherwise, which is '
      'then no Banzhaf value'
    ),
    'data_value_se': SIZE.or_missing('its standard error'),
    'attack_auc': PROBABILITY.or_missing(
      'how well LiRA tells the runs that saw the example from those that '
      'did not: area under the ROC over runs. Chance is below 0.5, since an '
      'attack that leaves its target out is pulled the other way: 0.42 with '
      '30 runs, 0.44 with 100 and 0.46 with 400 where nothing is memorised'
    ),
    'held_out_value': SIGNED.or_missing(
      'as `data_value`, with the validation set in place of the training '
      'examples: the value of Wang and Jia proper; missing without a '
      'validation set'
    ),
    'held_out_value_se': SIZE.or_missing('its standard error'),
    'cluster': COUNT(
      'smallest `index` among the examples that it is a near-duplicate of, '
      'directly or through others (`task.near_duplicates`); its own where '
      'there are none'
    ),
    'cluster_size': POSITIVE('examples in that cluster, itself included'),
    'cluster_labels_disagree': BOOL('whether their given labels differ'),
    'confirmed': BOOL(
      'whether a person has confirmed the given label, see `task.decisions`'
    ),
    'kind': TEXT.or_left_out(
      'only of the embedded task: `rule` or `exception`'
    ),
  },
  text=(
    'IN runs are the map runs that trained on the example, OUT runs those '
    'that did not; runs that diverged are in neither.'
  ),
  note=(
    'With `map.clusters`, near-duplicates are in the same runs, and all '
    'scores of an example are those of its cluster: what its given label '
    'gains by the whole cluster. Members of a cluster then help each other '
    'as much as themselves in `influence`. With `map.small_class` (and '
    '`map.small_class_ratio`), `in_runs` and `out_runs` differ by class, and '
    'so do the widths of intervals.\n\n'
    'Intervals are for one example at a time. Examples share their runs, so '
    'their errors are correlated. Source of the estimator: Feldman and '
    'Zhang (2020).'
  ),
)

TABLES = (
  EXAMPLES,
  *attribution.TABLES,
  Table(
    'forecast',
    'quality that might be wanted',
    {
      'quantity': TEXT(
        '`half-width` of 95 % intervals of counterfactual memorisation, or '
        '`reliability` of the ranking'
      ),
      'share': PROBABILITY.or_missing(
        'of the examples whose half-widths are at most so; missing for the '
        'ranking'
      ),
      'runs': POSITIVE('runs of this map'),
      'value': SIZE.or_missing('what it has reached'),
      'wanted': SIZE('what might be wanted'),
      'needed': POSITIVE.or_missing(
        'how many runs that takes in all; missing if there are too few to tell'
      ),
    },
    text=(
      'How many runs the map would need, estimated from the map at hand '
      '([planning.md](planning.md)).'
    ),
  ),
  Table(
    'detection',
    'comparison of a score on two groups of examples',
    {
      'score': TEXT(
        '`1 - generalisation` or `counterfactual memorisation`; the trivial '
        'baselines `1 - training memorisation`, which needs no run that did '
        'not see the example, and `rarity of the given label`'
      ),
      'baseline': BOOL('whether it is a trivial one'),
      'positives': TEXT(
        'group that should score higher: `noisy`, or `exception` (unchanged '
        'exceptions)'
      ),
      'negatives': TEXT(
        'group that should score lower: `clean`, or `rule` (unchanged '
        'rule-followers)'
      ),
      'within_class': BOOL(
        'computed within each given class and averaged, weighted by the '
        'number of positives; otherwise over all examples'
      ),
      'auroc': PROBABILITY.or_missing(
        'share of pairs in which the positive scores higher, ties half; 0.5 '
        'is chance'
      ),
      'auroc_low auroc_high': PROBABILITY.or_missing('its interval'),
      'average_precision': PROBABILITY.or_missing(
        'mean precision at the positives; chance is the share of positives'
      ),
      'ap_low ap_high': PROBABILITY.or_missing(
        'interval of the mean precision'
      ),
      'num_positive num_negative': COUNT('examples compared'),
      'num_excluded': COUNT(
        'left out: score missing, or class without the other group'
      ),
    },
    text=(
      'How well a score finds planted examples, or rows known to be wrong. '
      'Intervals are 95 % percentiles of 1000 bootstrap resamples of the '
      'examples.'
    ),
    note=(
      'The number within class is the one to trust. Uniform wrong labels '
      'flood the small classes, so the given label alone tells something.'
    ),
    claim='an AUROC above 0.5',
    baselines=True,
  ),
)


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
  given = np.array(data.label_names)[labels]
  confirmed = decisions.confirmed(
    study.config.task.decisions, data.hashes, given
  )
  examples = pd.DataFrame(
    {
      'index': np.arange(len(labels)),
      'id': data.ids,
      'hash': data.hashes,
      'text': data.texts,
      'given': given,
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
      'confirmed': confirmed,
    }
  )
  if data.kinds is not None:
    examples['kind'] = data.kinds
  study.workdir.write_table('examples', examples)
  write_triage(
    study.workdir, study.progress, triage.rows(examples, data.positions)
  )
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
  """How many are flagged, and what share of memorised ones can be.

  `power` assumes that one in twenty is memorised; `chance`, of one more
  example, is given the flags that there are.
  """
  count = int(flagged.sum())
  by_size = lambda found: {f'{size:g}': share for size, share in found.items()}
  found = {
    'threshold': flagging.THRESHOLD,
    'rate': flagging.RATE,
    'flagged': count,
    'power': by_size(pilot.powers(len(flagged), runs, ratio, pairs)),
  }
  if count:
    chances = pilot.chances(len(flagged), count, runs, ratio, pairs)
    found['chance'] = by_size(chances)
  return found


def write_triage(
  workdir: Workdir | Files,
  progress: Progress,
  table: pd.DataFrame,
  only_new: bool = False,
) -> None:
  """Writes `triage.csv`; where somebody has edited it, beside theirs.

  Args:
    workdir: the folder, or what a stage sees of it.
    progress: where to say what has become of an edited list.
    table: what `triage.rows` returns.
    only_new: whether a list stays as it was edited if this is no other one.
  """
  path = workdir.path / 'triage.csv'
  digest = lambda content: hashlib.sha256(content).hexdigest()
  written = workdir.read_json('.triage.json') or {}
  new = digest(table.to_csv(**CSV).encode())
  if only_new and path.exists() and new == written.get('sha256'):
    return
  if path.exists() and digest(path.read_bytes()) != written.get('sha256'):
    names = (f'triage-edited-{i}.csv' for i in itertools.count(1))
    kept = next(n for n in names if not (workdir.path / n).exists())
    path.rename(workdir.path / kept)
    progress.warn(f'The edited triage.csv is now {kept}.')
  workdir.write_csv('triage', table)
  workdir.write_json('.triage.json', {'sha256': new})


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
  single: dict[str, Any] = {
    name: columns.pop(f'single_{name}') for name in _SINGLE
  }
  differ = flagging.PairCounts(
    len(pairs), columns.pop('better'), columns.pop('worse')
  )
  flags = flagging.by_correctness(**single, pairs=differ)
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
    membership,
    predictions.probability(logits, labels),
    sides.OF_PROBABILITY,
    pairs,
  )
  by_correctness = memorisation(
    membership, correct, sides.OF_CORRECTNESS, pairs
  )
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
