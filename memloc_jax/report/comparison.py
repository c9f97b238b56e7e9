"""One page on several studies, with its figures and tables."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from memloc_jax.compare import (
  contrasts,
  correlations,
  regimes,
  replication,
  summary,
)
from memloc_jax.errors import InputError
from memloc_jax.estimators import verdicts
from memloc_jax.report import comparison_figures as draw
from memloc_jax.report import (
  conclusions,
  files,
  findings,
  page,
  questions,
  style,
)
from memloc_jax.report.content import (
  TASK_NAMES,
  duration,
  interval,
  judged,
  number,
)
from memloc_jax.schema import Cells, Section
from memloc_jax.study.comparison import default_variants, is_baseline

_TITLES = {
  'techniques': 'Agreement of techniques',
  'models': 'Agreement of models',
}
# More tasks than this are counted in the title.
_MOST_NAMES = 4
# Measures of studies and the two lines of their columns.
_MEASURES = {
  'train_f1_noisy': ('Train F1', ''),
  'validation_f1_noisy': ('Validation F1', ''),
  'validation_f1_clean': ('Validation F1', 'clean twins'),
  'detection': ('AUROC', ''),
  'memorisation_noisy': ('Memorisation', 'noisy'),
  'memorisation_clean': ('Memorisation', 'others'),
  'generalisation': ('Generalisation', 'others'),
}


@dataclasses.dataclass(frozen=True)
class _Shown:
  """What the page is made of; see `summary` and `contrasts` for the tables."""

  studies: pd.DataFrame
  layers: pd.DataFrame
  centres: pd.DataFrame
  events: pd.DataFrame
  groups: pd.DataFrame
  regimes: pd.DataFrame
  controls: pd.DataFrame
  correlations: pd.DataFrame
  covariates: pd.DataFrame
  replication: pd.DataFrame


def write(
  folders: Sequence[str | pathlib.Path],
  output: str | pathlib.Path,
  references: str | None = None,
) -> pathlib.Path:
  """Writes `comparison.html`, `figures/` and `tables/` to a folder.

  Args:
    folders: workdirs of finished studies.
    output: a folder, made if it is not there; no study's own.
    references: a CSV of claims in the place of the paper's, see
      `replication.references`.

  Returns:
    Path of the page.

  Raises:
    InputError: a folder holds no study, the output is one's folder, or the
      claims cannot be read.
  """
  output = pathlib.Path(output)
  entries = summary.read(folders)
  if output.resolve() in {e.workdir.path.resolve() for e in entries}:
    raise InputError(f'--output={output}: is the folder of a study.')
  shown = _Shown(
    studies=summary.studies(entries),
    layers=summary.profiles(entries),
    centres=summary.centres(entries),
    events=summary.events(entries),
    groups=contrasts.groups(entries),
    regimes=regimes.regimes(entries),
    controls=contrasts.controls(entries),
    covariates=summary.covariates(entries),
    replication=replication.replicate(
      entries, replication.references(references)
    ),
    correlations=correlations.correlations(entries),
  )
  for field in dataclasses.fields(shown):
    table = getattr(shown, field.name)
    if len(table):
      files.write_csv(output / 'tables', field.name, table)
  tables = _sections(shown, references)
  for name, section in tables.items():
    files.write_latex(output / 'tables', name, section)
  figures = []
  for name, caption, figure in drawn(shown):
    rendered = style.render(figure)
    files.write_figure(output / 'figures', name, rendered)
    figures.append(
      {
        'source': style.data_uri(style.adaptive(rendered['svg'])),
        'caption': caption,
        'width': style.width(rendered['svg']),
      }
    )
  text = (
    page.environment()
    .get_template('comparison.html.j2')
    .render(
      title=_title(entries),
      subtitle=f'Comparison of {len(entries)} studies of memloc_jax.',
      questions=_questions(tables, figures, _answers(shown)),
    )
  )
  path = output / 'comparison.html'
  files.write(path, text.encode())
  return path


def _title(entries: Sequence[summary.ComparedStudy]) -> str:
  """What the page is about: the data by name, if they are few."""
  tasks = list(dict.fromkeys(entry.task for entry in entries))
  if len(tasks) > _MOST_NAMES:
    return f'Memorisation in {len(tasks)} tasks'
  names = [TASK_NAMES.get(task, task) for task in tasks]
  return f'Memorisation in {findings.listed(names)}'


def _answers(shown: _Shown) -> dict[str, str]:
  """What the studies say to each question, by the table behind it."""
  told = conclusions.of_studies(vars(shown))
  found = {each.table: each.answer for each in told}
  for group, name in (('noisy', 'wrong labels'), ('clean', 'right labels')):
    means = shown.studies.get(f'memorisation_{group}', pd.Series(dtype=float))
    if means.notna().any():
      found['studies'] = (
        f'Counterfactual memorisation of {name} averages {_between(means)} '
        f'over {_count_of(shown.studies)}.'
      )
      break
  if len(shown.centres):
    named = shown.centres[~shown.centres['baseline']]
    if named['mcog_calibrated'].notna().any():
      found['centres'] = (
        'Calibrated M-CoG lies between layers '
        f'{_between(named["mcog_calibrated"], " and ")} over '
        f'{named["technique"].nunique()} techniques.'
      )
  if len(shown.covariates) and 'verdict' in shown.covariates:
    clean = shown.covariates[shown.covariates['among'] == 'clean']
    told_of = (clean['verdict'] == verdicts.SUPPORTED).sum()
    found['covariates'] = (
      f'{told_of} of {len(clean)} correlations with length, rarity or overlap '
      'are surely other than 0.'
    )
  return found


def _count_of(table: pd.DataFrame) -> str:
  """How many studies a table has, as '2 studies'."""
  count = len(table[['task', 'model']].drop_duplicates())
  return f'{count} {"study" if count == 1 else "studies"}'


def _span(counts: pd.Series, unit: str) -> str:
  """'1 seed', '3 seeds' or '3 to 5 seeds'."""
  low, high = counts.min(), counts.max()
  return (f'{low:,} to ' if low < high else '') + verdicts.count(high, unit)


def _between(values: pd.Series, word: str = ' to ') -> str:
  """The lowest and the highest value, or the one that there is."""
  ends = dict.fromkeys(number(x, 2) for x in (values.min(), values.max()))
  return word.join(ends)


def _questions(
  tables: Mapping[str, Section],
  figures: Sequence[questions.Image],
  answers: Mapping[str, str],
) -> list[questions.Question]:
  """The sections of the page, with what can be concluded in each."""

  def question(
    id: str,
    short: str,
    title: str,
    *names: str,
    figures: Sequence[questions.Image] = (),
  ) -> questions.Question:
    return questions.Question(
      id,
      short,
      title,
      ' '.join(answers[name] for name in names if name in answers),
      figures=figures,
      tables=[tables[name] for name in names if tables[name].rows],
    )

  found = [
    question('studies', 'Studies', 'What was learnt and memorised?', 'studies'),
    question('claims', 'Claims', 'Do published claims hold?', 'replication'),
    question(
      'layers',
      'Layers',
      'Which layers hold what is memorised?',
      'centres',
      'events',
      figures=figures,
    ),
    question(
      'groups',
      'Groups',
      'Do groups of tasks differ in the depth of memorisation?',
      'groups',
    ),
    question('regimes', 'Regimes', 'What do regimes change?', 'regimes'),
    question(
      'control',
      'Control',
      'Do techniques find planted memorisation?',
      'controls',
    ),
    question(
      'correlations',
      'Correlations',
      'Are techniques, models and depth correlated over studies?',
      'correlations',
    ),
    question('texts', 'Texts', 'Are rare texts memorised more?', 'covariates'),
  ]
  return [each for each in found if not each.empty]


def _sections(shown: _Shown, references: str | None) -> dict[str, Section]:
  """The tables of the page, by the name of their files."""
  study = (Cells('Task', 'task', style=''), Cells('Model', 'model', style=''))
  verdict = Cells('Verdict', 'verdict', 'reason', 'verdict')
  changed = _changed(shown.regimes)
  claimed_by = (
    f'{references} claims' if references else 'Dankers & Titov (2024) report'
  )
  return {
    'studies': Section(
      'Studies',
      _studies(shown.studies),
      (
        *study,
        Cells('Group', 'group', style=''),
        Cells('Examples', 'examples'),
        Cells('Wrong labels', 'noisy'),
        Cells('Map runs', 'runs'),
        *(
          Cells(f'{head} {of}'.strip(), name, f'{name}_ends')
          for name, (head, of) in _MEASURES.items()
        ),
        Cells('Cost', 'cost'),
      ),
      'Macro-F1 is that of the main models with wrong labels, on their own '
      'training labels and on validation examples, and of their clean twins on '
      "these, with Student's 95 % intervals over seeds. The AUROC is that with "
      'which 1 - generalisation tells wrong labels from others; memorisation '
      'is mean counterfactual memorisation; their intervals are over examples. '
      'Cost is time on the machines that ran the studies.',
    ),
    'replication': Section(
      'Published claims',
      claims(shown.replication),
      (
        Cells('Claim', 'claim', style=''),
        Cells('Published', 'published'),
        Cells('Found', 'found', 'adjusted'),
        Cells('Tasks', 'tasks'),
        verdict,
        Cells('Source', 'source', style=''),
      ),
      f'What {claimed_by} and what these studies say, with intervals over '
      'tasks, adjusted for all claims (Holm). A published number is equivalent '
      'to ours if our whole interval lies within δ of it, and contradicted if '
      'none of it does; an inequality is supported if the whole interval '
      'satisfies it, and contradicted if none of it does. Other models, sizes '
      'or settings than published make these no replications in the strict '
      'sense.',
    ),
    'centres': Section(
      'Centres of gravity',
      _centres(shown.centres),
      (
        *study,
        Cells('Technique', 'technique', style=''),
        Cells('M-CoG', 'mcog', 'interval'),
        Cells('Mean profile', 'profile'),
        Cells('Calibrated M-CoG', 'calibrated'),
        Cells('Seeds', 'seeds'),
      ),
      "M-CoG: mean over seeds with its 95 % interval (Student's t); that of "
      'the profile averaged over seeds, which is what the paper reports and '
      'what correlations and claims are of; and this one calibrated, stretched '
      'to 1 to L by its attainable range, which is not known of ablation.',
    ),
    'events': Section(
      'Events',
      _events(shown.events),
      (
        *study,
        Cells('Event', 'event', style=''),
        Cells('Layer', 'layer'),
        Cells('Seeds', 'seeds'),
        Cells('Seeds without', 'never'),
      ),
      'Layers, 0 being the embedding, at which something happens. Of '
      'centroids: crossing, noisy examples are closer to their given class '
      'than to their original one; initiation, classes come apart. Of probes: '
      'memorisation, given labels of noisy examples are read; generalisation, '
      'original ones of the others. Means over seeds, for which seeds where it '
      'never happens count as one layer behind the last; then the lowest and '
      'highest of the other seeds.',
    ),
    'groups': Section(
      'Groups of tasks',
      _groups(shown.groups),
      (
        Cells('Groups', 'groups', style=''),
        Cells('Model', 'model', style=''),
        Cells('Technique', 'technique', style=''),
        Cells('Depths', 'depths'),
        Cells('Difference', 'difference', 'adjusted'),
        verdict,
        Cells('Tasks', 'tasks'),
      ),
      'Depth of memory from 0, all in the first layer, to 1, all in the last, '
      'by calibrated M-CoG: means over tasks and their difference, with an '
      'interval over tasks (Welch), adjusted for all rows (Holm). The verdict '
      'is on whether the groups differ.',
    ),
    'regimes': Section(
      'Regimes',
      _regimes(shown.regimes, list(changed)),
      (
        *study,
        Cells('Regime', 'regime', style=''),
        *(
          Cells(f'{head} {of}'.strip(), name, f'{name}_ends')
          for name, (head, of) in changed.items()
        ),
      ),
      'What a regime changes: each measure with it minus the same one without '
      'it. Pairs are examples that have wrong labels in both or in neither, '
      'and seeds of main models (F1, and depth of memory from 0, all in the '
      'first layer, to 1, all in the last, by calibrated M-CoG). Intervals are '
      "over pairs (Student's) and adjusted for all cells (Holm); the verdict "
      'is on whether the measure changes.',
    ),
    'controls': Section(
      'Control setups',
      _controls(shown.controls),
      (
        Cells('Technique', 'technique', style=''),
        Cells('Model', 'model', style=''),
        Cells('Accuracy@1', 'one', 'adjusted'),
        Cells('Chance', 'chance'),
        verdict,
        Cells('Best trivial baseline', 'baseline', 'against', ''),
        Cells('Above baseline', 'above', 'above_interval'),
        Cells('Accuracy@2', 'two'),
        Cells('Models / tasks', 'models'),
      ),
      'How often a technique names a layer that could learn the wrong labels '
      'first (accuracy@1), and the share of its first two that are such layers '
      '(accuracy@2). The verdict is on accuracy@1 above chance. Intervals are '
      'over tasks and adjusted for all rows (Holm).',
    ),
    'correlations': Section(
      'Correlations over studies',
      _correlations(shown.correlations),
      (
        Cells('What', 'what', style=''),
        Cells('Between', 'pair', style=''),
        Cells('Correlation', 'value', 'adjusted'),
        verdict,
        Cells('Points / tasks', 'points'),
      ),
      'Of centres of gravity of mean profiles, from 0 in the first layer to 1 '
      'in the last: Pearson between techniques, otherwise Spearman. Binarised '
      'tasks are compared with their whole and left out of the rest. Brackets '
      "hold Fisher's intervals with as many points as tasks, at least four, "
      'adjusted for all rows (Holm); the verdict is on a correlation other '
      'than 0.',
    ),
    'covariates': Section(
      'Rare texts',
      _covariates(shown.covariates),
      (
        *study,
        Cells('Measure', 'measure', style=''),
        Cells('Spearman', 'value', 'adjusted'),
        verdict,
        Cells('Examples', 'examples'),
      ),
      'Spearman correlation of counterfactual memorisation with length, rarity '
      'of n-grams of words and the share of them that other texts have, over '
      'examples with their right labels. Intervals are over examples and, '
      'within a study, adjusted for all of its correlations (Holm); the '
      'verdict is on a correlation other than 0.',
    ),
  }


def drawn(shown: _Shown) -> Iterator[tuple[str, str, object]]:
  """Name, caption and figure of all that is drawn."""
  if len(shown.layers):
    yield (
      'curves',
      f'Share of the memory in each layer, {_count_of(shown.layers)}: a row a '
      'model, a column a technique, a line a task, means over '
      f'{_span(_seeds(shown.layers), "seed")}. The dashed line is a flat '
      'profile.',
      draw.curves(shown.layers),
    )
  if len(shown.centres) and shown.centres['depth'].notna().any():
    yield (
      'centres',
      'Depth of the memory by technique, from 0, all in the first layer, to 1, '
      'all in the last: calibrated centre of gravity (of ablation, as it is), '
      f'whatever the number of layers, of {_count_of(shown.centres)}; bars are '
      'means of groups of tasks, binarised ones left out.',
      draw.centres(shown.centres.dropna(subset=['depth'])),
    )
  table = shown.events
  if len(table) and {'crossing', 'initiation'} <= set(table['event']):
    yield (
      'events',
      'Mean layers at which the classes have come apart (initiation) and noisy '
      'examples are closer to their given class (crossing), '
      f'{_count_of(table[table["event"] == "crossing"])}.',
      draw.events(table),
    )
  if len(shown.correlations):
    for what, title in _TITLES.items():
      rows = shown.correlations[shown.correlations['what'] == what]
      if len(rows):
        yield (
          f'correlations_{what}',
          f'{title}: correlation of relative centres of gravity, from 0 in '
          'the first layer to 1 in the last, over '
          f'{_span(rows["points"], "point")} of '
          f'{_span(rows["tasks"], "task")}.',
          draw.matrix(rows, title),
        )


def _seeds(layers: pd.DataFrame) -> pd.Series:
  """How many seeds each study and technique has."""
  return layers.groupby(['task', 'model', 'technique'])['seed'].nunique()


def _studies(table: pd.DataFrame) -> list[dict[str, object]]:
  return [
    {
      'task': row.task,
      'group': row.group,
      'model': row.model,
      'examples': _whole(getattr(row, 'examples', None)),
      'noisy': _whole(getattr(row, 'noisy', None)),
      'runs': _whole(getattr(row, 'map_runs', None)),
      'cost': duration(row.seconds),
    }
    | {key: value for name in _MEASURES for key, value in _measured(row, name)}
    for row in table.itertuples()
  ]


def _measured(row: Any, name: str) -> list[tuple[str, str]]:
  """A number of `summary.studies` and its interval, by key."""
  value, low, high = (
    getattr(row, name + suffix, None) for suffix in ('', '_low', '_high')
  )
  return [
    (name, number(value, 2)),
    (f'{name}_ends', interval(low, high, 2)),
  ]


def _whole(value: float | None) -> str:
  return '–' if value is None or pd.isna(value) else f'{int(value):,}'


def _technique(name: str, variant: str = '') -> str:
  return (
    draw.label(name)
    + (f' ({variant})' if variant else '')
    + ' (baseline)' * is_baseline(name)
  )


def _centres(table: pd.DataFrame) -> list[dict[str, str]]:
  return [
    {
      'task': row.task,
      'model': row.model,
      'technique': _technique(row.technique),
      'mcog': number(row.mcog, 2),
      'interval': interval(row.low, row.high, 2)
      or findings.no_interval(int(row.seeds)),
      'profile': number(row.profile, 2),
      'calibrated': number(row.mcog_calibrated, 2),
      'seeds': str(row.seeds),
    }
    for row in table.itertuples()
  ]


def _events(table: pd.DataFrame) -> list[dict[str, str]]:
  """Those of noisy examples, and those of probes."""
  if table.empty:
    return []
  return [
    {
      'task': row.task,
      'model': row.model,
      'event': row.event.replace('_', ' at ', 1) + ' %' * ('_' in row.event),
      'layer': number(row.layer, 1) if row.occurred else 'never',
      'seeds': f'{row.lowest:g} to {row.highest:g}' if row.occurred else '–',
      'never': str(int(row.censored)),
    }
    for row in table[table['setup'].isin(['noisy', ''])].itertuples()
  ]


def _groups(table: pd.DataFrame) -> list[dict[str, str]]:
  return [
    {
      'groups': f'{row.a}, {row.b}',
      'model': row.model,
      'technique': _technique(row.technique),
      'depths': f'{number(row.depth_a, 2)}, {number(row.depth_b, 2)}',
      'difference': number(row.difference, 2),
      'tasks': f'{row.tasks_a}, {row.tasks_b}',
    }
    | judged(row, 2)
    for row in table.itertuples()
  ]


def _changed(table: pd.DataFrame) -> dict[str, tuple[str, str]]:
  """Measures of `regimes.regimes` to show, and the two lines of their columns.

  Baselines are left to its CSV file.
  """
  found = {}
  for name in [] if table.empty else table['measure'].unique():
    kind, _, technique = name.partition(' ')
    if not technique:
      found[name] = _MEASURES[name]
    elif not is_baseline(technique):
      found[name] = (kind.capitalize(), draw.label(technique))
  return found


def _regimes(
  table: pd.DataFrame, measures: Sequence[str]
) -> list[dict[str, Any]]:
  """A row a study: the differences that its regime makes."""
  if table.empty:
    return []
  rows = []
  keys = ['task', 'model', 'regime']
  for values, of_one in table.groupby(keys, sort=False):
    by_measure = of_one.set_index('measure')
    cells = by_measure.reindex(measures)
    cells = cells.fillna({'verdict': '', 'reason': ''})
    row = dict(zip(keys, values))
    for name, cell in zip(measures, cells.itertuples()):
      found = judged(cell, 2)
      row[name] = number(cell.difference, 2)
      row[f'{name}_ends'] = f'{found["adjusted"]} {found["verdict"]}'.strip()
    rows.append(row)
  return rows


def _controls(table: pd.DataFrame) -> list[dict[str, str]]:
  """The default variant of each technique; the CSV file has all."""
  if len(table):
    default = table['technique'].map(default_variants(table))
    table = table[default == table['variant']]
  return [
    {
      'technique': _technique(row.technique, row.variant),
      'model': row.model,
      'one': number(row.accuracy_1, 2),
      'two': number(row.accuracy_2, 2),
      'chance': number(row.chance, 2),
      'models': f'{row.models} / {row.tasks}',
    }
    | judged(row, 2)
    for row in table.itertuples()
  ]


def _covariates(table: pd.DataFrame) -> list[dict[str, str]]:
  if table.empty:
    return []
  return [
    {
      'task': row.task,
      'model': row.model,
      'measure': row.measure + (f', {row.order}-grams' if row.order else ''),
      'value': number(row.spearman, 2),
      'examples': f'{row.examples:,}',
    }
    | judged(row, 2)
    for row in table[table['among'] == 'clean'].itertuples()
  ]


def claims(table: pd.DataFrame) -> list[dict[str, str]]:
  """Claims that some study speaks to, as text.

  Args:
    table: from `replication.replicate`.

  Returns:
    For each: `claim`, `published`, `found`, `tasks` and `source`, and of
    `content.judged` the interval `adjusted` and `verdict` with its `reason`.
  """
  signs = {'equals': '', 'above': '> ', 'below': '< '}
  # As many as were published, which may make the difference.
  digits = lambda published: max(2, len(f'{published:g}'.partition('.')[2]))
  return [
    {
      'claim': row.claim,
      'published': signs[row.relation] + f'{row.published:g}',
      'found': number(row.value, digits(row.published)),
      'tasks': str(row.tasks),
      'source': row.source,
    }
    | _claimed(row, digits(row.published))
    for row in table.itertuples()
    if row.verdict != replication.NOT_RUN
  ]


def _claimed(row: Any, digits: int) -> dict[str, str]:
  """What `judged` says, and whether the claim was made afterwards."""
  found = judged(row, digits)
  if row.fixed == 'after':
    found['verdict'] += ', claim made afterwards'
  return found


def _correlations(table: pd.DataFrame) -> list[dict[str, str]]:
  return [
    {
      'what': row.what,
      'pair': f'{row.a}, {row.b}',
      'value': number(row.value, 2),
      'points': f'{row.points} / {row.tasks}',
    }
    | judged(row, 2)
    for row in table.itertuples()
  ]
