"""What studies can tell, in the same words on the page and the terminal."""

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from memloc_jax.compare import replication
from memloc_jax.estimators import verdicts
from memloc_jax.report.content import Tables, group_name, largest
from memloc_jax.report.findings import listed
from memloc_jax.study.comparison import default_variants
from memloc_jax.study.workdir import Workdir

_OF_STUDIES = ('replication', 'controls', 'groups', 'regimes', 'correlations')
# First columns of names that stand in pairs.
_PAIRED = ('a', 'technique_a')
# More names than this are counted.
_MOST_NAMES = 8
_EARLIER = (
  'It was not judged: the table is of an earlier version, without verdicts.'
)


class Conclusion(NamedTuple):
  """A question and what can be said to it.

  Attributes:
    question: with its question mark.
    answer: sentences.
    table: the one that answers it; of `injection`, with what was planted.
  """

  question: str
  answer: str
  table: str = ''


def of_study(tables: Mapping[str, pd.DataFrame]) -> list[Conclusion]:
  """What one study can tell.

  Args:
    tables: by name; those that are missing or empty are left out.
  """
  known = tables if isinstance(tables, Tables) else Tables(tables)
  get = known.__getitem__
  return [
    Conclusion(question, text, table)
    for question, table, rows, names, noun in (
      *_detection(get('detection')),
      *_control(get('control_summary')),
      *_injection(get('injection')),
      *_rest(get),
    )
    if len(rows) and (text := answer(rows, names, noun, 'This study'))
  ]


def answers(tables: Mapping[str, pd.DataFrame], *names: str) -> list[str]:
  """What can be said to the questions of some tables.

  Args:
    tables: of the study, by name.
    names: see `Conclusion.table`.

  Returns:
    The answer, if it is one; otherwise each with its question.
  """
  found = [one for one in of_study(tables) if one.table in names]
  found.sort(key=lambda one: names.index(one.table))
  if len(found) == 1:
    return [found[0].answer]
  return [f'{one.question} {one.answer}' for one in found]


# A question, the table, rows that answer it, columns that name them, and what
# they are.
_Part = tuple[str, str, pd.DataFrame, list[str], str]


def _detection(table: pd.DataFrame) -> Iterator[_Part]:
  if table.empty:
    return
  # Within class, as rare labels alone tell something.
  table = table[table['within_class'].astype(bool)]
  keys = ['positives', 'negatives']
  for (positives, negatives), rows in table.groupby(keys, sort=False):
    yield (
      f'Do scores rank {group_name(positives)} above {group_name(negatives)} '
      'of the same given label?',
      'detection',
      rows,
      ['score'],
      'score',
    )


def _control(table: pd.DataFrame) -> Iterator[_Part]:
  if table.empty:
    return
  table = table[table['technique'].map(default_variants(table)).eq(
    table['variant']
  )]  # fmt: skip
  for setup, rows in table.groupby('setup', sort=False):
    yield (
      'Do techniques rank layers by the rates at which they learnt?'
      if setup == 'graded'
      else 'Do techniques name a layer that could learn the wrong labels '
      f'(control setup, {setup})?',
      'control_summary',
      rows,
      ['technique'],
      'technique',
    )


def _injection(table: pd.DataFrame) -> Iterator[_Part]:
  if table.empty:
    return
  for planted, rows in table.groupby('planted', sort=False):
    yield (
      'Do localisers find all layers that could learn the wrong labels?'
      if planted == 'layers'
      else 'Do maps over the text find the word that decides the label?',
      f'injection {planted}',
      rows,
      ['localiser', 'variant'],
      'localiser',
    )


def _rest(get) -> Iterator[_Part]:
  yield (
    'Does layer-wise memorisation lie in the layers that could learn the wrong '
    'labels?',
    'control_pairs',
    get('control_pairs'),
    ['measure', 'source'],
    'control',
  )
  mcog = get('mcog_summary')
  if len(mcog):
    default = mcog['technique'].map(default_variants(mcog)) == mcog['variant']
    mcog = mcog[default & (mcog['source'] == 'main')]
  yield (
    'Does the depth of memorisation differ from that of a flat profile?',
    'mcog_summary',
    mcog,
    ['technique'],
    'technique',
  )
  agreement = get('layer_agreement')
  if len(agreement):
    agreement = agreement[agreement['source'] == 'main']
  yield (
    'Do techniques rank layers as layer-wise memorisation does?',
    'layer_agreement',
    agreement,
    ['technique'],
    'technique',
  )
  yield (
    'Is memorisation lost without the parts of the text that the map names?',
    'deletion',
    get('deletion'),
    ['ranking', 'deleted'],
    'ranking',
  )
  yield (
    'Is memorisation lost without a few heads or neurons?',
    'unit_deletion',
    get('unit_deletion'),
    ['deleted', 'kind', 'ranking'],
    'ranking',
  )
  correlations = get('correlations')
  yield (
    'Do techniques agree on layers?',
    'correlations',
    correlations[correlations['quantity'] == 'layers']
    if len(correlations)
    else correlations,
    ['technique_a', 'technique_b'],
    'pair of techniques',
  )
  covariates = get('covariates')
  if len(covariates):
    covariates = covariates[covariates['group'] == 'all']
    covariates = covariates.assign(
      measure=covariates['measure']
      + [f' of {o}-grams' if o else '' for o in covariates['order']]
    )
  yield (
    'Does memorisation go along with length, rarity or overlap of texts?',
    'covariates',
    covariates,
    ['measure'],
    'measure',
  )


