"""memloc_jax from Python: a DataFrame in, scores and layer curves out.

import memloc_jax
scores = memloc_jax.memorise(data, 'sentence', 'label', workdir='maps')
scores.examples.nlargest(10, 'counterfactual_memorisation')
scores.labels_to_check
scores.example('17')
scores.runs.membership
layers = memloc_jax.localise(data, 'sentence', 'label', workdir='where')
layers.curves
finished = memloc_jax.Result('workdirs/quickstart')
"""

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import json
import pathlib
import warnings
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from ml_collections import config_dict

from memloc_jax.curate import check as checking
from memloc_jax.curate import triage
from memloc_jax.errors import InputError, shown
from memloc_jax.estimators import predictions
from memloc_jax.presets import check as check_preset
from memloc_jax.report import gallery
from memloc_jax.stages import known_tables, run_study
from memloc_jax.study import config as study_config
from memloc_jax.study.map_runs import MAP
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


# Why tables have nothing to say of layers and of single examples.
_NO_CURVES = (
  'The study has no layer curves: techniques compare models with and without '
  'planted wrong labels, so use memloc_jax.localise, or set task.noise and '
  'train.seeds. For the layers of single examples, set pairs=4 in memorise and '
  'see scores.example(id).layers.'
)
_NO_MAP = 'the study has no map runs: set runs, as in memorise(..., runs=30).'
_NO_PAIRS = (
  'the study has no pairs of map runs: set pairs=4 in memorise, or '
  '--config.map.pairs=4 in memloc run.'
)
_NO_TOKENS = (
  'only the most memorised examples have them: raise '
  "settings={'localise.inputs.examples': ...}."
)
_NO_NEIGHBOURS = 'no near-duplicate and no helpful example was found.'


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
  """One training example, with all that the study says of it.

  Attributes:
    scores: its row of `examples`.
    layers: its rows of `layers_by_example`: the share of its memorisation that
      each layer holds, with standard errors.
    tokens: its rows of `tokens_by_example`, in the order of the text.
    neighbours: `id`, `text` and `given` of its near-duplicates and of the
      examples that help it most, by `relation`, with their `influence`.
    missing: why a part is empty, by its name.
  """

  scores: pd.Series
  layers: pd.DataFrame
  tokens: pd.DataFrame
  neighbours: pd.DataFrame
  missing: Mapping[str, str]

  def __str__(self) -> str:
    """A few lines for people."""
    row = self.scores
    lines = [
      f'{row["id"]}: {row["text"]}',
      f'given {row["given"]}, suggested {row["suggested"]}; memorisation '
      f'{row["counterfactual_memorisation"]:.2f} '
      f'[{row["cm_low"]:.2f}, {row["cm_high"]:.2f}]',
    ]
    for name in ('layers', 'tokens', 'neighbours'):
      found = self.missing.get(name, f'{len(getattr(self, name))} rows')
      lines.append(f'{name}: {found}')
    return '\n'.join(lines)


@dataclasses.dataclass(frozen=True, eq=False)
class MapRuns:
  """Training subsets and predictions of the map runs.

  K runs that did not diverge, n training examples, in the order of `examples`.

  Attributes:
    table: their rows of `runs`, in the order of the arrays.
    membership: whether the run was trained on the example, bool [K, n].
    logits: at the end of the run, float32 [K, n, classes]; they stay on disk
      until they are read.
    labels: given labels as indices of `label_names`, int [n].
    label_names: of the classes.
  """

  table: pd.DataFrame
  membership: np.ndarray
  logits: np.ndarray
  labels: np.ndarray
  label_names: tuple[str, ...]

  @property
  def given_label_probability(self) -> np.ndarray:
    """Probability that each run assigns the given label, [K, n]."""
    return predictions.probability(np.asarray(self.logits), self.labels)


