"""A finished map in the layouts that other tools read.

examples.csv, examples/   the `examples` table; as a Hugging Face data set
cleanlab/                 labels and held-out probabilities
lira/                     tensorflow/privacy, research/mi_lira_2021
datamodels/               MadryLab/datamodels
cartography/              allenai/cartography, if predictions were logged
"""

import json
import pathlib

import numpy as np
import pandas as pd

from memloc_jax.errors import InputError
from memloc_jax.estimators import predictions, privacy
from memloc_jax.study.map_runs import MAP
from memloc_jax.study.workdir import Workdir, whole, write_csv


def export(
  workdir: str | pathlib.Path, output: str | pathlib.Path | None = None
) -> pathlib.Path:
  """Writes every layout, all of them or none.

  Args:
    workdir: folder of a study with map runs.
    output: folder to write, which is not there yet; by default `exports` in
      the workdir, which is replaced.

  Returns:
    The folder that was written.

  Raises:
    InputError: there is no finished map, its study was stopped while it was
      extended, or the output is there already.
  """
  folder = Workdir(workdir)
  examples = folder.read_table('examples')
  if examples is None:
    raise InputError(
      f'{folder.path} holds no map to export; run the study first, with map '
      'runs.'
    )
  target = folder.path / 'exports'
  if output is not None:
    target = pathlib.Path(output).expanduser()
    if target.exists():
      raise InputError(f'--output={target} is there already; name a new one.')
  with folder.in_use():
    folder.check_scores()
    names = folder.read_json('manifest.json')['data']['label_names']
    index = {name: label for label, name in enumerate(names)}
    labels = examples['given'].map(index).to_numpy(np.int64)
    membership = np.array(folder.array('membership'))
    logits = folder.array('logits')
    logged = folder.read_array('epoch_logits')
    probabilities = folder.array('pred_probs')
    runs = folder.table('runs')
    epochs = runs.loc[
      runs['table'].str.startswith(MAP) & (runs['status'] == 'done'), 'epochs'
    ].to_numpy()
    with whole(target) as path:
      path.mkdir()
      write_examples(path, examples)
      write_cleanlab(path / 'cleanlab', labels, probabilities)
      write_lira(path / 'lira', membership, logits, labels, epochs)
      write_datamodels(path / 'datamodels', membership, logits, labels)
      if logged is not None:
        write_cartography(
          path / 'cartography', membership, logged, labels, examples['id']
        )
  return target


def write_examples(folder: pathlib.Path, examples: pd.DataFrame) -> None:
  """Writes the table as `examples.csv` and as a data set in `examples/`.

  Texts are as they are: a spreadsheet may take one for a formula.

  Args:
    folder: an existing one.
    examples: the `examples` table.
  """
  # Imported here: it takes a second, and nothing else does with it.
  import datasets

  write_csv(folder / 'examples.csv', examples)
  data = datasets.Dataset.from_pandas(examples, preserve_index=False)
  shown = not datasets.are_progress_bars_disabled()
  datasets.disable_progress_bars()  # It is done in a moment.
  try:
    data.save_to_disk(folder / 'examples')
  finally:
    if shown:
      datasets.enable_progress_bars()


def write_cleanlab(
  folder: pathlib.Path, labels: np.ndarray, pred_probs: np.ndarray
) -> None:
  """Writes what the functions of cleanlab take.

  Examples without OUT runs have no held-out probabilities and are left out:
  `index.npy`, int64 [m], says which are there.

  Args:
    folder: made.
    labels: given labels, int [n]; written as `labels.npy`, int64 [m].
    pred_probs: mean class probabilities of OUT runs, [n, classes]; written as
      `pred_probs.npy`, float32 [m, classes].
  """
  known = np.flatnonzero(~np.isnan(pred_probs).any(axis=1))
  _save(folder / 'index.npy', known)
  _save(folder / 'labels.npy', labels[known])
  _save(folder / 'pred_probs.npy', pred_probs[known])


