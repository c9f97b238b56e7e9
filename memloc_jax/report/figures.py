"""Figures of the report; each takes tables and returns a matplotlib Figure.

Figures are made without pyplot, which keeps global state.
"""

import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from memloc_jax.localisation import windows
from memloc_jax.report import style

# An SVG of more points than this opens slowly; they become one picture in it.
_MOST_VECTOR_POINTS = 1500
# Figures of more layers have no room for a number in each cell or tick.
_MOST_ANNOTATED_LAYERS = 12


def memorisation_map(examples: pd.DataFrame) -> Figure:
  """Training memorisation against generalisation, one point an example.

  Args:
    examples: the table `examples`; examples without both scores are left
      out. A column `kind` with 'exception' in it is marked where present.

  Returns:
    The figure.
  """
  scores = ['generalisation', 'training_memorisation']
  shown = examples.dropna(subset=scores)
  noisy = shown['noisy'].to_numpy(bool)
  if 'kind' in shown:
    exception = (shown['kind'] == 'exception').to_numpy() & ~noisy
  else:
    exception = np.zeros_like(noisy)
  groups = (
    # Name, members, marker, area, edge colour, edge width.
    (
      'right label' if noisy.any() else 'examples',
      ~noisy & ~exception,
      'o',
      16,
      '#7F93A6',
      0.4,
    ),
    ('exception', exception, '^', 34, style.INK, 0.8),
    ('wrong label', noisy, 'D', 26, style.VERMILION, 1.0),
  )
  with style.styled():
    figure = Figure(figsize=(5.8, 4.6), layout='constrained')
    axes = figure.add_subplot()
    axes.axline((0, 0), slope=1, color=style.GREY, linewidth=0.8, dashes=(4, 3))
    for name, members, marker, area, edge, width in groups:
      if not members.any():
        continue
      chosen = shown[members]
      points = axes.scatter(
        chosen['generalisation'],
        chosen['training_memorisation'],
        c=chosen['counterfactual_memorisation'],
        cmap=style.SEQUENTIAL,
        vmin=0,
        vmax=1,
        s=area,
        marker=marker,
        edgecolors=edge,
        linewidths=width,
        rasterized=len(shown) > _MOST_VECTOR_POINTS,
        label=f'{name} ({len(chosen):,})',
        zorder=3,
        clip_on=False,
      )
    axes.set(
      xlim=(0, 1),
      ylim=(0, 1),
      aspect='equal',
      xlabel='Generalisation',
      ylabel='Training memorisation',
    )
    axes.set_title('Memorisation map', pad=14)
    if len(shown):
      bar = figure.colorbar(points, ax=axes, shrink=0.85, extend='min')
      bar.set_label('Counterfactual memorisation')
      bar.outline.set_visible(False)
      handles, _ = axes.get_legend_handles_labels()
      legend = figure.legend(
        handles=handles,
        loc='outside lower center',
        ncols=len(handles),
        columnspacing=1.2,
        handletextpad=0.3,
      )
      for handle in legend.legend_handles:
        handle.set_array(None)
        handle.set_facecolor('#BBBBBB')
    return figure


def heat_map(measured: pd.DataFrame, title: str) -> Figure:
  """Error on given labels of noisy examples, by window length and layer.

  Args:
    measured: rows of the table `windows` of one technique and source; several
      seeds are averaged.
    title: of the figure.

  Returns:
    The figure.
  """
  accuracy = measured.groupby(['first', 'last'])['noisy_accuracy'].mean()
  grid = windows.heat_map(accuracy.sort_index().to_numpy())
  num_layers = len(grid)
  with style.styled():
    figure = Figure(figsize=(5.8, 4.6), layout='constrained')
    axes = figure.add_subplot()
    edges = np.arange(num_layers + 1) + 0.5
    cells = axes.pcolormesh(
      edges,
      edges,
      grid,
      cmap=style.SEQUENTIAL,
      vmin=0,
      vmax=1,
      rasterized=True,
    )
    bar = figure.colorbar(cells, ax=axes)
    bar.set_label('Error on noisy labels')
    bar.outline.set_visible(False)
    if num_layers <= _MOST_ANNOTATED_LAYERS:
      for (row, column), value in np.ndenumerate(grid):
        axes.text(
          column + 1,
          row + 1,
          '–' if np.isnan(value) else f'{value:.2f}',
          ha='center',
          va='center',
          fontsize=7.5 if num_layers > 8 else 9,
          color=style.ON_DARK if value > 0.68 else style.ON_LIGHT,
        )
    axes.set(xlabel='Layer', ylabel='Length of the window (layers)')
    axes.set_title(title)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for axis in (axes.xaxis, axes.yaxis):
      _count_layers(axis, num_layers)
    axes.set(xlim=edges[[0, -1]], ylim=edges[[0, -1]])
    return figure


def _count_layers(axis: Axis, num_layers: int) -> None:
  """Ticks at whole layers, at each of them while there is room."""
  if num_layers <= _MOST_ANNOTATED_LAYERS:
    axis.set_ticks(range(1, num_layers + 1))
  else:
    axis.set_major_locator(MaxNLocator(12, integer=True))
