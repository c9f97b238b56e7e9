"""memloc_jax from Python: a DataFrame in, scores and layer curves out.

import memloc_jax
scores = memloc_jax.memorise(data, 'sentence', 'label', workdir='maps')
scores.examples.nlargest(10, 'counterfactual_memorisation')
layers = memloc_jax.localise(data, 'sentence', 'label', workdir='where')
layers.curves
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from ml_collections import config_dict

from memloc_jax.curate import check as checking
from memloc_jax.errors import InputError
from memloc_jax.presets import check as check_preset
from memloc_jax.report import gallery
from memloc_jax.stages import known_tables, run_study
from memloc_jax.study import config as study_config
from memloc_jax.study.progress import Progress
from memloc_jax.study.workdir import Workdir, whole
from memloc_jax.tasks import frames, sources
from memloc_jax.tasks.registry import OWN, Task

# Settings that the DataFrame and the names of its columns stand for.
_OF_THE_DATA = ('name', 'source', 'files', 'text', 'label')
# Settings that name further columns.
_FURTHER = ('id', 'true_label', 'paraphrase')

MINILM = study_config.MINILM
_Done = TypeVar('_Done')


@dataclasses.dataclass(frozen=True)
class Result:
  """A finished study.

  Attributes:
    workdir: its folder; all tables are Parquet files there.
  """

  workdir: pathlib.Path

  def table(self, name: str) -> pd.DataFrame:
    """One of the tables in docs/tables.md, or a technique's own.

    Args:
      name: without the ending.

    Returns:
      The table; empty where the study had nothing to write there.

    Raises:
      InputError: there is no table of that name.
    """
    found = Workdir(self.workdir).read_table(name)
    if found is not None:
      return found
    known = known_tables()
    if name not in known:
      raise InputError(
        f'{name!r} is no table; there are {", ".join(sorted(known))}.'
      )
    return pd.DataFrame(columns=known[name].names)

  @property
  def examples(self) -> pd.DataFrame:
    """One row a training example, in the order of the data."""
    return self.table('examples')

  @functools.cached_property
  def curves(self) -> pd.DataFrame:
    """Share of the memory by layer (rows) and technique (columns).

    Means over seeds of each technique's default variant, each column summing
    to 1; layers from 1.
    """
    layers = gallery.headline(self.table('layers'))
    if layers.empty:
      return pd.DataFrame()
    return layers.pivot_table(
      index='layer', columns='technique', values='weight', sort=False
    )

  @property
  def report(self) -> pathlib.Path:
    """The page to open in a browser."""
    return self.workdir / 'report.html'


def memorise(
  data: pd.DataFrame,
  text: Hashable,
  label: Hashable,
  workdir: str | pathlib.Path,
  model: str = MINILM,
  runs: int = 30,
  pairs: int = 0,
  settings: Mapping[str, Any] | None = None,
) -> Result:
  """Scores how far each example is memorised.

  Counterfactual memorisation (Feldman & Zhang, 2020): many models are trained
  on random halves, and an example is memorised as far as those that saw it
  beat those that did not. No label is changed. What is finished in the workdir
  is not done again. Cells are read and refused as those of files are. The
  columns are kept beside the workdir, as lines of JSON in `<workdir>.<hash of
  them>.jsonl`, which the study reads.

  Args:
    data: one row an example.
    text: column of the texts.
    label: column of the labels, names or whole numbers.
    workdir: folder of the results, made if it is not there.
    model: hub id or folder of the encoder that is fine-tuned.
    runs: fine-tunings on random halves.
    pairs: pairs of further ones on complementary halves, which tell where in
      the network, and by what of its text, each example is memorised.
    settings: of the study by dotted name, as {'map.num_epochs': 6}; see
      `memloc_jax.study.config.StudyConfig`. 'task.id', 'task.true_label' and
      'task.paraphrase' name further columns of the data.

  Returns:
    The finished study.

  Raises:
    InputError: the data, the columns, a setting or the model is at fault.
  """
  config = study_config.default()
  config.model.source = model
  config.map.num_runs = runs
  config.map.pairs = pairs
  return _run(config, data, text, label, workdir, settings, _study)


def localise(
  data: pd.DataFrame,
  text: Hashable,
  label: Hashable,
  workdir: str | pathlib.Path,
  model: str = MINILM,
  seeds: int = 3,
  noise: float = 0.15,
  settings: Mapping[str, Any] | None = None,
) -> Result:
  """Tells which layers hold wrong labels.

  Models are trained with a share of the labels made wrong, and without, and
  every technique looks for the layers that hold the wrong ones (Dankers &
  Titov, 2024). The data are kept as `memorise` keeps them.

  Args:
    data: one row an example.
    text: column of the texts.
    label: column of the labels.
    workdir: folder of the results, made if it is not there.
    model: hub id or folder of the encoder that is fine-tuned.
    seeds: number of models of either kind.
    noise: share of each class whose labels are made wrong, in (0, 1).
    settings: of the study by dotted name, as for `memorise`.

  Returns:
    The finished study; `curves` has what the techniques say.

  Raises:
    InputError: the data, the columns, a setting or the model is at fault, or
      the noise is not between 0 and 1.
  """
  if not 0 < noise < 1:
    raise InputError(f'noise={noise!r}: must be between 0 and 1.')
  config = study_config.default()
  config.model.source = model
  config.task.noise = noise
  config.map.num_runs = 0
  config.train.seeds = tuple(range(1, seeds + 1))
  return _run(config, data, text, label, workdir, settings, _study)


def check(
  data: pd.DataFrame,
  text: Hashable,
  label: Hashable,
  workdir: str | pathlib.Path,
  model: str = MINILM,
  settings: Mapping[str, Any] | None = None,
) -> checking.Checked:
  """Lists the rows whose labels may be wrong, most doubtful first.

  A probe on the frozen encoder writes a first `triage.csv` into the workdir;
  fine-tuned models refine it, five at a time, until its top is stable. The data
  are kept as `memorise` keeps them.

  Args:
    data: one row an example.
    text: column of the texts.
    label: column of the labels.
    workdir: folder of the results, made if it is not there.
    model: hub id or folder of the encoder that is fine-tuned.
    settings: of the study by dotted name, as for `memorise`.

  Returns:
    What was found; `labels` is the list.

  Raises:
    InputError: the data, the columns, a setting or the model is at fault.
  """
  config = check_preset.get_config()
  config.model.source = model

  def run(
    study: study_config.StudyConfig, folder: pathlib.Path
  ) -> checking.Checked:
    return checking.check(study, folder, Progress(quiet=True))

  return _run(config, data, text, label, workdir, settings, run)


def _study(study: study_config.StudyConfig, folder: pathlib.Path) -> Result:
  return Result(run_study(study, folder, Progress(quiet=True)))


def _run(
  config: config_dict.ConfigDict,
  data: pd.DataFrame,
  text: Hashable,
  label: Hashable,
  workdir: str | pathlib.Path,
  settings: Mapping[str, Any] | None,
  run: Callable[[study_config.StudyConfig, pathlib.Path], _Done],
) -> _Done:
  for name, value in (settings or {}).items():
    if name in (f'task.{setting}' for setting in _OF_THE_DATA):
      raise InputError(
        f'settings[{name!r}]={value!r}: the data are the DataFrame; name its '
        'columns with text and label.'
      )
    try:
      config.update_from_flattened_dict({name: value})
    except (KeyError, TypeError) as error:
      message = str(error.args[0]).rstrip('.')
      raise InputError(f'settings[{name!r}]={value!r}: {message}.') from error
  named = {'text': text, 'label': label}
  named |= {name: config.task[name] for name in _FURTHER if config.task[name]}
  content = _lines(data, named)
  folder = Workdir(workdir)
  file = _file(content, folder)
  config.task.update({name: name for name in named} | {'files': str(file)})
  study = study_config.from_config_dict(config)
  new = not file.exists()
  if new:
    with whole(file) as path:
      path.write_bytes(content)
  try:
    return run(study, folder.path)
  except InputError:
    if new and _data_of(folder) != str(file):  # They were refused.
      file.unlink()
    raise


def _data_of(folder: Workdir) -> str | None:
  """The file that the study in a folder is of; None without a study."""
  config = folder.read_json('config.json') or {}
  return config.get('task', {}).get('files')


def _lines(data: pd.DataFrame, named: Mapping[str, Any]) -> bytes:
  """The columns as the study finds them, as lines of JSON.

  Args:
    data: one row an example.
    named: the columns, whose names may be of any type, by the setting that is
      to name them.

  Returns:
    Objects whose keys are the settings' names.

  Raises:
    InputError: as of a file with these columns, naming the DataFrame's row.
  """
  task = Task(
    OWN,
    OWN,
    text_fields=(named['text'],),
    label_field=named['label'],
    own=True,
    id_field=named.get('id', ''),
    true_label_field=named.get('true_label', ''),
    paraphrase_field=named.get('paraphrase', ''),
  )
  rows = sources.rows_of({'train': frames.table(data, named)}, task)['train']
  names, true = np.array(rows.label_names, object), rows.true_labels
  columns = {
    'text': [text for (text,) in rows.segments],
    'label': names[rows.labels],
    'id': rows.ids,
    'true_label': names[rows.labels if true is None else true],
    'paraphrase': rows.paraphrases,
  }
  cells = zip(*(columns[name] for name in named))
  lines = (json.dumps(dict(zip(named, row))) for row in cells)
  return ''.join(f'{line}\n' for line in lines).encode()


def _file(content: bytes, folder: Workdir) -> pathlib.Path:
  """Where the study finds its data.

  Beside the workdir, which is claimed once all input has been checked. Other
  data have another name, and with it are another study.
  """
  place = folder.path.resolve()
  digest = hashlib.sha256(content).hexdigest()[:12]
  return place.with_name(f'{place.name}.{digest}.jsonl')
