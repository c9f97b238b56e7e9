"""What identifies a study, and each of its stages.

A setting is of one of three kinds:

- *layout*: it changes results by rounding at most, and is part of no identity;
- *free*: only stages read it. They declare it, and run again in the same
  workdir when it changes;
- *fixed*: any other. Data, runs or their results depend on it, so a workdir
  belongs to one value of it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from memloc_jax.ensemble.table import HASH_SCHEMA
from memloc_jax.study.config import AUTO, StudyConfig

# Schema of the identities of stages, and of rows of runs. Workdirs with another
# one are not read.
SCHEMA = HASH_SCHEMA
# The settings of `engine` that results depend on; the others are layout.
PRECISION = ('engine.matmul_precision', 'engine.compute', 'engine.moments')
# The other layout settings: bounds on memory, and how work is divided.
LAYOUT = (
  'localise.batch_size',
  'localise.inputs.max_tokens',
  'localise.layerwise.max_tokens',
  'localise.patching.batch_size',
  'localise.probe.layers',
  'localise.retrain.programs',
)
# A user's code. Techniques that it registers have identities of their own;
# changes of tasks and models show in data and weights.
IMPORTS = 'code.imports'
# Free settings, or groups of them.
FREE = ('localise', 'paper_quirks.probing_mcog', 'task.decisions', IMPORTS)
# The setting that `memloc extend` changes.
ADDED = 'map.added'
_NAMED = 8  # Most differences that a message lists.


def covers(names: Sequence[str], setting: str) -> bool:
  """Whether a setting, as 'map.ratio', is among these names or groups."""
  return any(
    setting == name or setting.startswith(f'{name}.') for name in names
  )


def is_layout(setting: str) -> bool:
  """Whether a setting changes no result."""
  if setting.startswith('engine.'):
    return setting not in PRECISION
  return setting in LAYOUT


def is_free(setting: str) -> bool:
  """Whether a setting may change in a workdir; stages then run again."""
  return covers(FREE, setting) and not is_layout(setting)


def settings(values: Any, before: str = '') -> Iterator[tuple[str, Any]]:
  """Name and value of every setting, as 'localise.probe.seeds'.

  Args:
    values: a configuration, one of its groups, or either as nested dicts.
    before: the group's name.
  """
  if dataclasses.is_dataclass(values):
    names = [field.name for field in dataclasses.fields(values)]
    items = [(name, getattr(values, name)) for name in names]
  else:
    items = list(values.items())
  for name, value in items:
    name = f'{before}.{name}' if before else name
    if dataclasses.is_dataclass(value) or isinstance(value, Mapping):
      yield from settings(value, name)
    else:
      yield name, value


def of(config: StudyConfig) -> dict[str, Any]:
  """The settings that a workdir keeps, as nested values of JSON.

  Raises:
    ValueError: the precision is still open.
  """
  if config.engine.matmul_precision == AUTO:
    raise ValueError('engine.matmul_precision=auto identifies nothing.')
  values = dataclasses.asdict(config)
  engine = values['engine']
  values['engine'] = {
    name: engine[name] for name in (n.partition('.')[2] for n in PRECISION)
  }
  # Through JSON, so that tuples compare equal to what a file holds.
  return json.loads(json.dumps({'schema': SCHEMA} | values))


def completed(found: Mapping[str, Any]) -> dict[str, Any]:
  """Stored settings; those that are newer than the workdir at defaults."""
  return _completed(found, of(StudyConfig()))


def _completed(found: Mapping, defaults: Mapping) -> dict[str, Any]:
  return dict(found) | {
    name: _completed(found.get(name, {}), value)
    if isinstance(value, dict)
    else found.get(name, value)
    for name, value in defaults.items()
  }


def differences(
  found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> list[str]:
  """'train.num_epochs is 50 there and 3 here' for every fixed setting.

  Args:
    found: settings that a workdir keeps, see `of`.
    wanted: those of the study that is to run.
  """
  old, new = dict(settings(found)), dict(settings(wanted))
  # Another task or model comes first: it explains most.
  rank = lambda name: (name.partition('.')[0] not in ('task', 'model'), name)
  return [
    f'{name} is {old.get(name)!r} there and {new.get(name)!r} here'
    for name in sorted(old.keys() | new.keys(), key=rank)
    if not (is_layout(name) or is_free(name)) and old.get(name) != new.get(name)
  ]


def some(found: Sequence[str]) -> str:
  """The first differences, and the number of the others."""
  more = len(found) - _NAMED
  named = [*found[:_NAMED], *([f'and {more} more'] if more > 0 else [])]
  return '; '.join(named)


def digest(**parts: Any) -> str:
  """Hash of named values.

  Args:
    **parts: values that JSON can hold.

  Returns:
    Hexadecimal, 20 digits.
  """
  text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
  return hashlib.sha256(text.encode()).hexdigest()[:20]
