"""Stage `variance`: how much of it between runs is seeds, how much subsets."""

import numpy as np
import pandas as pd

from memloc_jax.estimators import predictions
from memloc_jax.estimators.variance import components
from memloc_jax.study.crossing import CROSSED
from memloc_jax.study.view import View


def variance(study: View) -> None:
  """Writes `variance` and its averages; nothing without `map.crossed`."""
  if CROSSED not in study.tables:
    return
  subsets, seeds = study.config.map.crossed
  labels = study.data.labels[study.noisy_set]
  values = np.empty((subsets * seeds, len(labels)))
  done = np.empty(subsets * seeds, bool)
  for row, hash in enumerate(study.hashes[CROSSED]):
    record = study.store.read(CROSSED, row, hash)
    done[row] = record.status == 'done'
    values[row] = predictions.probability(record.logits[None], labels)[0]
  # Every subset needs all its seeds.
  whole = done.reshape(subsets, seeds).all(1)
  if whole.sum() < 2:
    study.progress.warn(
      f'Only {whole.sum()} of {subsets} subsets of the crossed runs have no '
      'run that diverged; their variance is left out.'
    )
    return
  member = study.tables[CROSSED].runs.membership[::seeds]
  found = components(values.reshape(subsets, seeds, -1)[whole], member[whole])
  study.workdir.write_table(
    'variance',
    pd.DataFrame(
      {
        'index': np.arange(len(labels)),
        'subset': found.subset,
        'seed': found.seed,
        'residual': found.residual,
        'instability': found.instability,
        'seed_share': found.seed_share,
      }
    ),
  )
  study.workdir.write_table(
    'variance_summary',
    pd.DataFrame(
      [
        {
          'component': name,
          'value': average.value,
          'low': average.low,
          'high': average.high,
          'subsets': int(whole.sum()),
          'seeds': seeds,
        }
        for name, average in found.averages.items()
      ]
    ),
  )
