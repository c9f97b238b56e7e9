"""A curator's decisions become a corrected data set."""

import dataclasses
import itertools
import pathlib
import shutil
from collections.abc import Mapping

import numpy as np
import pandas as pd

from memloc_jax.curate import triage
from memloc_jax.errors import InputError, shown
from memloc_jax.study import decisions, tables
from memloc_jax.study.config import StudyConfig
from memloc_jax.study.context import Context
from memloc_jax.study.progress import Progress
from memloc_jax.study.workdir import Workdir, whole, write_csv
from memloc_jax.tasks import corrected, files, saved, sources
from memloc_jax.tasks.dataset import DataConfig, Dataset
from memloc_jax.tasks.registry import OWN


@dataclasses.dataclass(frozen=True)
class Applied:
  """What came of a review.

  Attributes:
    output: the corrected file or folder.
    corrections: the table of that name.
    settings: what is to be set to run the study on the output, by name.
    text: what was done, and which scores it makes stale.
  """

  output: pathlib.Path
  corrections: pd.DataFrame
  settings: Mapping[str, str]
  text: str


def apply(
  config: StudyConfig,
  workdir: str | pathlib.Path,
  reviewed: str | pathlib.Path,
  output: str | pathlib.Path | None = None,
) -> Applied:
  """Writes the study's data as a curator has corrected them.

  Of the task `own` from files that is a copy of the file, or of the folder,
  in which relabelled training rows have another label and dropped ones are
  missing. Of every other task it is a csv of the training rows. Also writes
  the table `corrections`. The source is only read.

  Args:
    config: the study.
    workdir: its folder.
    reviewed: `triage.csv` with decisions, see `triage.read`.
    output: file or folder to write, which is not there yet; by default
      `corrected` in the workdir, which is replaced.

  Returns:
    What was done.

  Raises:
    InputError: the study has no scores or was stopped while it was extended,
      its source has changed, the review cannot be meant, or the output cannot
      be written there.
  """
  folder = Workdir(workdir)
  examples = folder.read_table('examples')
  if examples is None:
    raise InputError(
      f'{folder.path}: holds no scores of examples; run the study first, as in '
      f'memloc run --config={folder.path} --workdir={folder.path}.'
    )
  with folder.in_use():
    config = folder.continued(config)
    folder.claim(config)
    folder.check_scores()
    data = Context(config, folder, Progress()).data
    _check_source(config.task, data, examples)
    corrections = triage.read(reviewed, examples, data.label_names)
    source = _source(config.task, data)
    target = _target(source, folder, output)
    with whole(target) as path:
      if source is None:
        write_csv(path, _table(config.task, data, corrections))
      else:
        _copy(config.task, data, corrections, source, path)
    folder.write_table(tables.CORRECTIONS, corrections)
    kept = decisions.write(config.task.decisions, folder, corrections)
    membership = folder.array('membership')
  return Applied(
    output=target,
    corrections=corrections,
    settings=_settings(data, target) | {decisions.SETTING: str(kept)},
    text=f'{_done(corrections)} {_stale(corrections, membership)}',
  )


def _settings(data: Dataset, target: pathlib.Path) -> dict[str, str]:
  task = data.task
  if task.own:
    return {'task.files': str(target)}
  return {
    'task.name': OWN,
    'task.files': str(target),
    'task.text': ','.join(task.text_fields),
    'task.label': task.label_field,
    'task.id': 'id',
  }


def _check_source(
  task: DataConfig, data: Dataset, examples: pd.DataFrame
) -> None:
  """Refuses a source that is not what the study ran on.

  Raises:
    InputError: naming the first example that differs.
  """
  given = np.array(data.label_names)[data.labels[int(task.has_noise)]]
  now = list(zip(data.ids, data.hashes, given))
  then = list(zip(examples['id'], examples['hash'], examples['given']))
  if now != then:
    pairs = itertools.zip_longest(now, then)
    at, (new, old) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
    raise InputError(
      f'{task.place} is not what the study ran on: example {at} has the id '
      f'{shown((old or new)[0])}, and its id, text or label has changed since'
    )


