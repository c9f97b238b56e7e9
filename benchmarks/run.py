"""Every comparison of speed, one after the other, in one table.

Command:  python -m benchmarks.run --out=FOLDER
Cost:     about an hour on 2 CPU cores; --shape=tiny a few minutes, as a test.
Result:   what every part prints, one JSON file a part, and a summary of all
          ratios as table.md; exit status 1 if a part failed.

Each part is a process of its own, in which our side and the others take
turns.
"""

import argparse
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks import comparison

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_BFLOAT16 = '--precision=bfloat16'
# Name -> module and flags.
_PARTS = {
  'training-minilm': ('training', '--all', '--limit=240', '--budget=280'),
  'training-minilm-bfloat16': ('training', _BFLOAT16, '--limit=240'),
  'training-small': (
    ('training', '--shape=small', '--all', '--runs=32', '--limit=240')
  ),
  'training-bert-base': (
    ('training', '--shape=bert-base', '--all', '--limit=80', '--budget=330')
  ),
  'training-bert-base-bfloat16': (
    ('training', '--shape=bert-base', _BFLOAT16, '--limit=80')
  ),
  'training-boolq': ('training', '--task=boolq', '--limit=64'),
  'training-boolq-bfloat16': (
    ('training', '--task=boolq', _BFLOAT16, '--limit=64')
  ),
  'localisation': ('localisation', '--repetitions=3'),
  'localisation-bfloat16': ('localisation', '--repetitions=3', _BFLOAT16),
  'slopes': ('slopes',),
}
# What is composed of which parts.
_STUDIES = {
  'study': ('training-minilm', 'localisation'),
  'study-bfloat16': ('training-minilm-bfloat16', 'localisation-bfloat16'),
}


def main(arguments: list[str] | None = None) -> int:
  """Runs the parts; returns the exit status."""
  flags = _parser().parse_args(arguments)
  names = flags.parts or [*_PARTS, *_STUDIES]
  failed = []
  for name in names:
    print(f'\n{name}', flush=True)
    out = flags.out / f'{name}.json'
    if name in _PARTS:
      module, *rest = _PARTS[name]
    else:
      training, localisation = (flags.out / f'{x}.json' for x in _STUDIES[name])
      module = 'study'
      rest = [f'--training={training}', f'--localisation={localisation}']
    if flags.shape and module != 'study':
      # Of flags that are given twice, the last one counts.
      rest = [*rest, f'--shape={flags.shape}', '--limit=48', '--repetitions=1']
    done = subprocess.run(
      [sys.executable, '-m', f'benchmarks.{module}', *rest, f'--out={out}'],
      cwd=_ROOT,
    )
    if done.returncode:
      failed.append(name)
  rows = []
  for name in names:
    file = flags.out / f'{name}.json'
    if name not in failed and file.is_file():
      rows += rows_of(name, json.loads(file.read_text(encoding='utf-8')))
  table = table_of(rows)
  flags.out.mkdir(parents=True, exist_ok=True)
  (flags.out / 'table.md').write_text(table, encoding='utf-8')
  print(f'\n{table}')
  for name in failed:
    print(f'{name} failed', file=sys.stderr)
  return 1 if failed else 0


def rows_of(
  name: str, content: dict[str, Any]
) -> Iterator[tuple[str, str, str, str]]:
  """The ratios of one part.

  Args:
    name: of the part.
    content: its JSON file.

  Yields:
    What is compared, with whom, the ratio with its quartiles, and the share
    of the machine's floor where it is known.
  """
  if content['benchmark'] == 'training':
    reached = f'{content["floor"]["reached"]["median"]:.0%}'
    for other, gain in content['result']['gains'].items():
      label = _TRAINING.get(other, other.removeprefix('over '))
      yield name, label, _ratio(gain), reached
  elif content['benchmark'] == 'localisation':
    for job, found in content['results'].items():
      for other, ratio in found['ratios'].items():
        yield f'{name}, {job}', other, _ratio(ratio), ''
  elif content['benchmark'] == 'study':
    for other, ratio in content['whole']['ratios'].items():
      yield f'{name}, composed', other, f'{ratio:.2f}', ''
  else:
    for size, found in content['results'].items():
      steps = ', '.join(f'{step:.2f}' for step in found['steps'])
      text = f'{found["exponent"]:.2f} ({steps})'
      yield f'{name}, exponent in {size}', '', text, ''


# The gains of a training benchmark, by whom they are over.
_TRAINING = {
  'total': comparison.TORCH_RANDOM,
  'engine': comparison.TORCH_OURS,
  'padding': 'padding alone',
}


def _ratio(found: dict[str, float]) -> str:
  return f'{found["median"]:.2f} ({found["q1"]:.2f} to {found["q3"]:.2f})'


def table_of(rows: list[tuple[str, str, str, str]]) -> str:
  """Markdown."""
  head = [
    ('workload', 'over', 'ratio of time (quartiles)', 'of the floor'),
    ('---',) * 4,
  ]
  return ''.join(f'| {" | ".join(row)} |\n' for row in head + rows)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.run', description=__doc__.splitlines()[0]
  )
  add = parser.add_argument
  add('--out', type=pathlib.Path, required=True, help='folder for the files')
  add('--shape', help='another shape for all, few examples')
  add(
    '--parts',
    nargs='*',
    choices=[*_PARTS, *_STUDIES],
    default=[],
    help='all if none',
  )
  return parser


if __name__ == '__main__':
  sys.exit(main())
