"""Stage `variance`: how much of it between runs is seeds, how much subsets."""

import numpy as np
import pandas as pd

from memloc_jax.estimators import predictions
from memloc_jax.estimators.variance import components
from memloc_jax.schema import FLOAT, PROBABILITY, TEXT, Kind, Table
from memloc_jax.study.map_runs import CROSSED
from memloc_jax.study.tables import HALF, OF_EXAMPLE
from memloc_jax.study.view import View

TABLES = (
  Table(
    'variance',
    'training example',
    {
      **OF_EXAMPLE,
      'subset': Kind(float, text='about 0 to 0.25').or_missing(
        'variance between subsets: what else a run has seen; unbiased, so '
        'below 0 at times'
      ),
      'seed': Kind(float, text='about 0 to 0.25').or_missing(
        'between seeds, by what they do to all subsets alike; unbiased too'
      ),
      'residual': HALF.or_missing('what is left, the interaction of both'),
      'instability': HALF.or_missing(
        'mean variance between seeds for a given subset: `seed` and '
        '`residual` together'
      ),
      'seed_share': PROBABILITY.or_missing(
        '`seed` over the sum of the three, each at least 0; missing where all '
        'are 0'
      ),
    },
    text=(
      'Of `map.crossed` runs: each of some subsets under each of some seeds '
      '(head, batch order and dropout). The variance between runs of the '
      'probability of the given label, in components of a two-way '
      'random-effects analysis of variance (Searle, Casella and McCulloch, '
      '1992, section 4.7), within the subsets that hold the example and '
      'within those that do not, both counting alike: memorisation itself is '
      'in no component. No table without `map.crossed`.'
    ),
  ),
  Table(
    'variance_summary',
    'component of the variance',
    {
      'component': TEXT(
        '`subset`, `seed`, `residual`, `instability`; `seed_share` and '
        '`instability_share`, these over the sum of all'
      ),
      'value low high': FLOAT.or_missing(
        'mean over examples and its 95 % interval, by resampling subsets, too '
        'narrow where they are few; of shares, the ratio of the means'
      ),
      'subsets seeds': Kind(int, 2)('numbers of them that were compared'),
    },
  ),
)


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
