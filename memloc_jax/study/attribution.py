"""Label errors, influence and membership inference as columns and tables.

All of it comes from the map's predictions; nothing is trained.
"""

import dataclasses

import numpy as np
import pandas as pd
from scipy import special

from memloc_jax.estimators import privacy, roc, sides
from memloc_jax.estimators.influence import Neighbours, influence
from memloc_jax.estimators.label_errors import label_errors
from memloc_jax.schema import (
  COUNT,
  PROBABILITY,
  SIGNED,
  SIZE,
  TEXT,
  Kind,
  Table,
)

TABLES = (
  Table(
    'influence',
    'training example and another one that helps it',
    {
      'index': COUNT('the example that is helped'),
      'rank': Kind(int, 1, 10)('1 for its largest influence'),
      'helper': COUNT('the training example that helps, by its `index`'),
      'influence': SIGNED(
        'mean over runs that saw the helper minus mean over the others, of the '
        'probability of the label'
      ),
      'influence_se': SIZE.or_missing('its standard error, as `cm_se`'),
    },
    text=(
      'These are the ten with the largest influence, the example itself left '
      'out. Influence is that of Feldman and Zhang (2020): how much more '
      'probable the given label is, on average, with runs that saw the helper '
      'than with runs that did not. Most of these numbers are noise where '
      'runs are few; the standard error says so.'
    ),
  ),
  Table(
    'privacy',
    'attack, scope and false positive rate',
    {
      'attack': TEXT('`LiRA` or `RMIA`'),
      'scope': TEXT(
        '`pooled`: all targets and examples in one ROC; `by_target`: the mean '
        'over targets'
      ),
      'auc': PROBABILITY.or_missing('area under the ROC; 0.5 is chance'),
      'auc_low auc_high': PROBABILITY.or_missing(
        '95 % bootstrap interval over targets'
      ),
      'fpr': PROBABILITY(
        'false positive rate; 0.001 needs 10 000 non-members and is 0.01 '
        'otherwise'
      ),
      'tpr': PROBABILITY.or_missing(
        'true positive rate there; `fpr` is chance'
      ),
      'tpr_low tpr_high': PROBABILITY.or_missing('its interval'),
      'num_targets num_members num_non_members': COUNT('what was compared'),
    },
    text=(
      'How well an attacker tells which examples a run was trained on. Each '
      'run is the target in turn, and its own predictions are left out of '
      'what the attack is fitted on. LiRA is that of Carlini et al. (2022), '
      'online; RMIA that of Zarifzadeh et al. (2024).'
    ),
  ),
  Table(
    'privacy_curve',
    'point of the pooled ROC of an attack',
    {
      'attack': TEXT('`LiRA` or `RMIA`'),
      'fpr tpr': PROBABILITY('false and true positive rate'),
    },
    text='At most 302 points per attack, spaced for logarithmic axes.',
  ),
)


# Rows of the `influence` table for each example.
_NEIGHBOURS = 10


@dataclasses.dataclass(frozen=True)
class Attribution:
  """What a map's predictions say beyond memorisation scores.

  Attributes:
    columns: of the `examples` table, each [n].
    tables: `influence`, `privacy` and `privacy_curve`.
    pred_probs: mean class probabilities of OUT runs, float32 [n, classes].
  """

  columns: dict[str, np.ndarray]
  tables: dict[str, pd.DataFrame]
  pred_probs: np.ndarray


def attribute(
  membership: np.ndarray,
  logits: np.ndarray,
  labels: np.ndarray,
  label_names: tuple[str, ...],
) -> Attribution:
  """Everything that the map's arrays hold about examples and pairs of them.

  Args:
    membership: bool [runs, n].
    logits: [runs, n, classes]; may lie on disk.
    labels: given labels, int [n].
    label_names: name of each class.

  Returns:
    The columns and tables.
  """
  errors = label_errors(membership, logits, labels)
  scaled = privacy.scaled_logits(logits, labels)
  found = influence(
    membership,
    special.expit(scaled),
    k=_NEIGHBOURS,
    exclude_self=True,
    pairs=sides.complementary(membership),
  )
  attacks = {
    'LiRA': privacy.lira(membership, scaled),
    'RMIA': privacy.rmia(membership, scaled),
  }
  curves = {name: roc.roc(membership, x) for name, x in attacks.items()}
  suggested = np.array([*label_names, None])[errors.suggested]
  return Attribution(
    columns={
      'suggested': suggested,
      'category': errors.category,
      'label_margin': errors.margin,
      'label_margin_low': errors.margin_low,
      'agreement': errors.agreement,
      'data_value': found.value,
      'data_value_se': found.value_se,
      'attack_auc': roc.example_auc(membership, attacks['LiRA']),
    },
    tables={
      'influence': _pairs(found.helpers),
      'privacy': pd.DataFrame(
        [row for name, curve in curves.items() for row in _quality(name, curve)]
      ),
      'privacy_curve': pd.concat(
        [
          pd.DataFrame(
            {'attack': name, 'fpr': curve.curve_fpr, 'tpr': curve.curve_tpr}
          )
          for name, curve in curves.items()
        ],
        ignore_index=True,
      ),
    },
    pred_probs=errors.pred_probs,
  )


def held_out(
  membership: np.ndarray, logits: np.ndarray, labels: np.ndarray
) -> dict[str, np.ndarray]:
  """What training examples are worth to examples that no run was trained on.

  Args:
    membership: of the n training examples, bool [runs, n].
    logits: of the m held-out examples, [runs, m, classes].
    labels: their labels, int [m].

  Returns:
    Columns of the `examples` table, each [n].
  """
  values = special.expit(privacy.scaled_logits(logits, labels))
  pairs = sides.complementary(membership)
  found = influence(membership, values, k=1, pairs=pairs)
  return {
    'held_out_value': found.value,
    'held_out_value_se': found.value_se,
  }


def _pairs(helpers: Neighbours) -> pd.DataFrame:
  """One row an example and one that helps it, most helpful first."""
  count, k = helpers.index.shape
  table = pd.DataFrame(
    {
      'index': np.repeat(np.arange(count), k),
      'rank': np.tile(np.arange(1, k + 1), count),
      'helper': helpers.index.ravel(),
      'influence': helpers.influence.ravel(),
      'influence_se': helpers.se.ravel(),
    }
  )
  return table[table['helper'] >= 0].reset_index(drop=True)


def _quality(name: str, curve: roc.Roc) -> list[dict[str, object]]:
  """A row each for pooled and by-target numbers and each rate."""
  rows = []
  for scope in ('pooled', 'by_target'):
    quality = getattr(curve, scope)
    for at, rate in enumerate(quality.rates):
      rows.append(
        {
          'attack': name,
          'scope': scope,
          'auc': quality.auc,
          'auc_low': quality.auc_low,
          'auc_high': quality.auc_high,
          'fpr': rate,
          'tpr': quality.tpr[at],
          'tpr_low': quality.tpr_low[at],
          'tpr_high': quality.tpr_high[at],
          'num_targets': curve.num_targets,
          'num_members': curve.num_members,
          'num_non_members': quality.num_non_members,
        }
      )
  return rows
