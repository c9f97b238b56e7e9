"""Do intervals, flags and forecasts of few runs hold over 2 000 others?

Command:  python -m benchmarks.coverage --ensemble=workdirs/coverage \
            --out=coverage.json
          python -m benchmarks.coverage \
            --pairs workdirs/pairs1 workdirs/pairs2 --out=coverage_pairs.json
Cost:     a few minutes on 2 CPU cores each, after the studies of
          experiments/configs/coverage.py.
Result:   coverage and width of 95 % intervals by method, number of runs and
          true score; realised false discovery rates; reliability foretold and
          realised. Nothing is simulated.

Fixed before the first look: studies of 30, 100 and 400 runs are taken out of
the ensemble, up to 200 of each size, and the truth is what the other runs say.
Once as whole balanced blocks, which is what a study has, and once as random
runs. Intervals of correctness shall cover 0.93 to 0.98 on average and at least
0.90 in each stratum of the true score, at each of these sizes.

With --pairs, the first study is the reference and studies of 8, 16 and 30 pairs
are taken from the second, see `pair_studies`. Beside them stand simulated
studies with known truth, see `known_truth`.
"""

import argparse
import json
import pathlib
import sys
from typing import Any

import jax
import numpy as np
import pandas as pd

from benchmarks import (
  discoveries,
  harness,
  known_truth,
  pair_studies,
  subsamples,
)
from benchmarks.intervals import METHODS, PAIR_METHODS
from memloc_jax.estimators import predictions

# Wanted of the project's interval of correctness, on balanced blocks.
_AVERAGE, _LEAST = (0.93, 0.98), 0.90
_SEED = 0


def load(workdir: pathlib.Path) -> tuple[subsamples.Ensemble, dict[str, Any]]:
  """The map of a finished study.

  Args:
    workdir: of the study.

  Returns:
    The runs that did not diverge, and what the study is.
  """
  arrays = workdir / 'arrays'
  examples = pd.read_parquet(workdir / 'examples.parquet')
  runs = pd.read_parquet(workdir / 'runs.parquet')
  runs = runs[(runs['purpose'] == 'map') & (runs['status'] == 'done')]
  manifest = json.loads((workdir / 'manifest.json').read_text('utf-8'))
  names = {name: i for i, name in enumerate(manifest['data']['label_names'])}
  labels = examples['given'].map(names).to_numpy()
  logits = np.load(arrays / 'logits.npy')
  ensemble = subsamples.Ensemble(
    membership=np.load(arrays / 'membership.npy'),
    values={
      'correctness': predictions.correctness(logits, labels).astype(float),
      'probability': predictions.probability(logits, labels),
    },
    block=pd.factorize(runs['table'])[0],
  )
  if len(ensemble.block) != len(ensemble.membership):
    raise ValueError(f'{workdir}: runs.parquet and arrays/ differ in runs.')
  study = {
    'runs': len(runs),
    'blocks': np.bincount(ensemble.block).tolist(),
    'examples': len(examples),
    'noisy': int(examples['noisy'].sum()),
    'in_accuracy': manifest['in_accuracy'],
    'config': manifest['config'],
    'commit': manifest['commit'],
  }
  return ensemble, study


def measure(
  ensemble: subsamples.Ensemble, sizes: tuple[int, ...], draws: int
) -> dict[str, Any]:
  """Everything, by design and number of runs.

  Args:
    ensemble: all runs.
    sizes: numbers of runs of the studies.
    draws: most studies of each size and design.

  Returns:
    `coverage`, `discoveries` and `reliability`, rows of each, the latter two
    on balanced blocks; and `missed`, the rows outside of what was wanted.
  """
  result = {'coverage': [], 'discoveries': [], 'reliability': []}
  for design, draw in subsamples.DESIGNS.items():
    for size in sizes:
      rng = np.random.default_rng([_SEED, size])
      taken = draw(ensemble.block, size, draws, rng)
      print(f'{design}, {size} runs: {len(taken)} studies', flush=True)
      if not len(taken):
        continue
      about = {'design': design, 'runs': size, 'studies': len(taken)}
      found = {'coverage': subsamples.coverage(ensemble, taken)}
      if draw is subsamples.balanced:
        found['discoveries'] = discoveries.discoveries(ensemble, taken)
        found['reliability'] = discoveries.reliability(ensemble, taken, sizes)
      for name, rows in found.items():
        result[name] += [about | row for row in rows]
  result['missed'] = missed(result['coverage'])
  return result


