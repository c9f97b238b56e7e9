"""Workdirs of finished studies with made-up tables, for what compares them."""

import json
import pathlib

import numpy as np
import pandas as pd

from memloc_jax.study import comparison

LAYERS = 6
TECHNIQUES = ('swapping', 'retraining', 'constant')


def change_manifest(path: pathlib.Path, **changes) -> None:
  """Sets parts of a workdir's manifest, as `config__grid={...}`."""
  file = path / 'manifest.json'
  manifest = json.loads(file.read_text('utf-8'))
  for name, value in changes.items():
    *parents, last = name.split('__')
    part = manifest
    for parent in parents:
      part = part[parent]
    part[last] = value
  file.write_text(json.dumps(manifest), 'utf-8')


def workdir(
  folder: pathlib.Path,
  task: str,
  model: str,
  centre: float,
  seeds=(1, 2, 3),
  generalisation: float = 0.8,
  num_layers: int = LAYERS,
) -> pathlib.Path:
  """A workdir whose techniques put the memory around a layer.

  Args:
    folder: in which it is made.
    task: its name.
    model: the last part of the model's source.
    centre: layer, 1-based, around which memory lies.
    seeds: of the main models.
    generalisation: of all examples.
    num_layers: of the model.
  """
  path = folder / f'{task} {model}'
  path.mkdir()
  config = {
    'task': {'name': task, 'files': ''},
    'model': {'source': f'folder/{model}', 'layers': 4},
  }
  manifest = {
    'config': config,
    'model': {'layers': num_layers},
    'cost': {'train': {'seconds': 60.0}},
  }
  (path / 'manifest.json').write_text(json.dumps(manifest), 'utf-8')
  rng = np.random.default_rng(sum(map(ord, task + model)))
  layers, mcog = [], []
  number = np.arange(1, num_layers + 1)
  for technique in TECHNIQUES:
    shift = 0.5 * (technique == 'retraining')
    one = {'technique': technique, 'variant': '', 'source': 'main'}
    profiles = []
    for seed in seeds:
      at = centre + shift + rng.normal(0, 0.1)
      weights = np.exp(-np.square(number - at) / 4)
      if technique == 'constant':
        weights = np.ones(num_layers)
      profiles.append(weights / weights.sum())
      for layer, weight in zip(number, profiles[-1]):
        row = one | {'seed': seed, 'layer': layer}
        layers.append(row | {'raw': weight, 'weight': weight})
    for seed, profile in [*zip(seeds, profiles), (-1, np.mean(profiles, 0))]:
      value = float(number @ profile)
      mcog.append(
        one
        | {'seed': seed, 'mcog': value, 'attainable_low': 1.0}
        | {'attainable_high': float(num_layers), 'mcog_calibrated': value}
      )
  noisy = np.arange(40) % 5 == 0
  examples = pd.DataFrame(
    {
      'index': np.arange(40),
      'id': [f'row {i}' for i in range(40)],
      'given': np.where(np.arange(40) % 2, 'a', 'b'),
      'noisy': noisy,
      'generalisation': np.where(noisy, 0.1, generalisation),
      'counterfactual_memorisation': np.where(noisy, 0.8, 0.1),
      'in_runs': 8,
      'out_runs': 8,
    }
  )
  runs = pd.DataFrame(
    {
      'table': 'main',
      'status': 'done',
      'purpose': ['noisy', 'noisy', 'clean'],
      'seed': [1, 2, 1],
      'train_macro_f1': [0.98, 1.0, 1.0],
      'validation_macro_f1': [0.68, 0.72, 0.8],
    }
  )
  events = pd.DataFrame(
    [
      {'technique': 'centroids', 'source': 'main', 'event': event}
      | {'setup': setup, 'seed': seed}
      | {'layer': layer + (setup != 'noisy') + shift}
      | {'occurred': True, 'censored': 0}
      for event, layer in (('crossing', centre), ('initiation', centre - 1))
      for setup in ('noisy', 'clean_top')
      for seed, shift in ((1, -0.5), (2, 0.5), (-1, 0.0))
    ]
  )
  detection = pd.DataFrame(
    {
      'score': ['1 - generalisation', 'counterfactual memorisation'],
      'positives': 'noisy',
      'negatives': 'clean',
      'within_class': [False, False],
      'auroc': [0.9, 0.8],
      'auroc_low': [0.7, 0.6],
      'auroc_high': [1.0, 0.9],
    }
  )
  covariates = pd.DataFrame(
    {
      'measure': 'rarity',
      'order': 1,
      'group': ['all', 'clean', 'noisy'],
      'spearman': [0.11, 0.22, 0.33],
      'low': [0.01, 0.12, 0.23],
      'high': [0.21, 0.32, 0.43],
      'examples': [40, 32, 8],
      'verdict': ['supported', 'supported', 'cannot be told'],
      'reason': ['', '', 'interval includes 0'],
      'adjusted_low': [0.0, 0.11, -0.1],
      'adjusted_high': [0.22, 0.33, 0.6],
    }
  )
  for name, table in (
    ('layers', pd.DataFrame(layers)),
    ('mcog', pd.DataFrame(mcog)),
    ('mcog_summary', comparison.mcog_summary(pd.DataFrame(mcog), num_layers)),
    ('examples', examples),
    ('runs', runs),
    ('events', events),
    ('detection', detection),
    ('covariates', covariates),
  ):
    table.to_parquet(path / f'{name}.parquet')
  return path
