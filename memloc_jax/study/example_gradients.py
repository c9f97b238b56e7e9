"""Stage `gradient_norms`: GraNd by layer, of runs with and without a text."""

import numpy as np
import pandas as pd

from memloc_jax.ensemble import store
from memloc_jax.localisation.example_gradients import example_norms
from memloc_jax.schema import COUNT, SIZE, Table
from memloc_jax.study.map_runs import MAP
from memloc_jax.study.tables import OF_EXAMPLE, WITH_HEAD
from memloc_jax.study.view import View

TABLES = (
  Table(
    'gradient_norms',
    'training example and layer',
    {
      **OF_EXAMPLE,
      'layer': WITH_HEAD('layer; L + 1 is head and final norm'),
      'grand_in': SIZE.or_missing(
        'mean norm over IN runs; missing without any'
      ),
      'grand_out': SIZE.or_missing(
        'mean norm over OUT runs; missing without any'
      ),
      'in_runs out_runs': COUNT('numbers of these runs'),
    },
    text=(
      'Of the first `map.gradient_runs` map runs after epoch '
      "`map.gradient_epoch` (or after a run's last, where it stopped before): "
      "the L2 norm of the gradient of the example's loss (cross-entropy of "
      'the given label, evaluation mode), which is GraNd (Paul et al., 2021, '
      'section 2) layer by layer. IN runs had trained on the example by then. '
      'No table without `map.gradient_runs`.'
    ),
  ),
)


# Each example has a gradient of its own, as large as the model.
_AT_ONCE = 8


def gradient_norms(study: View) -> None:
  """Writes `gradient_norms`; nothing unless `map.gradient_runs` asks for it."""
  config = study.config.map
  if not config.gradient_runs:
    return
  table = study.tables[MAP]
  labels = study.data.labels[study.noisy_set]
  shape = (2, len(labels), study.model.num_layers + 1)
  total, count = np.zeros(shape), np.zeros((2, len(labels)), int)
  for row in range(config.gradient_runs):
    record = study.store.read(MAP, row, study.hashes[MAP][row])
    if record.status != 'done':
      continue
    early = config.gradient_epoch < record.epoch[-1]
    moment = store.snapshot(config.gradient_epoch) if early else store.FINAL
    norms = example_norms(
      study.model,
      study.weights(MAP, row, moment),
      study.data.train,
      labels,
      _AT_ONCE,
    )
    member = table.runs.membership[row]
    for side, chosen in enumerate((member, ~member)):
      total[side, chosen] += norms[chosen]
      count[side] += chosen
    study.progress.update((row + 1) / config.gradient_runs)
    study.stop_if_asked()
  study.workdir.write_table('gradient_norms', _rows(total, count))


def _rows(total: np.ndarray, count: np.ndarray) -> pd.DataFrame:
  """One row an example and layer.

  Args:
    total: sums over IN and over OUT runs, [2, n, L + 1].
    count: numbers of them, [2, n].
  """
  _, examples, layers = total.shape
  with np.errstate(invalid='ignore'):
    mean_in, mean_out = total / count[..., None]
  each = lambda values: np.repeat(values, layers)
  return pd.DataFrame(
    {
      'index': each(np.arange(examples)),
      'layer': np.tile(np.arange(1, layers + 1), examples),
      'grand_in': mean_in.ravel(),
      'grand_out': mean_out.ravel(),
      'in_runs': each(count[0]),
      'out_runs': each(count[1]),
    }
  )
