"""memloc_jax from Python: a DataFrame in, scores and layer curves out.

from memloc_jax import api
scores = api.memorise(data, text='sentence', label='label', workdir='maps')
scores.examples.nlargest(10, 'counterfactual_memorisation')
layers = api.localise(data, text='sentence', label='label', workdir='where')
layers.curves
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import pandas as pd
from ml_collections import config_dict

from memloc_jax.errors import InputError
from memloc_jax.report import files, gallery
from memloc_jax.report import stage as _stage  # noqa: F401  registers stages
from memloc_jax.study import config as study_config
from memloc_jax.study.progress import Progress
from memloc_jax.study.stages import run_study
from memloc_jax.study.tables import COLUMNS
from memloc_jax.study.workdir import Workdir

MINILM = 'sentence-transformers/all-MiniLM-L6-v2'


@dataclasses.dataclass(frozen=True)
class Result:
  """A finished study.

  Attributes:
    workdir: its folder; all tables are Parquet files there.
  """

  workdir: pathlib.Path

  def table(self, name: str) -> pd.DataFrame:
    """One of the tables in docs/tables.md.

    Args:
      name: without the ending.

    Returns:
      The table; empty where the study had nothing to write there.

    Raises:
      InputError: there is no table of that name.
    """
    if name not in COLUMNS:
      raise InputError(
        f'{name!r} is no table; there are {", ".join(sorted(COLUMNS))}.'
      )
    found = Workdir(self.workdir).read_table(name)
    return pd.DataFrame(columns=COLUMNS[name]) if found is None else found

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
  text: str,
  label: str,
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
  is not done again.

  Args:
    data: one row an example.
    text: column of the texts.
    label: column of the labels, of any type with few values.
    workdir: folder of the results, made if it is not there.
    model: hub id or folder of the encoder that is fine-tuned.
    runs: fine-tunings on random halves.
    pairs: pairs of further ones on complementary halves, which tell where in
      the network, and by what of its text, each example is memorised.
    settings: of the study by dotted name, as {'map.num_epochs': 6}; see
      `memloc_jax.study.config.StudyConfig`.

  Returns:
    The finished study.

  Raises:
    InputError: the data, the columns, a setting or the model is at fault.
  """
  config = _own(data, text, label, workdir, model)
  config.train.seeds = ()
  config.map.num_runs = runs
  config.map.pairs = pairs
  return _run(config, workdir, settings)


def localise(
  data: pd.DataFrame,
  text: str,
  label: str,
  workdir: str | pathlib.Path,
  model: str = MINILM,
  seeds: int = 3,
  noise: float = 0.15,
  settings: Mapping[str, Any] | None = None,
) -> Result:
  """Tells which layers hold wrong labels.

  Models are trained with a share of the labels made wrong, and without, and
  every technique looks for the layers that hold the wrong ones (Dankers &
  Titov, 2024).

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
    InputError: the data, the columns, a setting or the model is at fault.
  """
  config = _own(data, text, label, workdir, model)
  config.task.noise = noise
  config.map.num_runs = 0
  config.train.seeds = tuple(range(1, seeds + 1))
  config.train.num_epochs = 15
  config.train.learning_rate = 2e-4
  config.localise.retrain.learning_rate = 2e-4
  return _run(config, workdir, settings)


def _own(
  data: pd.DataFrame,
  text: str,
  label: str,
  workdir: str | pathlib.Path,
  model: str,
) -> config_dict.ConfigDict:
  """Settings of experiments/configs/own_data.py, on a file in the workdir."""
  for name, column in (('text', text), ('label', label)):
    if column not in data:
      raise InputError(
        f'{name}={column!r}: the data have the columns '
        f'{", ".join(map(str, data.columns))}.'
      )
  folder = pathlib.Path(workdir).expanduser().resolve()
  # Beside the workdir, which is claimed once all input has been checked. Other
  # data have another name, and with it are another study.
  chosen = data[[text, label]].to_csv(index=False).encode()
  digest = hashlib.sha256(chosen).hexdigest()[:12]
  file = folder.with_name(f'{folder.name}.{digest}.csv')
  files.write(file, chosen)
  config = study_config.default()
  config.task.name = 'own'
  config.task.files = str(file)
  config.task.text = text
  config.task.label = label
  config.task.noise = 0.0
  config.task.max_length = 128
  config.model.source = model
  config.train.batch_size = 16
  config.map.num_epochs = 12
  config.map.learning_rate = 2e-4
  config.map.evaluate_every = 3
  config.map.log_epochs = True
  return config


def _run(
  config: config_dict.ConfigDict,
  workdir: str | pathlib.Path,
  settings: Mapping[str, Any] | None,
) -> Result:
  for name, value in (settings or {}).items():
    try:
      config.update_from_flattened_dict({name: value})
    except (KeyError, TypeError) as error:
      message = str(error.args[0]).rstrip('.')
      raise InputError(f'settings[{name!r}]={value!r}: {message}.') from error
  done = run_study(
    study_config.from_config_dict(config),
    pathlib.Path(workdir).expanduser(),
    Progress(quiet=True),
  )
  return Result(done)