def _source(task: DataConfig, data: Dataset) -> pathlib.Path | None:
  """The file or folder of a user's own data; None for other data."""
  kind, _, location = task.place.partition(':')
  if not (data.task.own and kind == 'files'):
    return None
  return pathlib.Path(location).expanduser()


def _target(
  source: pathlib.Path | None,
  folder: Workdir,
  output: str | pathlib.Path | None,
) -> pathlib.Path:
  """Where to write.

  Raises:
    InputError: there is something already, or the name has another ending
      than the format.
  """
  name = '.csv' if source is None else source.name
  # The longest, for .jsonl.gz.
  suffix = next((s for s in files.SUFFIXES if name.endswith(s)), '')
  if source is not None and source.is_dir():
    suffix = ''
  if output is None:
    return folder.path / f'corrected{suffix}'
  target = pathlib.Path(output).expanduser()
  if target.exists():
    raise InputError(f'--output={target} is there already; name a new one')
  if not target.name.endswith(suffix):
    raise InputError(
      f'--output={target}: the name must end in {suffix}, as the source does'
    )
  return target


def _copy(
  task: DataConfig,
  data: Dataset,
  corrections: pd.DataFrame,
  source: pathlib.Path,
  path: pathlib.Path,
) -> None:
  """Writes a user's file or folder with the training rows corrected."""
  columns = data.task.columns
  table = sources.local(str(source), columns)['train']
  cells = sources.cells(table, data.task)
  old = _labels(task, data)
  labels = {
    data.positions[row.index]: cells[row.label]
    for row in corrections.dropna(subset='label').itertuples()
    if row.label != old[row.index]
  }
  gone = corrections.loc[corrections['label'].isna(), 'index']
  dropped = {data.positions[index] for index in gone}
  train = source
  if source.is_dir() and not saved.is_saved(source):
    train = pathlib.Path(table.where)
    path.mkdir()
    names = [
      f'{split}{end}' for split in files.SPLITS for end in files.SUFFIXES
    ]
    for name in (*names, 'meta.json'):
      if (source / name).is_file() and name != train.name:
        shutil.copyfile(source / name, path / name)
    path = path / train.name
  column, _ = table.column(data.task.label_field)
  corrected.write(train, path, column, labels, dropped, columns)


def _table(
  task: DataConfig, data: Dataset, corrections: pd.DataFrame
) -> pd.DataFrame:
  """The training rows with their ids, texts and corrected labels."""
  labels = _labels(task, data)
  labels[corrections['index']] = corrections['label']
  texts = zip(data.task.text_fields, zip(*data.segments))
  columns = {'id': data.ids, **dict(texts), data.task.label_field: labels}
  return pd.DataFrame(columns).dropna(subset=data.task.label_field)


def _labels(task: DataConfig, data: Dataset) -> np.ndarray:
  """Names of the labels that the source has, object [n]."""
  # With known corrections, set 0 holds those.
  labels = data.labels[int(bool(task.true_label))]
  return np.array(data.label_names, object)[labels]


def _done(corrections: pd.DataFrame) -> str:
  counts = corrections['decision'].value_counts()
  return (
    f'{counts.get("relabel", 0):,} examples are relabelled, '
    f'{counts.get("drop", 0):,} dropped and {counts.get("keep", 0):,} '
    'confirmed.'
  )


def _stale(corrections: pd.DataFrame, membership: np.ndarray) -> str:
  """Which scores are no longer of the data as they are."""
  changed = corrections.loc[corrections['stale'], 'index'].to_numpy()
  if not len(changed):
    return 'No label has changed, and no score is stale.'
  wrong = membership[:, changed].sum(axis=1)
  share = (wrong / membership.sum(axis=1)).mean()
  return (
    f'The scores of {len(changed):,} examples are stale, for they are of the '
    f'old labels; those of the other {membership.shape[1] - len(changed):,} '
    f'come from runs of which {(wrong > 0).mean():.0%} trained on old labels '
    f"too ({share:.1%} of a run's examples)."
  )