def measure_pairs(
  reference: pathlib.Path, studied: pathlib.Path, simulated: int
) -> dict[str, Any]:
  """Everything about pairs, and what is simulated.

  Args:
    reference: folder of the study whose pairs are the reference.
    studied: folder of the study that few pairs are taken from.
    simulated: studies of each simulation.

  Raises:
    ValueError: the two studies have other examples or labels.
  """
  loaded = [load(folder) for folder in (reference, studied)]
  hashes = [_hashes(folder) for folder in (reference, studied)]
  if hashes[0] != hashes[1]:
    raise ValueError(f'{reference} and {studied} have different examples.')
  other, known = (
    {kind: pair_studies.pairs(ensemble, kind) for kind in ensemble.values}
    for ensemble, _ in loaded
  )
  gaps = [both['probability'].difference for both in (other, known)]
  print('intervals of pairs', flush=True)
  rows = pair_studies.coverage(*gaps, PAIR_METHODS)
  result = {
    'study': loaded[1][1],
    'reference': len(gaps[0]),
    'pairs': len(gaps[1]),
    'coverage': rows,
    'missed': pair_studies.missed(rows),
    'groups': pair_studies.groups(*gaps),
    'layers': pair_studies.layers(reference, studied),
    'dependence': pair_studies.dependence(known),
    'runs': [
      row
      for kind in known
      for row in pair_studies.run_coverage(other[kind], known[kind], kind)
    ],
  }
  print('simulations', flush=True)
  return result | {
    'simulated': simulated,
    'designs': known_truth.dependence(simulated),
    'seeds': known_truth.seeds(simulated),
    'tests': known_truth.test_sizes(),
  }


def _hashes(folder: pathlib.Path) -> list[str]:
  """What the examples of a study are, with their labels."""
  text = (folder / 'arrays' / 'hashes.json').read_text('utf-8')
  found = json.loads(text)
  return [*found['examples'], found['data']]


def missed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """The rows of coverage that are outside of what was wanted."""
  used = next(iter(METHODS['correctness']))
  result = []
  for row in rows:
    if row['method'] != used or row['design'] != 'balanced blocks':
      continue
    low, high = (_LEAST, 1)
    if row['stratum'] == subsamples.ALL:
      low, high = _AVERAGE
    if 'coverage' in row and not low <= row['coverage'] <= high:
      result.append(row)
  return result


def main(arguments: list[str] | None = None) -> int:
  """Measures, writes and prints; returns the exit status."""
  flags = _parser().parse_args(arguments)
  environment = harness.environment(jax.devices()[0])
  if flags.pairs is not None:
    content = {'benchmark': 'coverage of pairs', 'environment': environment}
    content |= measure_pairs(*flags.pairs, flags.simulated)
  else:
    ensemble, study = load(flags.ensemble)
    content = {
      'benchmark': 'coverage',
      'environment': environment,
      'study': study,
      **measure(ensemble, tuple(flags.runs), flags.draws),
    }
  if flags.out is not None:
    harness.write(flags.out, content)
  print(tables_of(content))
  return 0


def tables_of(content: dict[str, Any]) -> str:
  """Every list that was found, as text: coverage, what was missed and so on.

  Args:
    content: of the JSON file.
  """
  parts = []
  for name, rows in content.items():
    if isinstance(rows, list):
      table = pd.DataFrame(rows).to_string(
        index=False, na_rep='', float_format=lambda x: f'{x:.3g}'
      )
      parts.append(f'{name}\n{table if rows else "none"}')
  return '\n\n'.join(parts)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.coverage', description=__doc__.splitlines()[0]
  )
  add = parser.add_argument
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument('--ensemble', type=pathlib.Path, help="a study's folder")
  source.add_argument(
    '--pairs',
    type=pathlib.Path,
    nargs=2,
    metavar=('REFERENCE', 'STUDIES'),
    help='folders of two studies of pairs, of the same data',
  )
  add('--simulated', type=int, default=2000, help='studies, with --pairs')
  add('--runs', type=int, nargs='+', default=[30, 100, 400])
  add('--draws', type=int, default=200, help='most studies of each size')
  add('--out', type=pathlib.Path, help='JSON file to write')
  return parser


if __name__ == '__main__':
  sys.exit(main())
