"""The two runs of a pair: whether both finished, and which saw an example."""

import numpy as np
import pandas as pd

from memloc_jax.study.pair_runs import MAP_PAIRS
from memloc_jax.study.view import View


def finished(study: View, table: str, rows: np.ndarray) -> np.ndarray:
  """Selects the pairs in which neither run diverged.

  Args:
    study: the study.
    table: of the pairs.
    rows: of the two runs of each pair, int [pairs, 2].

  Returns:
    Their rows, int [finished, 2].
  """
  done = [
    study.store.read(table, row, study.hashes[table][row]).status == 'done'
    for row in rows.ravel()
  ]
  return rows[np.reshape(done, rows.shape).all(1)]


def usable(study: View) -> np.ndarray:
  """Rows of the map's pairs in which neither run diverged, int [pairs, 2]."""
  count = len(study.tables[MAP_PAIRS].runs)
  return finished(study, MAP_PAIRS, np.arange(count).reshape(-1, 2))


def orient(values: np.ndarray, first_saw: np.ndarray) -> np.ndarray:
  """Values of the run that saw each text, and of the run that did not.

  Args:
    values: of the first and of the second run, [2, N, ...].
    first_saw: whether the first run was trained on it, bool [N].

  Returns:
    Of the IN and of the OUT run, [2, N, ...].
  """
  first_saw = first_saw.reshape(-1, *(1,) * (values.ndim - 2))
  return np.where(first_saw, values, values[::-1])


def most_memorised(table: pd.DataFrame, count: int) -> np.ndarray:
  """Indices of the examples with the highest `cm_pairs`, int [count]."""
  ranked = table.sort_values(['cm_pairs', 'index'], ascending=[False, True])
  return np.sort(ranked['index'].to_numpy()[:count])
