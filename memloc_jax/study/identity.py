"""What makes two configurations the same study: all settings but `engine`'s."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from memloc_jax.study.config import StudyConfig

_NAMED = 3  # Most differences that a message names.


def of(config: StudyConfig) -> dict[str, Any]:
  """The settings that results depend on, nested, as JSON holds them."""
  values = dataclasses.asdict(config)
  del values['engine']
  # Through JSON, so that tuples compare equal to what a file holds.
  return json.loads(json.dumps(values))


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
  found: Mapping[str, Mapping], wanted: Mapping[str, Mapping]
) -> list[str]:
  """'train.num_epochs is 50 there and 3 here' for every difference."""
  result = []
  # Other data and another model say most of another study.
  rank = lambda group: (group not in ('task', 'model'), group)
  for group in sorted(found.keys() | wanted.keys(), key=rank):
    old, new = found.get(group, {}), wanted.get(group, {})
    for field in sorted(old.keys() | new.keys()):
      if old.get(field) != new.get(field):
        result.append(
          f'{group}.{field} is {old.get(field)!r} there '
          f'and {new.get(field)!r} here'
        )
  return result


def some(found: Sequence[str]) -> str:
  """The first differences, and how many more there are."""
  more = len(found) - _NAMED
  named = [*found[:_NAMED], *([f'and {more} more'] if more > 0 else [])]
  return '; '.join(named)