def of_studies(tables: Mapping[str, pd.DataFrame]) -> list[Conclusion]:
  """What several studies can tell together.

  Args:
    tables: of the page that compares them, by name.
  """
  found = []
  for name, question, names, noun in (
    ('replication', 'Do published claims hold?', ['claim'], 'claim'),
    (
      'controls',
      'Do techniques name a layer that could learn the wrong labels?',
      ['technique', 'variant', 'model'],
      'technique',
    ),
    (
      'groups',
      'Do groups of tasks differ in the depth of memorisation?',
      ['a', 'b', 'model', 'technique'],
      'difference',
    ),
    (
      'regimes',
      'Do regimes change memorisation, generalisation or depth?',
      ['task', 'model', 'regime', 'measure'],
      'difference',
    ),
    (
      'correlations',
      'Are techniques, models and depth correlated over studies?',
      ['a', 'b'],
      'correlation',
    ),
  ):
    rows = tables.get(name, pd.DataFrame())
    if len(rows):
      text = answer(rows, names, noun, 'These studies')
      if text:
        found.append(Conclusion(question, text, name))
  return found


def answer(
  rows: pd.DataFrame, names: Sequence[str], noun: str, subject: str
) -> str:
  """Sentences on the claims of some rows.

  Args:
    rows: with the columns of `verdicts.section`; those of trivial baselines,
      which claim nothing, are passed over.
    names: columns that say what a row is about.
    noun: what that is.
    subject: that answers.
  """
  if 'verdict' not in rows:
    return _EARLIER
  rows = rows.assign(_name=rows[list(names)].agg(_named, axis=1))
  rows = rows[~rows['verdict'].isin(['', replication.NOT_RUN])]
  if rows.empty:
    return ''
  told = rows['verdict'] != verdicts.CANNOT_BE_TOLD
  if told.any():
    text = _listed(rows, 'verdict', noun)
  else:
    reasons = list(dict.fromkeys(rows['reason']))
    why = _why(reasons, noun)
    text = f'{subject} cannot answer this question: {why}.'
  if 'against_baseline' not in rows:
    return text
  beside = rows[rows['against_baseline'] != '']
  known = beside['against_baseline'] != verdicts.CANNOT_BE_TOLD
  if known.any():
    text += ' ' + _listed(beside, 'against_baseline', noun)
  elif (best := largest(beside, 'baseline_value')) is not None:
    name = best['best_baseline'].replace('_', ' ')
    text += (
      f' None can be judged against the trivial baseline {name}, which reaches '
      f'{best["baseline_value"]:.2f}.'
    )
  return text


def of_workdir(path: str | os.PathLike) -> list[str]:
  """Lines on the study in a folder, as its page has them."""
  tables = Tables({}, Workdir(path).read_table)
  return [f'{each.question} {each.answer}' for each in of_study(tables)]


def of_comparison(path: str | os.PathLike) -> list[str]:
  """Lines on the studies that a page compares, as the page has them.

  Args:
    path: folder of the page.
  """
  tables = {}
  for name in _OF_STUDIES:
    file = pathlib.Path(path) / 'tables' / f'{name}.csv'
    if file.exists():
      table = pd.read_csv(file)
      words = table.columns.intersection(verdicts.WORDS)
      tables[name] = table.fillna(dict.fromkeys(words, ''))
  return [f'{each.question} {each.answer}' for each in of_studies(tables)]


def _named(row: pd.Series) -> str:
  """One name of the parts of one; techniques without their underscores."""
  parts = [str(part).replace('_', ' ') for part in row if str(part)]
  return ' and '.join(parts) if row.index[0] in _PAIRED else ', '.join(parts)


def _why(reasons: Sequence[str], noun: str) -> str:
  """Why nothing can be told."""
  includes, none = 'interval includes ', 'no interval from '
  if all(reason.startswith(includes) for reason in reasons):
    what = ' or '.join(r.removeprefix(includes) for r in reasons)
    return f'its intervals include {what} for every {noun}'
  if all(reason.startswith(none) for reason in reasons):
    what = ' or '.join(r.removeprefix(none) for r in reasons)
    return f'no interval can be computed from {what}'
  return '; '.join(reasons)


def _listed(rows: pd.DataFrame, column: str, noun: str) -> str:
  """Names by verdict, what can be told first."""
  first = [verdicts.SUPPORTED, verdicts.CONTRADICTED, verdicts.BETTER]
  last = [verdicts.NOT_BETTER, verdicts.CANNOT_BE_TOLD]
  place = {word: at for at, word in enumerate(first)}
  place |= {word: len(first) + 1 + at for at, word in enumerate(last)}
  words = sorted(set(rows[column]), key=lambda w: (place.get(w, len(first)), w))
  found = []
  for word in words:
    of = rows[rows[column] == word]
    names = list(dict.fromkeys(of['_name']))
    text = listed(names)
    if len(names) > _MOST_NAMES:
      text = f'{len(of)} of {verdicts.count(len(rows), noun)}'
    if column == 'against_baseline':
      beside = sorted({name.replace('_', ' ') for name in of['best_baseline']})
      word += f' ({listed(beside)})'
    found.append(f'{word[0].upper()}{word[1:]}: {text}.')
  return ' '.join(found)
