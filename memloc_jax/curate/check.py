"""The list of labels to check, within minutes: `memloc check`.

A study like any other, whose map grows until the top of its list stays as it
is. Before its first run, a probe on the frozen encoder makes a first list.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from memloc_jax import stages
from memloc_jax.curate import triage
from memloc_jax.errors import InputError
from memloc_jax.estimators import out_of_fold, wrong_labels
from memloc_jax.estimators.label_errors import LabelErrors, label_errors
from memloc_jax.estimators.wrong_labels import Estimate
from memloc_jax.localisation import representations
from memloc_jax.study import actions, estimation, tables
from memloc_jax.study.config import StudyConfig
from memloc_jax.study.context import Context
from memloc_jax.study.progress import Progress
from memloc_jax.study.workdir import Workdir

# Runs that are added at a time. Each trains on four fifths of the rows, so
# that every row is out of one of them.
BLOCK = 5
# The list is stable if this share of its top was there before the last block,
# and rests on this many runs; more than the most are never trained.
_STABLE, _LEAST, _MOST = 0.9, 10, 30
# Rows of the top: those whose suggested label is another one, at least these.
_TOP = 10
_BATCH = 64  # Texts whose hidden states are on the device at once.


@dataclasses.dataclass(frozen=True)
class Checked:
  """A finished check, see `check`.

  Attributes:
    workdir: its folder.
    examples: the table `examples`, most doubtful labels first.
    runs: how many the list rests on.
    top: length of its top.
    overlap: share of the top that was there before the last block of runs.
    wrong: range of the number of wrong labels by the runs alone, see
      `wrong_labels.model_range`.
  """

  workdir: pathlib.Path
  examples: pd.DataFrame
  runs: int
  top: int
  overlap: float
  wrong: tuple[int, int]

  @property
  def labels(self) -> pd.DataFrame:
    """The list as it stands in `triage.csv`."""
    return pd.read_csv(self.workdir / 'triage.csv', keep_default_na=False)

  @property
  def text(self) -> str:
    """The result in one or two sentences."""
    least, most = self.wrong
    count = f'between {least:,} and {most:,}' if least else f'at most {most:,}'
    return (
      f'By the models alone, {count} of {len(self.examples):,} labels are '
      'wrong: a rough range, in which their own errors may be most of it.'
    )

  def review(self, reviewed: str | pathlib.Path) -> 'Review':
    """How many labels are wrong by a reviewed sample, see `review`."""
    return review(self.workdir, reviewed)


@dataclasses.dataclass(frozen=True)
class Review:
  """The estimate from a reviewed sample.

  Attributes:
    estimate: how many labels are wrong.
    examples: how many there are.
    decided: how many of the sample were decided on.
    wrong: how many of these are wrong.
    undecided: how many of the sample were not decided on.
  """

  estimate: Estimate
  examples: int
  decided: int
  wrong: int
  undecided: int

  @property
  def text(self) -> str:
    """The result in one or two sentences."""
    found, n = self.estimate, f'{self.examples:,}'
    if not self.wrong:
      text = (
        f'None of {self.decided} reviewed labels is wrong; at most '
        f'{found.high:,} of {n} are (95 %)'
      )
      even = wrong_labels.at_most(self.examples, self.decided)
      if even > found.high:
        text += (
          f', or {even:,} if doubtful labels are wrong only as often as others'
        )
      text += '.'
    else:
      text = (
        f'About {found.count:,.0f} of {n} labels are wrong [{found.low:,}, '
        f'{found.high:,}]; the first {found.cut_off:,} rows of triage.csv '
        f'should hold {100 * wrong_labels.PROMISE:.0f} % of them.'
      )
      if found.low < found.high:
        text += (
          ' This assumes that doubtful labels are wrong at least as often as '
          'others.'
        )
    if self.undecided:
      text += (
        f' {self.undecided} rows of the sample have no decision; the numbers '
        'hold if those are not special.'
      )
    return text


def check(
  config: StudyConfig,
  workdir: str | pathlib.Path,
  progress: Progress | None = None,
  asked_to_stop: Callable[[], bool] = lambda: False,
) -> Checked:
  """Writes `triage.csv`, again whenever more is known, a sample and a page.

  If it was stopped, the same call continues.

  Args:
    config: the study, see the preset `check`; its file is read and checked
      before its model is looked for.
    workdir: its folder.
    progress: where to report, by default on standard error.
    asked_to_stop: polled; what was done is then saved.

  Returns:
    The result, once the list is stable or rests on 30 runs.

  Raises:
    InputError: the settings, the data, the model or the folder is at fault.
    Preempted: it was asked to stop.
  """
  progress = progress or Progress()
  with progress.as_one():
    return _check(config, Workdir(workdir), progress, asked_to_stop)


def _check(
  config: StudyConfig,
  folder: Workdir,
  progress: Progress,
  asked_to_stop: Callable[[], bool],
) -> Checked:
  programs: dict[Any, Any] = {}
  context = _first_list(config, folder, progress, programs)
  config = folder.continued(config)
  while True:
    stages.run_study(
      config,
      folder.path,
      progress,
      asked_to_stop,
      stages=('estimate',),
      programs=programs,
      ahead=max(_LEAST - config.map.size, 0),
    )
    examples = folder.table('examples')
    found = _found(context, folder, examples)
    with folder.in_use():
      table = triage.rows(examples, context.data.positions, everything=True)
      estimation.write_triage(folder, progress, table, only_new=True)
    stable = found.overlap >= _STABLE and found.runs >= _LEAST
    done = stable or config.map.size + BLOCK > _MOST
    line = f'{found.runs} runs after {progress.passed()}'
    if found.runs > BLOCK:
      before = round(found.overlap * found.top)
      line += (
        f': {before} of the {found.top} rows at the top of triage.csv were '
        f'there before the last {BLOCK}'
      )
    progress.message(line + f'; {BLOCK} more follow' * (not done))
    if done:
      with folder.in_use():
        _offer(context, folder, found.examples, table)
        _show(folder, by_models=found.text)
      return found
    config = actions.with_block(config, folder, BLOCK)


def _first_list(
  config: StudyConfig,
  folder: Workdir,
  progress: Progress,
  programs: dict[Any, Any],
) -> Context:
  """Writes a list of predictions of a probe, unless runs are finished.

  Returns:
    The study's data and model.
  """
  with (
    folder.in_use(),
    actions.opened(config, folder.path, progress, programs) as study,
  ):
    context = study.context
    stages.check(study)
    folder.claim(context.config)
    if folder.read_table('examples') is None:
      with progress.stage('first list'):
        table = triage.rows(
          _probed(context), context.data.positions, everything=True
        )
        estimation.write_triage(folder, progress, table)
      progress.message(
        f'after {progress.passed()}: a first list of {len(table):,} rows in '
        f'{folder.path / "triage.csv"}, most doubtful first; runs follow, '
        'which refine it'
      )
  return context


def _probed(context: Context) -> pd.DataFrame:
  """What `triage.rows` takes, by a probe on the frozen encoder."""
  data = context.data
  labels = data.labels[context.noisy_set]
  vectors = representations.means(
    context.model, context.pretrained, data.train, _BATCH
  )
  member, logits = out_of_fold.predictions(
    vectors, labels, len(data.label_names), context.config.map.seed
  )
  errors = label_errors(member, logits, labels)
  names = np.array([*data.label_names, None])
  return pd.DataFrame(
    {
      'index': np.arange(len(labels)),
      'id': data.ids,
      'hash': data.hashes,
      'text': data.texts,
      'given': names[labels],
      'suggested': names[errors.suggested],
      'generalisation': errors.self_confidence,
      'label_margin': errors.margin,
      'label_margin_low': errors.margin_low,
      'category': errors.category,
      'cluster': context.duplicates.cluster,
    }
  )


def _found(
  context: Context, folder: Workdir, examples: pd.DataFrame
) -> Checked:
  """The result of the runs so far."""
  member, logits = folder.array('membership'), folder.array('logits')
  labels = context.data.labels[context.noisy_set]
  now = label_errors(member, logits, labels)
  earlier = len(member) - BLOCK
  top = int((now.suggested != labels).sum())
  top = min(max(top, _TOP), len(labels))
  overlap = 0.0
  if earlier > 0:
    before = label_errors(member[:earlier], logits[:earlier], labels)
    overlap = _overlap(before, now, top)
  return Checked(
    workdir=folder.path,
    examples=examples.sort_values(['generalisation', 'index']),
    runs=len(member),
    top=top,
    overlap=overlap,
    wrong=wrong_labels.model_range(now.pred_probs, labels),
  )


def _overlap(before: LabelErrors, now: LabelErrors, top: int) -> float:
  """Share of the most doubtful labels that were among them before."""
  first = lambda errors: np.argsort(errors.self_confidence)[:top]  # NaN last.
  return len(np.intersect1d(first(before), first(now))) / top


def _offer(
  context: Context, folder: Workdir, examples: pd.DataFrame, table: pd.DataFrame
) -> None:
  """Writes a sample to review, once: whoever has begun keeps theirs.

  Args:
    context: the study.
    folder: its folder.
    examples: the table `examples`.
    table: the whole list.
  """
  if folder.read_table('sample') is not None:
    return
  examples = examples.sort_values('index')
  stratum = wrong_labels.strata(1 - examples['generalisation'].to_numpy())
  drawn = wrong_labels.draw(stratum, context.config.map.seed)
  offered = np.isin(np.arange(len(stratum)), drawn)
  chance = np.bincount(stratum, offered) / np.maximum(np.bincount(stratum), 1)
  sample = examples[['index', 'id', 'hash']].assign(
    stratum=stratum + 1, probability=chance[stratum], offered=offered
  )
  known = sample[['index', 'stratum', 'probability']]
  rows = table.merge(known, on='index').set_index('index', drop=False)
  # The table comes last: once it is there, nothing is drawn again.
  folder.write_csv('sample', rows.loc[drawn])
  folder.write_table(tables.SAMPLE, sample.reset_index(drop=True))


def _show(folder: Workdir, **news: str) -> None:
  """Writes the page, with what is known of the number of wrong labels.

  Args:
    folder: of the check.
    **news: `by_models` or `reviewed`, a sentence.
  """
  manifest = folder.read_json('manifest.json')
  known = manifest.get('check', {}) | news
  folder.write_json('manifest.json', manifest | {'check': known})
  stages.rewrite_report(folder.path)


def review(workdir: str | pathlib.Path, reviewed: str | pathlib.Path) -> Review:
  """How many labels are wrong, by decisions on the rows of `sample.csv`.

  Relabelled and dropped rows count as wrong, kept ones as right. Decisions on
  other rows count for nothing here, since nobody knows how they were chosen.
  The page has the estimate, too.

  Args:
    workdir: folder of a check.
    reviewed: `sample.csv` with decisions, see `triage.read`.

  Returns:
    The estimate.

  Raises:
    InputError: there is no sample, or the review is invalid or decides on
      none of its rows.
  """
  folder = Workdir(workdir)
  examples, sample = folder.read_table('examples'), folder.read_table('sample')
  if examples is None or sample is None:
    raise InputError(
      f'{folder.path} holds no sample that could have been reviewed: let '
      'memloc check come to its end first.'
    )
  names = folder.read_json('manifest.json')['data']['label_names']
  decided = triage.read(reviewed, examples, names)
  offered = sample.loc[sample['offered'], 'index']
  decided = decided[decided['index'].isin(offered)]
  if decided.empty:
    raise InputError(
      f'{reviewed} decides on no row of sample.csv; write keep, relabel or '
      'drop into the column decision of its rows.'
    )
  wrong = decided['stale'].to_numpy()
  found = Review(
    estimate=wrong_labels.estimate(
      1 - examples['generalisation'].to_numpy(),
      sample['stratum'].to_numpy() - 1,
      decided['index'].to_numpy(),
      wrong,
    ),
    examples=len(examples),
    decided=len(decided),
    wrong=int(wrong.sum()),
    undecided=len(offered) - len(decided),
  )
  with folder.in_use():
    _show(folder, reviewed=found.text)
  return found
