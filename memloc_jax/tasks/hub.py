"""Reads splits from the Hugging Face hub."""

from memloc_jax.errors import InputError
from memloc_jax.tasks import saved
from memloc_jax.tasks.files import SourceTable
from memloc_jax.tasks.registry import Task


def read(location: str, task: Task) -> dict[str, SourceTable]:
  """Loads a task's data set, or another one with the task's columns.

  Args:
    location: id of a data set whose own splits are used; '' for the task's.
    task: what to read.

  Returns:
    The splits by name.

  Raises:
    InputError: if the data set cannot be loaded, from the hub or, offline,
      from the local cache, or has no training split.
  """
  # Imported here: it takes a second, and most sources do without.
  import datasets

  if location:
    repo, options = location, {}
  elif task.hub is None:
    raise InputError(f'task {task.name!r} is not on the hub: use files:<path>')
  else:
    repo = task.hub.repo
    splits = ['train'] + ([task.pool] if task.pool else [])
    options = {
      'revision': task.hub.revision,
      'data_files': {
        split: f'{task.hub.config}/{split}/*.parquet' for split in splits
      },
    }
  try:
    loaded = datasets.load_dataset(repo, **options)
  # Whatever goes wrong out there (offline, moved, gated, a script) is one
  # thing to the user: this data set is not to be had.
  except Exception as error:
    cause = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise InputError(
      f'hub data set {repo!r} cannot be loaded ({cause.rstrip(".")}): check '
      'the id and the network, or read a local copy with files:<folder>'
    ) from error
  return saved.tables(repo, loaded)