@dataclasses.dataclass(frozen=True)
class Result:
  """A finished study, also one of the command line.

  Attributes:
    workdir: its folder; all tables are Parquet files there.

  Raises:
    InputError: there is no such folder.
  """

  workdir: pathlib.Path

  def __post_init__(self):
    """Takes the folder's name, too."""
    object.__setattr__(self, 'workdir', pathlib.Path(self.workdir))
    if not self.workdir.is_dir():
      raise InputError(
        f'{self.workdir}: there is no such folder; name the workdir of a study.'
      )

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
    """One row per training example, in the order of the data."""
    return self.table('examples')

  @property
  def labels_to_check(self) -> pd.DataFrame:
    """Rows of `examples` whose labels are doubtful, most doubtful first.

    `index` is the row of the data, from 0; `suggested` is the label that the
    models that did not train on the example prefer.

    Raises:
      InputError: the study has no map.
    """
    examples = self.examples
    if examples.empty:
      raise InputError(f'{self.workdir}: {_NO_MAP}')
    return triage.doubtful(examples).reset_index(drop=True)

  def example(self, id: Hashable) -> Example:
    """One training example: its scores, layers, tokens and neighbours.

    Args:
      id: as in `examples`; the row of the data, from 0, unless the study names
        a column of ids.

    Raises:
      InputError: the study has no map, or no such example.
    """
    examples = self.examples
    if examples.empty:
      raise InputError(f'{self.workdir}: {_NO_MAP}')
    found = examples[examples['id'] == str(id)]
    if found.empty:
      close = difflib.get_close_matches(str(id), examples['id'], n=1)
      hint = (
        f'did you mean {close[0]!r}?'
        if close
        else (f'ids are as {shown(examples["id"].iloc[0])}.')
      )
      raise InputError(f'id={id!r}: the study has no such example; {hint}')
    row = found.iloc[0]

    def of_it(name: str) -> pd.DataFrame:
      table = self.table(name)
      return table[table['index'] == row['index']]

    by = {
      'layers': of_it('layers_by_example'),
      'tokens': of_it('tokens_by_example'),
      'neighbours': _neighbours(examples, row, of_it('influence')),
    }
    pairs = len(self.table('pairs_by_example'))
    why = {
      'layers': _NO_PAIRS,
      'tokens': _NO_TOKENS if pairs else _NO_PAIRS,
      'neighbours': _NO_NEIGHBOURS,
    }
    return Example(
      scores=row,
      missing={name: why[name] for name, rows in by.items() if rows.empty},
      **{name: rows.reset_index(drop=True) for name, rows in by.items()},
    )

  @functools.cached_property
  def runs(self) -> MapRuns:
    """Membership and predictions of the map runs, as arrays.

    Raises:
      InputError: the study has no map.
    """
    folder, table = Workdir(self.workdir), self.table('runs')
    membership = folder.read_array('membership')
    if membership is None:
      raise InputError(f'{self.workdir}: {_NO_MAP}')
    names = folder.read_json('manifest.json')['data']['label_names']
    number = {name: at for at, name in enumerate(names)}
    of_map = table['table'].str.startswith(MAP) & (table['status'] == 'done')
    return MapRuns(
      table=table[of_map].reset_index(drop=True),
      membership=np.array(membership),
      logits=folder.array('logits'),
      labels=self.examples['given'].map(number).to_numpy(np.int64),
      label_names=tuple(names),
    )

  @functools.cached_property
  def curves(self) -> pd.DataFrame:
    """Share of the memory by layer (rows) and technique (columns).

    Means over seeds of each technique's default variant, each column summing
    to 1; layers from 1. Empty, with a warning that says why, where no
    technique had anything to compare.
    """
    layers = gallery.headline(self.table('layers'))
    if layers.empty:
      warnings.warn(_NO_CURVES, stacklevel=3)
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
  columns are kept in the workdir, as lines of JSON that the study reads.

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
    The finished check; its `labels` are the list.

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
  fresh = not folder.path.exists()
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
      if fresh:
        with contextlib.suppress(OSError):
          folder.path.rmdir()
    raise


def _neighbours(
  examples: pd.DataFrame, row: pd.Series, influence: pd.DataFrame
) -> pd.DataFrame:
  """Near-duplicates of an example, and those that help it most.

  Args:
    examples: the table of that name.
    row: of the example.
    influence: its rows of the table of that name.
  """
  alike = examples['cluster'] == row['cluster']
  alike &= examples['index'] != row['index']
  places = examples.set_index('index')
  columns = ['id', 'text', 'given']
  helpers = places.loc[influence['helper'], columns]
  return pd.concat(
    [
      examples.loc[alike, columns].assign(
        relation='near-duplicate', influence=np.nan
      ),
      helpers.assign(
        relation='helps', influence=influence['influence'].to_numpy()
      ),
    ],
    ignore_index=True,
  )


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
    'text': rows.texts[0],
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

  In the workdir, hidden from what else is looked for there. Other data have
  another name, and with it are another study.
  """
  digest = hashlib.sha256(content).hexdigest()[:12]
  # Beside the workdir, as in earlier versions.
  stored = pathlib.Path(_data_of(folder) or '')
  if stored.name.endswith(f'.{digest}.jsonl') and stored.exists():
    return stored
  return folder.path.resolve() / f'.data.{digest}.jsonl'
