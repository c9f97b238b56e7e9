"""What one study says in one number: a row a study, a column a measure."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from memloc_jax.compare import contrasts, summary
from memloc_jax.compare.summary import MAIN, ComparedStudy
from memloc_jax.localisation import centroids
from memloc_jax.study.comparison import default_variants

# The paper's four, of which it takes the mean.
TECHNIQUES = ('swapping', 'retraining', 'gradients', 'probing')
# Of centroids, these are of the whole model.
_PLAIN = (centroids.WHOLE, '')


def measures(entries: Sequence[ComparedStudy]) -> pd.DataFrame:
  """Every measure of every study.

  Args:
    entries: from `summary.read`.

  Returns:
    `task`, `group`, `model`, and, missing where a study has no such thing:
    `generalisation`, mean over clean examples; `validation`, macro-F1 of the
    noisy models from 0, as good as shuffled labels, to 1; `mcog T`,
    `relative mcog T` and `depth T` of a technique T, in layers, from 0 to 1
    and the same calibrated, `mcog`, `relative mcog` and `depth` their means
    over the paper's four; `largest share T`, of a layer of the seeds' mean
    profile; `clean accuracy swapped`, mean over windows; `accuracy_1 T`, in the
    control setup; and layers of events E by their names, counted from 1, and
    `relative E`, from 0 for the first layer to 1 for the last.
  """
  return pd.DataFrame([_one(entry) for entry in entries])


def _one(entry: ComparedStudy) -> dict[str, object]:
  row: dict[str, object] = dict(entry.key)
  (sizes,) = summary.studies([entry]).to_dict('records')
  row['generalisation'] = sizes.get('generalisation', np.nan)
  if 'classes' in sizes:
    # Expected macro-F1 of a shuffle.
    chance = 1 / sizes['classes']
    score = sizes.get('validation_f1_noisy', np.nan)
    row['validation'] = (score - chance) / (1 - chance)
  depths = contrasts.depths([entry])
  if len(depths):
    by_technique = depths.assign(
      relative=summary.relative(depths['profile'], depths['layers'])
    ).set_index('technique')
    for name, of_one in by_technique.iterrows():
      row[f'mcog {name}'] = of_one['profile']
      row[f'relative mcog {name}'] = of_one['relative']
      row[f'depth {name}'] = of_one['depth']
    if set(TECHNIQUES) <= set(by_technique.index):
      four = by_technique.loc[list(TECHNIQUES)]
      row['mcog'] = four['profile'].mean()
      row['relative mcog'] = four['relative'].mean()
      row['depth'] = four['depth'].mean()
  profiles = summary.profiles([entry])
  if len(profiles):
    mean = profiles.groupby(['technique', 'layer'])['raw'].mean()
    for name, raw in mean.groupby(level='technique'):
      # A technique may find nothing in any layer, as probes of few examples do.
      whole = raw.sum() or np.nan
      row[f'largest share {name}'] = raw.max() / whole
  windows = entry.table('windows')
  if len(windows):
    of_one = windows[
      (windows['technique'] == 'swapping') & (windows['source'] == MAIN)
    ]
    row['clean accuracy swapped'] = of_one['clean_accuracy'].mean()
  events = summary.events([entry])
  if len(events):
    plain = events[events['setup'].isin(_PLAIN) & events['occurred']]
    row |= dict(zip(plain['event'], plain['layer']))
    layers = pd.Series(entry.manifest['model']['layers'], plain.index)
    relative = summary.relative(plain['layer'], layers)
    row |= dict(zip('relative ' + plain['event'], relative))
  controls = contrasts.controls([entry])
  if len(controls):
    default = default_variants(controls)
    for of_one in controls.itertuples():
      if default[of_one.technique] == of_one.variant:
        row[f'accuracy_1 {of_one.technique}'] = of_one.accuracy_1
  return row
