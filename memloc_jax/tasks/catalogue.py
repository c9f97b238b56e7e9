"""Reads splits from prepared TensorFlow Datasets, without TensorFlow."""

from memloc_jax.errors import InputError
from memloc_jax.tasks.files import SourceTable
from memloc_jax.tasks.registry import Task


def read(location: str, task: Task) -> dict[str, SourceTable]:
  """Loads a task's data set through `tfds.data_source`.

  TensorFlow Datasets shuffles when it prepares. The order of the original
  files decides which examples get wrong labels, so it is restored where there
  is an `idx` column (GLUE and SuperGLUE); of trec it is lost.

  Args:
    location: the data folder; '' for TensorFlow Datasets' own default.
    task: what to read.

  Returns:
    The splits by name.

  Raises:
    InputError: if the data set is unknown or not prepared there.
  """
  # Imported here: it takes half a second, and most sources do without.
  import tensorflow_datasets as tfds

  if task.tfds is None:
    raise InputError(
      f'task {task.name!r} is not in TensorFlow Datasets: use hub: or '
      'files:<path>'
    )
  try:
    builder = tfds.builder(task.tfds, data_dir=location or None)
    wanted = filter(None, ('train', task.pool))
    names = [split for split in wanted if split in builder.info.splits]
    loaded = {
      split: list(builder.as_data_source(split=split)) for split in names
    }
    class_names = {
      name: tuple(feature.names)
      for name, feature in builder.info.features.items()
      if isinstance(feature, tfds.features.ClassLabel)
    }
    if not all(loaded.values()) or 'train' not in loaded:
      raise ValueError('a split is missing or empty')
  # Not known, not prepared and prepared in another format each raise their
  # own kind, and the cure is the same.
  except Exception as error:
    raise InputError(
      f'TensorFlow Datasets has no {task.tfds} prepared'
      f'{f" under {location}" if location else ""}: where TensorFlow is '
      f'installed, run `tfds build {task.tfds} --file_format=array_record`, or '
      'use files:<folder>'
    ) from error
  tables = {}
  for split, examples in loaded.items():
    if 'idx' in examples[0]:
      examples = sorted(examples, key=lambda example: int(example['idx']))
    columns = {name: [e[name] for e in examples] for name in examples[0]}
    tables[split] = SourceTable(f'{task.tfds} ({split})', columns, class_names)
  return tables
