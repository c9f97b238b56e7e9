"""A trained run as a model for others: a folder that `transformers` reads."""

import pathlib

from memloc_jax.ensemble.store import FINAL
from memloc_jax.errors import InputError
from memloc_jax.models import checkpoint
from memloc_jax.study import actions
from memloc_jax.study.config import StudyConfig
from memloc_jax.study.runs import Runs
from memloc_jax.study.workdir import Workdir, whole

# Most runs that a message lists.
_LISTED = 20


def publish(
  config: StudyConfig,
  workdir: str | pathlib.Path,
  run: int,
  output: str | pathlib.Path | None = None,
) -> pathlib.Path:
  """Writes a run's final weights in the format that encoders are read from.

  With them go the embeddings, which are the pretrained ones unless they were
  trained, the tokenizer and the names of the classes, see
  `checkpoint.export`.

  Args:
    config: the study.
    workdir: its folder.
    run: as numbered in `runs.parquet`.
    output: folder to write, which is not there yet; by default
      `exports-run-<run>` in the workdir, which is replaced.

  Returns:
    The folder that was written.

  Raises:
    InputError: there is no finished study or no such run, its weights were
      not kept, it diverged, or the output is there already.
  """
  folder = Workdir(workdir)
  if folder.read_table('runs') is None:
    raise InputError(
      f'{folder.path} holds no finished runs to export; run the study first.'
    )
  target = folder.path / f'exports-run-{run}'
  if output is not None:
    target = pathlib.Path(output).expanduser()
    if target.exists():
      raise InputError(f'--output={target} is there already; name a new one.')
  with folder.in_use(), actions.opened(config, workdir) as study:
    folder.claim(study.context.config)
    table, row, record = actions.find(study, run, '--run')
    if record.status != 'done':
      raise InputError(
        f'--run={run}: the run diverged, and has no weights to export.'
      )
    if not study.store.has_weights(table.name, row, FINAL, record.hash):
      raise InputError(
        f'--run={run}: its weights were not kept; there are those of '
        f'{_kept(study)}.'
      )
    params, context = study.weights(table.name, row), study.context
    with whole(target) as path:
      checkpoint.export(
        path,
        context.model,
        params,
        context.model_folder,
        context.data.label_names,
      )
  return target


def _kept(study: Runs) -> str:
  """The runs whose final weights are there, as words."""
  kept = [
    study.store.has_weights(table.name, row, FINAL)
    for table in study.tables.values()
    for row in range(len(table.runs))
  ]
  runs = [str(run) for run, there in enumerate(kept) if there]
  more = f' and {len(runs) - _LISTED} more' if len(runs) > _LISTED else ''
  return f'runs {", ".join(runs[:_LISTED])}{more}' if runs else 'no run'
