"""Stage `covariates`: whether rare texts are memorised more than others."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from memloc_jax.estimators import verdicts
from memloc_jax.estimators.covariates import spearman
from memloc_jax.schema import COUNT, PROBABILITY, SIGNED, TEXT, Kind, Table
from memloc_jax.study.tables import OF_EXAMPLE
from memloc_jax.study.view import View
from memloc_jax.tasks.ngrams import ngrams

TABLES = (
  Table(
    'ngrams',
    'training example and length of n-grams of words',
    {
      **OF_EXAMPLE,
      'order': Kind(int, 1, 3)('words in an n-gram'),
      'rarity': Kind(float, 0, text='bits, from 0').or_missing(
        "mean over the text's n-grams of log2(texts / texts with it); missing "
        'for a shorter text'
      ),
      'overlap': PROBABILITY.or_missing(
        "share of the text's n-grams that another text has too"
      ),
    },
    text=(
      'How unusual a text is among the training texts. Words are runs of '
      'letters and digits; case does not matter; every n-gram of a text '
      'counts once.'
    ),
  ),
  Table(
    'covariates',
    'measure of a text and group of examples',
    {
      'measure': TEXT('`length` in tokens, `rarity` or `overlap`'),
      'order': Kind(int, 0, 3)('words in an n-gram; 0 for the length'),
      'group': TEXT('`all` examples, `clean` or `noisy` ones'),
      'spearman': SIGNED.or_missing(
        "Spearman's correlation with counterfactual memorisation; missing "
        'where all values are the same'
      ),
      'low high': SIGNED.or_missing(
        '95 % interval (Bonett & Wright, 2000), as if examples were independent'
      ),
      'examples': COUNT('that have both values'),
    },
    claim='a correlation other than 0',
  ),
)


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
