"""Figure of how well an attacker tells what a model was trained on."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from memloc_jax.report import style


def curves(rows: pd.DataFrame, summary: pd.DataFrame) -> Figure:
  """ROC of every attack on logarithmic axes (Carlini et al., 2022, figure 1).

  Args:
    rows: the table `privacy_curve`.
    summary: the table `privacy`.

  Returns:
    The figure; the legend has the area under each curve.
  """
  pooled = summary[summary['scope'] == 'pooled']
  area = pooled.groupby('attack')['auc'].first()
  above = rows.loc[(rows['fpr'] > 0) & (rows['tpr'] > 0), ['fpr', 'tpr']]
  lowest = float(above['fpr'].min()) if len(above) else 1e-3
  with style.styled():
    figure = Figure(figsize=(5.2, 4.4), layout='constrained')
    axes = figure.add_subplot()
    for (attack, of), colour in zip(
      rows.groupby('attack', sort=False), style.SERIES
    ):
      axes.plot(
        *_from_axes(of, lowest).T,
        color=colour,
        lw=2,
        label=f'{attack} (AUC {area[attack]:.3f})',
        gid=attack,
      )
    chance = np.geomspace(lowest, 1, 50)
    axes.plot(chance, chance, color=style.GREY, lw=0.8, dashes=(4, 3))
    axes.set(
      xscale='log',
      yscale='log',
      xlim=(lowest, 1),
      ylim=(lowest, 1.05),
      xlabel='False positive rate',
      ylabel='True positive rate',
    )
    for axis in (axes.xaxis, axes.yaxis):
      axis.set_major_formatter('{x:g}')
    axes.set_title('Membership inference')
    style.legend_below(figure)
    return figure


def _from_axes(rows: pd.DataFrame, lowest: float) -> np.ndarray:
  """A curve from where it enters logarithmic axes, which have no 0.

  Args:
    rows: of one attack.
    lowest: where both axes begin.

  Returns:
    False and true positive rates from there to (1, 1), [points, 2].
  """
  points = rows[['fpr', 'tpr']].sort_values(['fpr', 'tpr']).to_numpy()
  points = np.vstack([points, [1.0, 1.0]])
  first = int((points >= lowest).all(axis=1).argmax())
  before, after = points[max(first - 1, 0)], points[first]
  step = after - before
  rising = step > 0
  share = ((lowest - before[rising]) / step[rising]).max(initial=0)
  entry = [np.maximum(before + share * step, lowest)] if first else []
  # What is found without a false alarm is on the left axis.
  sure = points[points[:, 0] == 0, 1].max(initial=0)
  left = [[lowest, sure]] if sure >= lowest else []
  return np.vstack([*left, *entry, points[first:]])
