"""Stage `swap`: layer swapping between the noisy and the clean main models."""

import numpy as np
import pandas as pd

from memloc_jax.localisation import swapping, windows
from memloc_jax.study.context import Study
from memloc_jax.study.stages import stage


@stage('swap', needs=('score',))
def swap(study: Study) -> None:
  """Writes `windows`, `layers` and `mcog`; nothing without noisy runs."""
  table = study.tables.get('main')
  if table is None or not study.noisy_set:
    return
  runs = study.workdir.read_table('runs')
  done = set(runs.loc[runs['status'] == 'done', 'run'])  # 'main' comes first
  rows = {
    (table.runs.purpose[row], int(table.runs.seed[row])): row
    for row in range(len(table.runs))
    if row in done
  }
  seeds = [
    seed
    for seed in study.config.train.seeds
    if ('noisy', seed) in rows and ('clean', seed) in rows
  ]
  if not seeds:
    study.progress.message('swap: no seed has both a noisy and a clean run')
    return
  accuracies = {}
  for number, seed in enumerate(seeds):
    accuracies[seed] = _accuracies(
      study,
      study.weights('main', rows['noisy', seed]),
      study.weights('main', rows['clean', seed]),
      lambda done, number=number: study.progress.update(
        (number + done / len(study.data.train)) / len(seeds)
      ),
    )
  _write_tables(study, accuracies)


def _accuracies(study, noisy, clean, progress) -> swapping.SwapAccuracies:
  data, noisy_set = study.data, study.noisy_set
  predicted = swapping.swap_predictions(
    study.model,
    study.pretrained['embeddings'],
    noisy,
    clean['blocks'],
    data.train,
    study.config.swap.batch_size,
    progress=progress,
  )
  return swapping.swap_accuracies(
    predicted, data.labels[noisy_set], data.labels[0], data.noisy[noisy_set]
  )


def _write_tables(
  study: Study, accuracies: dict[int, swapping.SwapAccuracies]
) -> None:
  """Windows, layers and centres of gravity, by seed and averaged."""
  layers = study.model.num_layers
  common = {'technique': 'swapping', 'variant': '', 'source': 'main'}
  pairs = windows.all_windows(layers) + 1
  window_tables, layer_tables, errors = [], [], []
  for seed, accuracy in accuracies.items():
    window_tables.append(
      pd.DataFrame(
        common
        | {
          'seed': seed,
          'first': pairs[:, 0],
          'last': pairs[:, 1],
          'noisy_accuracy': accuracy.noisy[1:],
          'noisy_original_accuracy': accuracy.noisy_original[1:],
          'clean_accuracy': accuracy.clean[1:],
        }
      )
    )
    error = swapping.swapping(accuracy).weights
    errors.append(error)
    total = error.sum()
    layer_tables.append(
      pd.DataFrame(
        common
        | {
          'seed': seed,
          'layer': np.arange(1, layers + 1),
          'raw': error,
          'weight': error / total if total else np.full(layers, np.nan),
        }
      )
    )
  low, high = windows.mcog_range(layers)
  centres = []
  for seed, error in [*zip(accuracies, errors), (-1, np.mean(errors, 0))]:
    centre = float(windows.mcog(error))
    centres.append(
      common
      | {
        'seed': seed,
        'mcog': centre,
        'mcog_low': low,
        'mcog_high': high,
        'mcog_calibrated': float(
          windows.calibrated_mcog(centre, (low, high), layers)
        ),
      }
    )
  study.workdir.write_table('windows', pd.concat(window_tables))
  study.workdir.write_table('layers', pd.concat(layer_tables))
  study.workdir.write_table('mcog', pd.DataFrame(centres))