def write_lira(
  folder: pathlib.Path,
  membership: np.ndarray,
  logits: np.ndarray,
  labels: np.ndarray,
  epochs: np.ndarray,
) -> None:
  """Writes the log folder of the code of Carlini et al. (2022).

  `plot.py` reads `keep.npy`, bool [n], and the newest of `scores/`, float64
  [n, 1], of every `experiment-<row>_<runs>`; `score.py` makes those scores of
  `logits/`, float32 [n, 1, 1, classes], and of `y_train.npy`. An example has
  one augmentation: itself.

  Args:
    folder: made.
    membership: bool [runs, n].
    logits: [runs, n, classes]; may lie on disk, and is read run by run.
    labels: given labels, int [n].
    epochs: that each run was trained for, int [runs].
  """
  _save(folder / 'y_train.npy', labels)
  for row, member in enumerate(membership):
    of_run = np.array(logits[row])
    scores = privacy.scaled_logits(of_run[None], labels)[0]
    experiment = folder / f'experiment-{row}_{len(membership)}'
    name = f'{epochs[row]:010d}.npy'
    _save(experiment / 'keep.npy', member)
    _save(experiment / 'logits' / name, of_run[:, None, None, :])
    _save(experiment / 'scores' / name, scores[:, None])


def write_datamodels(
  folder: pathlib.Path,
  membership: np.ndarray,
  logits: np.ndarray,
  labels: np.ndarray,
) -> None:
  """Writes the store that `datamodels.regression` reads.

  Targets are the training examples themselves, so regress with its
  `train_mode`, which leaves out the runs that saw the target. A margin is the
  logit of the given label minus the largest other one (Ilyas et al., 2022,
  arXiv 2202.00622, section 3).

  Args:
    folder: made. `masks.npy`, bool [runs, n]; `margins.npy`, float32
      [runs, n]; `_completed.npy`, bool [runs]; and `spec.json`.
    membership: bool [runs, n].
    logits: [runs, n, classes]; may lie on disk, and is read run by run.
    labels: given labels, int [n].
  """
  runs, examples = membership.shape
  margins = np.concatenate(
    [predictions.margin(x[None], labels) for x in logits]
  )
  _save(folder / 'masks.npy', membership)
  _save(folder / 'margins.npy', margins.astype(np.float32))
  _save(folder / '_completed.npy', np.ones(runs, bool))
  schema = {
    'masks': {'shape': [examples], 'dtype': 'bool_'},
    'margins': {'shape': [examples], 'dtype': 'float32'},
  }
  text = json.dumps({'num_models': runs, 'schema': schema}, indent=2)
  (folder / 'spec.json').write_text(f'{text}\n', encoding='utf-8')


def write_cartography(
  folder: pathlib.Path,
  membership: np.ndarray,
  epoch_logits: np.ndarray,
  labels: np.ndarray,
  ids: pd.Series,
) -> None:
  """Writes training dynamics as Swayamdipta et al. (2020) log them.

  Every run is a training of its own, on the examples that it saw: one folder
  `run-<row>` a run, for `--model_dir`. Files count logged epochs from 0,
  without gaps, as far as the run was trained.

  Args:
    folder: made. `run-<row>/training_dynamics/dynamics_epoch_<e>.jsonl` with
      `guid`, `logits_epoch_<e>` and `gold`.
    membership: bool [runs, n].
    epoch_logits: [runs, epochs, n, classes], NaN for epochs after a run's
      last; may lie on disk, and is read epoch by epoch.
    labels: given labels, int [n].
    ids: of the examples, [n].
  """
  for row, member in enumerate(membership):
    dynamics = folder / f'run-{row}' / 'training_dynamics'
    dynamics.mkdir(parents=True)
    for epoch, logits in enumerate(epoch_logits[row]):
      seen = np.asarray(logits[member], np.float64)
      if not np.isfinite(seen).all():
        break
      pd.DataFrame(
        {
          'guid': ids[member],
          f'logits_epoch_{epoch}': list(seen),
          'gold': labels[member],
        }
      ).to_json(
        dynamics / f'dynamics_epoch_{epoch}.jsonl',
        lines=True,
        orient='records',
      )


def _save(path: pathlib.Path, array: np.ndarray) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  np.save(path, array)
