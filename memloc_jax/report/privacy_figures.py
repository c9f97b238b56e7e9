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
  # Logarithmic axes have no 0: curves begin at the axes.
  shown = rows.assign(
    fpr=rows['fpr'].clip(lower=lowest), tpr=rows['tpr'].clip(lower=lowest)
  )
  with style.styled():
    figure = Figure(figsize=(5.2, 4.4), layout='constrained')
    axes = figure.add_subplot()
    for (attack, of), colour in zip(
      shown.groupby('attack', sort=False), style.SERIES
    ):
      of = of.sort_values(['fpr', 'tpr'])
      axes.plot(
        [*of['fpr'], 1.0],
        [*of['tpr'], 1.0],
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
    axes.set_title('Membership inference')
    style.legend_below(figure)
    return figure
