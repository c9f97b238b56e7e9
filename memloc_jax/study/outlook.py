"""What is left to do of a study, and a quick estimate of what it will take."""

from collections.abc import Collection, Mapping

from memloc_jax.ensemble.table import Table
from memloc_jax.study import forecast
from memloc_jax.study.runs import Runs

# Seconds to compile a table's program: for each length of texts, and layer by
# layer where these are unrolled (docs/performance.md, compilation).
_COMPILATION, _PER_LENGTH, _PER_LAYER = 4.0, 4.0, 1.2


def work(
  study: Runs, due: Collection[str], reads: Mapping[str, tuple[str, ...]]
) -> forecast.Work:
  """What is left to do of a study.

  Args:
    study: the study; of its checkpoint, shapes will do.
    due: names of the stages that are not finished.
    reads: for each stage, beginnings of the names of tables of runs that it
      looks at.
  """
  names, pending = tuple(study.tables), {}
  for name, table in study.tables.items():
    count = sum(
      row not in table.given and not table.done(study.store, row, hash)
      for row, hash in enumerate(study.hashes[name])
    )
    size = float(table.runs.membership.sum(axis=1).mean())
    pending[name] = count * size * table.program.num_epochs
  manifest = study.context.workdir.read_json('manifest.json') or {}
  cost = manifest.get('cost', {}).get(forecast.TRAINING, {})
  return forecast.Work(
    tables=pending,
    compilation={
      name: compilation(study, table) for name, table in study.tables.items()
    },
    stages=tuple(
      name
      for name in due
      if name != forecast.TRAINING
      and (not reads[name] or _any(names, reads[name]))
    ),
    spent=cost.get('seconds', 0.0),
  )


def _any(names: Collection[str], beginnings: tuple[str, ...]) -> bool:
  return any(name.startswith(beginnings) for name in names)


def compilation(study: Runs, table: Table) -> float:
  """Seconds that compiling a table's program may take, by rule of thumb."""
  lengths = len(table.examples[0].buckets)
  if study.engine.unrolls:
    layers = study.context.model.num_layers
    return _COMPILATION + _PER_LAYER * layers * lengths
  return _COMPILATION + _PER_LENGTH * lengths
