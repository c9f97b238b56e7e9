"""What identifies a study, and each of its stages.

A setting is of one of three kinds:

- *layout*: it changes no result but by rounding, and is part of no identity;
- *free*: stages alone read it. They declare that they do, and run again when
  it changes, in the same workdir;
- *fixed*: all others. Data, runs or what is made of them depend on it, so that
  a workdir belongs to one value of it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from memloc_jax.ensemble.table import HASH_SCHEMA
from memloc_jax.study.config import StudyConfig

# Of how stages are identified, and rows of runs with them: a workdir of another
# one is never read as what it is not.
SCHEMA = HASH_SCHEMA
# Settings of the engine that results depend on.
PRECISION = ('engine.matmul_precision', 'engine.compute', 'engine.moments')
# Bounds on memory, and how work is divided.
LAYOUT = (
  'localise.batch_size',
  'localise.inputs.max_tokens',
  'localise.layerwise.max_tokens',
  'localise.patching.batch_size',
  'localise.probe.layers',
  'localise.retrain.programs',
)
# A user's code. It may bring techniques, which are stages; of the tasks and
# models that it may bring, data and weights tell whether they have changed.
IMPORTS = 'code.imports'
# Settings, or groups of them, that stages alone read.
FREE = ('localise', 'paper_quirks.probing_mcog', 'task.decisions', IMPORTS)
# Changed by `extend` alone.
ADDED = 'map.added'
_NAMED = 8  # Most differences that a message names.


def covers(names: Sequence[str], setting: str) -> bool:
  """Whether a setting, as 'map.ratio', is one of these or in one's group."""
  return any(
    setting == name or setting.startswith(f'{name}.') for name in names
  )


def is_layout(setting: str) -> bool:
  """Whether it changes no result."""
  if setting.startswith('engine.'):
    return setting not in PRECISION
  return setting in LAYOUT


def is_free(setting: str) -> bool:
  """Whether it can change in a workdir, and stages that read it run again."""
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
  """What a workdir keeps of its settings, nested, as JSON holds them."""
  values = dataclasses.asdict(config)
  engine = values['engine']
  values['engine'] = {
    name: engine[name] for name in (n.partition('.')[2] for n in PRECISION)
  }
  # Through JSON, so that tuples compare equal to what a file holds.
  return json.loads(json.dumps({'schema': SCHEMA} | values))


def completed(found: Mapping[str, Any]) -> dict[str, Any]:
  """Stored settings with the defaults of those that are newer than they."""
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
    found: what a workdir keeps, see `of`.
    wanted: the same of the study that is to run.
  """
  old, new = dict(settings(found)), dict(settings(wanted))
  # Other data and another model say most of another study.
  rank = lambda name: (name.partition('.')[0] not in ('task', 'model'), name)
  return [
    f'{name} is {old.get(name)!r} there and {new.get(name)!r} here'
    for name in sorted(old.keys() | new.keys(), key=rank)
    if not (is_layout(name) or is_free(name)) and old.get(name) != new.get(name)
  ]


def some(found: Sequence[str]) -> str:
  """The first differences, and how many more there are."""
  more = len(found) - _NAMED
  named = [*found[:_NAMED], *([f'and {more} more'] if more > 0 else [])]
  return '; '.join(named)


def digest(**parts: Any) -> str:
  """Hash of what identifies something, by name.

  Args:
    **parts: values that JSON can hold.

  Returns:
    Hexadecimal, 20 digits.
  """
  text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
  return hashlib.sha256(text.encode()).hexdigest()[:20]
