"""What a whole study costs, composed of parts that were measured.

Command:  python -m benchmarks.study --training=training.json \
            --localisation=localisation.json --out=study.json
Cost:     none; it reads what `benchmarks.training` and
          `benchmarks.localisation` wrote.
Result:   for each part of a study of one task: how often it occurs, seconds
          here, in sensible PyTorch and as released, and their ratios.
          With --ran=WORKDIR, also of what such studies took here in fact,
          with compiling, tables and report, which the parts are without.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from typing import Any

from benchmarks import comparison, harness

_NAMES = (harness.OURS, harness.SENSIBLE, harness.RELEASED)
_JOBS = {
  'scoring', 'swapping', 'gradients', 'centroids', 'probes', 'retraining',
}  # fmt: skip
# Who trains for whom: sensible PyTorch groups batches by length, too.
_TRAINS = {
  harness.OURS: comparison.ENGINE,
  harness.SENSIBLE: comparison.TORCH_OURS,
  harness.RELEASED: comparison.TORCH_RANDOM,
}


@dataclasses.dataclass(frozen=True)
class Study:
  """Sizes of a study of one task.

  Attributes:
    examples: training examples.
    batch_size: of training.
    main_runs: a noisy and a clean one a seed.
    main_epochs: each.
    main_evaluations: passes of each main run over all examples.
    map_runs: of the map, on half of the examples each.
    map_epochs: each.
    map_evaluations: passes of each map run over all examples.
    seeds: noisy models that are localised in.
    probe_seeds: probes of a layer and target.
    probe_epochs: of every probe.
    retrain_epochs: of every window.
  """

  examples: int = 600
  batch_size: int = 8
  main_runs: int = 6
  main_epochs: int = 15
  main_evaluations: int = 15
  map_runs: int = 30
  map_epochs: int = 12
  map_evaluations: int = 4
  seeds: int = 3
  probe_seeds: int = 5
  probe_epochs: int = 100
  retrain_epochs: int = 5


# That of `experiments/configs/study.py:small`, but for the run whose encoder
# is frozen.
STUDIES = {
  'whole': Study(),
  'small': Study(
    examples=200,
    main_runs=4,
    main_epochs=6,
    main_evaluations=3,
    map_runs=8,
    map_epochs=12,
    map_evaluations=6,
    seeds=2,
    probe_seeds=3,
    probe_epochs=60,
    retrain_epochs=2,
  ),
}


# What `benchmarks.localisation` measures, of which it writes nothing.
_MEASURED = STUDIES['whole']


def compose(
  study: Study, training: dict[str, Any], localisation: dict[str, Any]
) -> list[dict[str, Any]]:
  """The parts of a study.

  Args:
    study: its sizes.
    training: what `benchmarks.training` wrote.
    localisation: what `benchmarks.localisation` wrote. Its times are taken
      as proportional to examples, epochs and probes.

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
  share = study.examples / config['limit']
  passes = study.main_runs * study.main_evaluations
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
    'evaluation': (of('scoring'), share * passes / config['models']),
    'swapping': (of('swapping'), share * study.seeds),
    'gradients': (of('gradients'), share * study.seeds),
    'centroids': (of('centroids'), share * study.main_runs),
    'probing': (
      of('probes'),
      share
      * study.seeds
      * (study.probe_seeds / _MEASURED.probe_seeds)
      * (study.probe_epochs / config['probe_epochs']),
    ),
    'retraining': (
      of('retraining'),
      study.seeds
      * (study.retrain_epochs / _MEASURED.retrain_epochs)
      * (study.examples / config['retrain_limit']),
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
  ours = seconds[harness.OURS]
  return {
    'seconds': seconds,
    'ratios': {name: seconds[name] / ours for name in _NAMES[1:]},
  }


def as_run(workdirs: list[pathlib.Path]) -> dict[str, float]:
  """Seconds that finished studies took, all of their stages, by folder's name.

  Raises:
    ValueError: a folder holds no finished study.
  """
  found = {}
  for folder in workdirs:
    try:
      manifest = json.loads((folder / 'manifest.json').read_text('utf-8'))
      cost = {name: part['seconds'] for name, part in manifest['cost'].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
      raise ValueError(f'{folder}: holds no study: {error}') from error
    # Cost is that of stopped stages, too.
    if not (folder / 'stages' / 'report.json').exists():
      raise ValueError(f'{folder}: its study is not finished.')
    found[folder.name] = sum(cost.values())
  return found


def table_of(parts: list[dict[str, Any]], whole: dict[str, Any]) -> str:
  """Both as text."""
  head = f'{"part":16}{"times":>9}' + ''.join(f'{n:>19}' for n in _NAMES)
  lines = [head + f'{"ratios":>15}']
  rows = [(p['part'], f'{p["times"]:.0f}', p['seconds']) for p in parts]
  for part, times, seconds in [*rows, ('whole', '', whole['seconds'])]:
    ours = seconds[harness.OURS]
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
    ran = as_run(flags.ran)
  except ValueError as error:
    print(error, file=sys.stderr)
    return 2
  study = STUDIES[flags.study]
  parts = compose(study, training, localisation)
  whole = totals(parts)
  print(table_of(parts, whole))
  for name, seconds in ran.items():
    ratios = ''.join(f'{whole["seconds"][n] / seconds:7.2f}x' for n in _NAMES)
    print(f'{name}, as it ran: {seconds:.0f} s; the parts over it {ratios}')
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
      'ran': ran,
    }
    harness.write(flags.out, content)
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
  """Refuses parts of different models or texts with a ValueError."""
  configs = [part['config'] for part in (training, localisation)]
  for name in ('shape', 'precision', 'task', 'max_length'):
    # Older files do not name their texts.
    values = [config[name] for config in configs if name in config]
    if len(values) == 2 and values[0] != values[1]:
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
  add('--study', choices=list(STUDIES), default='whole', help='its sizes')
  add(
    '--ran', type=pathlib.Path, nargs='*', default=[], help='finished workdirs'
  )
  add('--out', type=pathlib.Path, help='JSON file to write')
  return parser


if __name__ == '__main__':
  sys.exit(main())
