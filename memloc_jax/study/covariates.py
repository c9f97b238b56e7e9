"""Stage `covariates`: whether rare texts are memorised more than others."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from memloc_jax.estimators import verdicts
from memloc_jax.estimators.covariates import spearman
from memloc_jax.study.view import View
from memloc_jax.tasks.ngrams import ngrams

_ORDERS = (1, 2, 3)
_SCORE = 'counterfactual_memorisation'


def covariates(study: View) -> None:
  """Writes `ngrams` and `covariates`; nothing without map runs."""
  examples = study.workdir.read_table('examples')
  if examples is None:
    return
  texts = [' '.join(segments) for segments in study.data.segments]
  measures = {('length', 0): study.data.train.length}
  parts = []
  for order in _ORDERS:
    found = ngrams(texts, order)._asdict()
    parts.append(
      pd.DataFrame({'index': examples['index'], 'order': order} | found)
    )
    measures |= {(name, order): values for name, values in found.items()}
  study.workdir.write_table('ngrams', pd.concat(parts, ignore_index=True))
  rows = pd.DataFrame(_rows(examples, measures))
  claims = [
    verdicts.correlation(row.spearman, row.examples, 'example')
    for row in rows.itertuples()
  ]
  study.workdir.write_table(
    'covariates', pd.concat([rows, verdicts.section(claims)], axis=1)
  )


def _rows(
  examples: pd.DataFrame, measures: dict[tuple[str, int], np.ndarray]
) -> Iterator[dict[str, object]]:
  """A row a measure, order of n-grams and group of examples."""
  score = examples[_SCORE].to_numpy(np.float64)
  noisy = examples['noisy'].to_numpy(bool)
  groups = {'all': np.ones(len(noisy), bool), 'clean': ~noisy, 'noisy': noisy}
  for (measure, order), values in measures.items():
    for group, of in groups.items():
      found = spearman(np.asarray(values, np.float64)[of], score[of])
      yield {
        'measure': measure,
        'order': order,
        'group': group,
        'spearman': found.value,
        'low': found.low,
        'high': found.high,
        'examples': found.examples,
      }
