"""What a whole study costs, composed of parts that were measured.

Command:  python -m benchmarks.study --training=training.json \
            --localisation=localisation.json --out=study.json
Cost:     none; it reads what `benchmarks.training` and
          `benchmarks.localisation` wrote.
Result:   for each part of a study of one task: how often it occurs, seconds
          here, in sensible PyTorch and as released, and their ratios.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from typing import Any

from benchmarks import comparison, record, turns

_NAMES = (turns.OURS, turns.SENSIBLE, turns.RELEASED)
_JOBS = {
  'scoring', 'swapping', 'gradients', 'centroids', 'probes', 'retraining',
}  # fmt: skip
# Who trains for whom: sensible PyTorch groups batches by length, too.
_TRAINS = {
  turns.OURS: comparison.ENGINE,
  turns.SENSIBLE: comparison.TORCH_OURS,
  turns.RELEASED: comparison.TORCH_RANDOM,
}


@dataclasses.dataclass(frozen=True)
class Study:
  """Sizes of a study of one task.

  Attributes:
    examples: training examples.
    batch_size: of training.
    main_runs: a noisy and a clean one a seed.
    main_epochs: each; all are evaluated on.
    map_runs: of the map, on half of the examples each.
    map_epochs: each.
    map_evaluations: passes of each map run over all examples.
    seeds: noisy models that are localised in.
    probe_epochs: of every probe.
  """

  examples: int = 600
  batch_size: int = 8
  main_runs: int = 6
  main_epochs: int = 15
  map_runs: int = 30
  map_epochs: int = 12
  map_evaluations: int = 4
  seeds: int = 3
  probe_epochs: int = 100


def compose(
  study: Study, training: dict[str, Any], localisation: dict[str, Any]
) -> list[dict[str, Any]]:
  """The parts of a study.

  Args:
    study: its sizes.
    training: what `benchmarks.training` wrote.
    localisation: what `benchmarks.localisation` wrote, of as many examples
      as the study has; of retraining and probing a share is measured and
      multiplied.

  Returns:
    Name, times that a measured unit occurs, and medians of seconds by
    contender.
  """
  rates = training['result']['rates']
  step = {
    name: 1 / rates[contender]['model_steps_per_second']['median']
    for name, contender in _TRAINS.items()
  }
  steps = lambda examples: -(-examples // study.batch_size)
  of = lambda job: {
    name: found['median']
    for name, found in localisation['results'][job]['summary'].items()
  }
  config = localisation['config']
  passes = study.main_runs * study.main_epochs
  passes += study.map_runs * study.map_evaluations
  units = {
    'training, main': (
      step,
      study.main_runs * study.main_epochs * steps(study.examples),
    ),
    'training, map': (
      step,
      study.map_runs * study.map_epochs * steps(study.examples // 2),
    ),
    'evaluation': (of('scoring'), passes / config['models']),
    'swapping': (of('swapping'), study.seeds),
    'gradients': (of('gradients'), study.seeds),
    'centroids': (of('centroids'), study.main_runs),
    'probing': (
      of('probes'),
      study.seeds * study.probe_epochs / config['probe_epochs'],
    ),
    'retraining': (
      of('retraining'),
      study.seeds * study.examples / config['retrain_limit'],
    ),
  }
  return [
    {
      'part': part,
      'times': times,
      'seconds': {name: unit[name] * times for name in _NAMES},
    }
    for part, (unit, times) in units.items()
  ]


def totals(parts: list[dict[str, Any]]) -> dict[str, Any]:
  """Sums of `compose`, and ratios over ours."""
  seconds = {
    name: sum(part['seconds'][name] for part in parts) for name in _NAMES
  }
  ours = seconds[turns.OURS]
  return {
    'seconds': seconds,
    'ratios': {name: seconds[name] / ours for name in _NAMES[1:]},
  }


def table_of(parts: list[dict[str, Any]], whole: dict[str, Any]) -> str:
  """Both as text."""
  head = f'{"part":16}{"times":>9}' + ''.join(f'{n:>19}' for n in _NAMES)
  lines = [head + f'{"ratios":>15}']
  rows = [(p['part'], f'{p["times"]:.0f}', p['seconds']) for p in parts]
  for part, times, seconds in [*rows, ('whole', '', whole['seconds'])]:
    ours = seconds[turns.OURS]
    values = ''.join(f'{seconds[n]:17.0f} s' for n in _NAMES)
    ratios = ''.join(f'{seconds[n] / ours:7.2f}x' for n in _NAMES[1:])
    lines.append(f'{part:16}{times:>9}{values}{ratios}')
  return '\n'.join(lines)


def main(arguments: list[str] | None = None) -> int:
  """Composes; returns the exit status."""
  flags = _parser().parse_args(arguments)
  try:
    training = _read(flags.training, 'training')
    localisation = _read(flags.localisation, 'localisation')
    _check_alike(training, localisation)
  except ValueError as error:
    print(error, file=sys.stderr)
    return 2
  study = Study(examples=localisation['config']['limit'])
  parts = compose(study, training, localisation)
  whole = totals(parts)
  print(table_of(parts, whole))
  if flags.out is not None:
    content = {
      'benchmark': 'study',
      'composed': True,
      'study': dataclasses.asdict(study),
      'measured': [
        {key: found[key] for key in ('environment', 'config')}
        for found in (training, localisation)
      ],
      'parts': parts,
      'whole': whole,
    }
    record.write(flags.out, content)
  return 0


def _read(path: pathlib.Path, benchmark: str) -> dict[str, Any]:
  """The JSON file of a benchmark that ended.

  Raises:
    ValueError: it is none.
  """
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise ValueError(f'{path}: cannot be read: {error}') from error
  if not isinstance(content, dict) or content.get('benchmark') != benchmark:
    raise ValueError(f'{path}: not written by benchmarks.{benchmark}.')
  needed = {'result'} if benchmark == 'training' else _JOBS
  found = content if benchmark == 'training' else content['results']
  if missing := sorted(needed - found.keys()):
    raise ValueError(f'{path}: has no {", ".join(missing)}.')
  return content


def _check_alike(
  training: dict[str, Any], localisation: dict[str, Any]
) -> None:
  """Refuses parts of different models or precisions with a ValueError."""
  for name in ('shape', 'precision'):
    values = [part['config'][name] for part in (training, localisation)]
    if values[0] != values[1]:
      raise ValueError(
        f'--training has {name} {values[0]}, --localisation {values[1]}.'
      )


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.study', description=__doc__.splitlines()[0]
  )
  add = parser.add_argument
  add('--training', type=pathlib.Path, required=True, help='JSON file')
  add('--localisation', type=pathlib.Path, required=True, help='JSON file')
  add('--out', type=pathlib.Path, help='JSON file to write')
  return parser


if __name__ == '__main__':
  sys.exit(main())
