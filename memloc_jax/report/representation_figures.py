"""Figures of what is inside the network: probes, centroids, heads, gradients.

Each takes a table of a study and returns a matplotlib Figure. Several seeds are
averaged.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from memloc_jax.report import style

_MOST_TICKS = 12
_SETUPS = {
  'noisy': 'Noisy model',
  'clean_bottom': 'Lower half from the clean model',
  'clean_top': 'Upper half from the clean model',
}


def probes(rows: pd.DataFrame) -> Figure:
  """F1 of probes by layer.

  Args:
    rows: the table `probes` of one source.

  Returns:
    The figure: whether an example is noisy, from the fine-tuned model and from
    the frozen reference; and, where label probes were trained, which label of
    a noisy example can be read.
  """
  has_labels = (rows['target'] != 'noise').any()
  with style.styled():
    figure = Figure(
      figsize=(8.6 if has_labels else 4.4, 3.4), layout='constrained'
    )
    panels = figure.subplots(1, 2 if has_labels else 1, squeeze=False)[0]
    noise = rows[rows['target'] == 'noise']
    for checkpoint, name, colour in (
      ('noisy', 'noisy model', style.VERMILION),
      ('frozen', 'frozen reference', style.GREY),
    ):
      _band(panels[0], noise[noise['checkpoint'] == checkpoint], 'f1', name,
            colour)  # fmt: skip
    panels[0].set_title('Is the example noisy?')
    if has_labels:
      labels = rows[rows['checkpoint'] == 'noisy']
      for target, name, colour in (
        ('given', 'given label', style.VERMILION),
        ('original', 'original label', style.BLUE),
      ):
        chosen = labels[labels['target'] == target]
        _band(panels[1], chosen, 'f1_noisy', name, colour)
      panels[1].set_title('Which label of a noisy example?')
    for axes in panels:
      axes.set(
        xlabel='Layer (0: embeddings)', ylabel='Probe F1', ylim=(-0.02, 1.02)
      )
      _finish(axes)
      # Each panel has its own: one colour means different things in them.
      axes.legend(loc='upper center', bbox_to_anchor=(0.5, -0.2), ncols=2)
    return figure


def centroids(rows: pd.DataFrame, events: pd.DataFrame) -> Figure:
  """Where noisy examples lie between the classes' centroids, by layer.

  Args:
    rows: the table `centroids` of one source, all pairs pooled.
    events: rows of the table `events` of the technique `centroids` and the
      mean over seeds.

  Returns:
    The figure, a panel a setup: median of each group with the band from its
    12.5th to its 87.5th percentile; 0 is the given class, 1 the original one.
  """
  setups = [name for name in _SETUPS if (rows['setup'] == name).any()]
  mean = (
    rows.groupby(['setup', 'group', 'layer'])[['low', 'median', 'high']]
    .mean()
    .dropna()
  )
  with style.styled():
    figure = Figure(
      figsize=(0.8 + 3.3 * len(setups), 3.9), layout='constrained'
    )
    panels = figure.subplots(1, len(setups), sharey=True, squeeze=False)[0]
    for axes, setup in zip(panels, setups):
      for group, name, colour in (
        ('given', 'clean examples of the given class', style.VERMILION),
        ('original', 'clean examples of the original class', style.BLUE),
        ('noisy', 'noisy examples', style.INK),
      ):
        of_group = mean.loc[setup, group]
        axes.fill_between(
          of_group.index,
          of_group['low'],
          of_group['high'],
          color=colour,
          alpha=0.12,
          lw=0,
        )
        axes.plot(
          of_group.index,
          of_group['median'],
          color=colour,
          lw=2,
          label=name,
          gid=group,
        )
      for event, marker in (('crossing', (4, 2)), ('initiation', (1, 2))):
        found = events[(events['event'] == event) & (events['setup'] == setup)]
        if len(found) and found['occurred'].iloc[0]:
          layer = found['layer'].iloc[0]
          axes.axvline(
            layer,
            color=style.GREY,
            lw=1.2,
            dashes=marker,
            label=event,
            gid=event,
          )
      axes.set_title(_SETUPS[setup], fontsize=10)
      axes.set_xlabel('Layer')
      _finish(axes)
    # Early layers hardly separate the classes: coordinates explode there, and
    # a scale that is logarithmic away from the classes shows them whole.
    panels[0].set_yscale('symlog', linthresh=2, linscale=2)
    panels[0].yaxis.set_major_formatter('{x:g}')
    panels[0].set_ylabel('0: given class, 1: original class')
    style.legend_below(figure)
    return figure


def heads(rows: pd.DataFrame) -> Figure:
  """What noisy examples lose more than others when a head is cut.

  Args:
    rows: the table `heads` of one source.

  Returns:
    The figure: accuracy on clean examples of the same margin minus that on
    noisy ones.
  """
  loss = rows['matched_accuracy'] - rows['noisy_accuracy']
  grid = (
    rows.assign(loss=loss)
    .groupby(['layer', 'head'])['loss']
    .mean()
    .unstack('head')
  )
  most = max(0.05, float(grid.abs().max().max()))
  with style.styled():
    figure = Figure(
      figsize=(4.0 + 0.15 * grid.shape[1], 2.2 + 0.15 * grid.shape[0]),
      layout='constrained',
    )
    axes = figure.add_subplot()
    cells = axes.pcolormesh(
      np.arange(grid.shape[1] + 1) + 0.5,
      np.arange(grid.shape[0] + 1) + 0.5,
      grid,
      cmap=style.DIVERGING,
      vmin=-most,
      vmax=most,
      rasterized=True,
    )
    bar = figure.colorbar(cells, ax=axes)
    bar.set_label('Noisy minus clean')
    bar.outline.set_visible(False)
    axes.set(xlabel='Attention head', ylabel='Layer')
    axes.set_title('Accuracy lost by single-head ablation')
    axes.spines[:].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
      axis.set_major_locator(MaxNLocator(_MOST_TICKS, integer=True))
      axis.set_tick_params(length=0)
    return figure


def accounting(rows: pd.DataFrame) -> Figure:
  """Gradients of noisy and clean examples while the model trained.

  Args:
    rows: the table `accounting` of one source.

  Returns:
    The figure: norm of the noisy gradient over that of the clean one, and the
    cosine between them, a line an epoch.
  """
  epochs = sorted(rows['epoch'].unique())
  mean = rows.assign(ratio=rows['noisy_norm'] / rows['clean_norm'])
  mean = mean.groupby(['epoch', 'layer'])[['ratio', 'cosine']].mean()
  shades = style.SEQUENTIAL(np.linspace(0.35, 1, len(epochs)))
  with style.styled():
    figure = Figure(figsize=(8.6, 3.4), layout='constrained')
    left, right = figure.subplots(1, 2)
    for axes, column in ((left, 'ratio'), (right, 'cosine')):
      for epoch, shade in zip(epochs, shades):
        values = mean.loc[epoch, column]
        axes.plot(
          values.index,
          values,
          color=shade,
          lw=2,
          marker='o',
          ms=4,
          label=f'epoch {epoch}',
        )
      axes.set_xlabel('Layer')
      _finish(axes)
    left.set(yscale='log', ylabel='Noisy norm / clean norm')
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter('{x:g}')
    left.yaxis.set_minor_formatter('')
    left.axhline(1, color=style.GREY, lw=0.8, dashes=(4, 3))
    left.set_title('Size of gradients')
    right.set(ylim=(-1.05, 1.05), ylabel='Cosine')
    right.axhline(0, color=style.GREY, lw=0.8, dashes=(4, 3))
    right.set_title('Direction of gradients')
    style.legend_below(figure, columns=6)
    return figure


def _band(
  axes: Axes, rows: pd.DataFrame, column: str, name: str, colour: str
) -> None:
  """Mean over models and probes by layer, within one standard deviation."""
  if rows.empty:
    return
  of_layer = rows.groupby('layer')[column]
  mean, spread = of_layer.mean(), of_layer.std().fillna(0)
  axes.fill_between(
    mean.index,
    (mean - spread).clip(lower=0),  # No F1 lies outside.
    (mean + spread).clip(upper=1),
    color=colour,
    alpha=0.15,
    lw=0,
  )
  axes.plot(mean.index, mean, color=colour, lw=2, marker='o', ms=4, label=name)


def _finish(axes: Axes) -> None:
  axes.xaxis.set_major_locator(MaxNLocator(_MOST_TICKS, integer=True))
  axes.grid(axis='y', color='#DDDDDD', linewidth=0.6)
  axes.set_axisbelow(True)
