"""Several studies from one declaration: a folder for each task and model."""

import dataclasses
import functools
import itertools
import re
from collections.abc import Sequence

from memloc_jax.errors import InputError
from memloc_jax.study import config as study_config
from memloc_jax.study.config import GridConfig, StudyConfig


@dataclasses.dataclass(frozen=True)
class Cell:
  """One study of a grid.

  Attributes:
    number: from 0, in the order in which they run.
    name: of its folder.
    config: of the study by itself; its `grid` says its place and nothing else.
  """

  number: int
  name: str
  config: StudyConfig


def select(
  config: StudyConfig,
  tasks: Sequence[str] = (),
  models: Sequence[str] = (),
) -> StudyConfig:
  """The same grid with other tasks or models.

  Args:
    config: of a grid, or of one study, which becomes a grid.
    tasks: in the place of those that the grid has; empty leaves them.
    models: the same of models.
  """
  grid = dataclasses.replace(
    config.grid,
    tasks=tuple(tasks) or config.grid.tasks,
    models=tuple(models) or config.grid.models,
  )
  return dataclasses.replace(config, grid=grid)


def cells(config: StudyConfig) -> tuple[Cell, ...]:
  """The studies of a grid; none if the configuration is of a single study.

  Args:
    config: all settings, and `grid`.

  Returns:
    Every task with every model and regime, tasks outermost.

  Raises:
    InputError: a change names no setting, or gives it an impossible value; a
      regime changes nothing; two studies would have the same folder.
  """
  grid = config.grid
  _check(grid)  # Of changes to nothing, too.
  if not (grid.tasks or grid.models or grid.regimes):
    return ()
  found: dict[str, Cell] = {}
  for place in itertools.product(
    grid.tasks or (config.task.name,),
    grid.models or (_short(config.model.source),),
    grid.regimes or ('',),
  ):
    name = '-'.join(re.sub(r'[^\w.-]+', '_', word) for word in place if word)
    if name in found:
      raise InputError(
        f'--config.grid: two of its studies would be called {name!r}.'
      )
    found[name] = Cell(len(found), name, _single(config, *place))
  return tuple(found.values())


def chosen(all_cells: Sequence[Cell], number: int) -> Cell:
  """One study of a grid by its number.

  Raises:
    InputError: there is none of that number.
  """
  if not 0 <= number < len(all_cells):
    raise InputError(
      f'--cell={number}: the grid has studies 0 to {len(all_cells) - 1}.'
      if all_cells
      else f'--cell={number}: goes with a grid of studies, see --tasks.'
    )
  return all_cells[number]


def _short(source: str) -> str:
  """The last part of a model's source."""
  return source.rstrip('/').rsplit('/', 1)[-1]


def _check(grid: GridConfig) -> None:
  for change in grid.changes:
    if len(change) != 3 or not all(isinstance(x, str) for x in change[:2]):
      raise InputError(
        f'--config.grid.changes: {change!r} is not of the form (name, setting, '
        "value), as ('rte', 'control.seeds', ())."
      )
  named = {name for name, _, _ in grid.changes}
  for regime in grid.regimes:
    if regime and regime not in named:
      raise InputError(
        f'--config.grid.regimes: nothing in grid.changes says what {regime!r} '
        'is.'
      )


def _single(
  config: StudyConfig, task: str, model: str, regime: str
) -> StudyConfig:
  """The study at one place of the grid."""
  values = study_config.to_config_dict(config)
  values.task.name = task
  grid = config.grid
  named = {name for name, _, _ in grid.changes}
  if grid.models and model not in named:
    values.model.source = model
  for place in (task, model, regime):
    for name, setting, value in grid.changes:
      if place and name == place:
        _set(values, setting, value, name)
  own = GridConfig((task,), (model,), (regime,) if regime else ())
  values.grid = study_config.to_config_dict(StudyConfig(grid=own)).grid
  return study_config.from_config_dict(values)


def _set(values, setting: str, value: object, name: str) -> None:
  *groups, field = setting.split('.')
  try:
    group = functools.reduce(getattr, groups, values)
    if field not in group:
      raise AttributeError(field)
  except (AttributeError, TypeError) as error:
    raise InputError(
      f'--config.grid.changes: there is no setting {setting!r}, which {name!r} '
      'changes.'
    ) from error
  with group.ignore_type():
    group[field] = value
