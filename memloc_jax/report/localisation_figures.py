"""Figures that set localisation techniques side by side.

Each takes tables of a study and returns a matplotlib Figure.
"""

import textwrap
from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from memloc_jax.report import style
from memloc_jax.study.comparison import is_baseline

_COLUMNS = 7
# A profile whose peak is so many times that of all others has its own scale.
_OWN_SCALE = 1.5
_DASHES = (4, 3)
# More ticks than this do not fit under a small panel.
_MOST_TICKS = 8


def label(name: str) -> str:
  """A technique's name for a reader."""
  text = name.replace('_', ' ')
  return text[0].upper() + text[1:]


def profiles(layers: pd.DataFrame, mcog: pd.DataFrame) -> Figure:
  """Weight per layer, a panel a technique on shared axes.

  Args:
    layers: rows of the table `layers`, one variant a technique, of one source.
    mcog: rows of the table `mcog` of the same.

  Returns:
    The figure: a thin line a seed, their mean, its centre of gravity, and a
    dashed line where every layer weighs the same. Trivial baselines are grey
    and have rows of their own; a profile much steeper than all others has its
    own scale.
  """
  centres = mcog[mcog['seed'] == -1].set_index('technique')['mcog']
  with style.styled():
    tops = layers.groupby('technique')['weight'].max()
    figure, panels = _grid(dict.fromkeys(layers['technique']), tops)
    for technique, axes in panels.items():
      colour = style.GREY if is_baseline(technique) else style.BLUE
      by_seed = _by_seed(layers[layers['technique'] == technique])
      number = by_seed.index.to_numpy()
      axes.axhline(1 / len(number), color=style.GREY, lw=0.8, dashes=_DASHES)
      if by_seed.shape[1] > 1:
        axes.plot(number, by_seed, color=colour, alpha=0.35, lw=1)
      axes.plot(
        number, by_seed.mean(axis=1), color=colour, lw=2, marker='o', ms=4
      )
      centre = centres.get(technique, np.nan)
      if np.isfinite(centre):
        axes.axvline(centre, color=style.VERMILION, lw=1.2, dashes=_DASHES)
      _layer_ticks(axes, number)
    _finish(figure, panels, tops)
    return figure


def centres(
  mcog: pd.DataFrame, summary: pd.DataFrame, num_layers: int
) -> Figure:
  """M-CoG of every technique: a point a seed, mean and 95 % interval.

  Args:
    mcog: rows of the table `mcog`, one variant a technique, of one source.
    summary: rows of the table `mcog_summary` of the same.
    num_layers: L.

  Returns:
    The figure. The grey bar is the attainable range, the dashed line a
    profile without preference; trivial baselines are grey, behind a gap.
  """
  techniques = list(dict.fromkeys(mcog['technique']))
  known = summary.set_index('technique')
  # A gap where the baselines begin.
  place: dict[str, float] = {}
  for number, technique in enumerate(techniques):
    place[technique] = number + 0.5 * is_baseline(technique)
  lowest = max(place.values())
  with style.styled():
    figure = Figure(figsize=(6.2, 1.2 + 0.3 * lowest), layout='constrained')
    axes = figure.add_subplot()
    middle = (num_layers + 1) / 2
    axes.axvline(middle, color=style.GREY, lw=0.8, dashes=_DASHES)
    for technique, row in place.items():
      baseline = is_baseline(technique)
      rows = mcog[mcog['technique'] == technique]
      seeds = rows.loc[rows['seed'] != -1, 'mcog'].dropna()
      low = rows['attainable_low'].iloc[0]
      high = rows['attainable_high'].iloc[0]
      axes.plot(
        [low, high],
        [row, row],
        color='#E3E7EB',
        lw=9,
        zorder=1,
        solid_capstyle='butt',
      )
      axes.plot(
        seeds,
        np.full(len(seeds), row) + _spread(len(seeds)),
        'o',
        color=style.GREY if baseline else style.BLUE,
        alpha=0.6,
        ms=4.5,
        zorder=2,
      )
      if len(seeds):
        mean = seeds.mean()
        ends = known.loc[technique, ['low', 'high']].to_numpy(np.float64)
        bar = np.abs(ends - mean)[:, None] if np.isfinite(ends).all() else None
        axes.errorbar(
          mean,
          row,
          xerr=bar,
          fmt='D',
          ms=5,
          color=style.GREY if baseline else style.VERMILION,
          capsize=3,
          zorder=3,
        )
    axes.set_yticks(list(place.values()), [label(t) for t in techniques])
    axes.set(
      xlim=(0.8, num_layers + 0.2),
      ylim=(lowest + 0.6, -0.6),
      xlabel='Centre of gravity (layer)',
    )
    axes.set_title('Centre of gravity by technique')
    _layer_ticks(axes, np.arange(1, num_layers + 1))
    axes.tick_params(axis='y', length=0)
    return figure


def agreement(correlations: pd.DataFrame, quantity: str) -> Figure:
  """Correlation matrix of techniques.

  Args:
    correlations: rows of the table `correlations` of one source.
    quantity: 'layers' or 'mcog'.

  Returns:
    The figure; a dash where a correlation is not defined.
  """
  chosen = correlations[correlations['quantity'] == quantity]
  names = list(dict.fromkeys([*chosen['technique_a'], *chosen['technique_b']]))
  matrix = pd.DataFrame(np.nan, names, names)
  for row in chosen.itertuples():
    matrix.loc[row.technique_a, row.technique_b] = row.pearson
    matrix.loc[row.technique_b, row.technique_a] = row.pearson
  what = {'layers': 'weights per layer', 'mcog': 'centres of gravity'}[quantity]
  with style.styled():
    size = 2.2 + 0.52 * len(names)
    figure = Figure(figsize=(size + 0.6, size), layout='constrained')
    axes = figure.add_subplot()
    image = axes.imshow(matrix, cmap=style.DIVERGING, vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(matrix.to_numpy()):
      if row != column:
        axes.text(
          column,
          row,
          '–' if np.isnan(value) else f'{value:.2f}',
          ha='center',
          va='center',
          fontsize=9,
          color=style.ON_DARK if abs(value) > 0.7 else style.ON_LIGHT,
        )
    axes.set_xticks(
      range(len(names)),
      [label(n) for n in names],
      rotation=45,
      ha='right',
      rotation_mode='anchor',
    )
    axes.set_yticks(range(len(names)), [label(n) for n in names])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f'Agreement on {what}')
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label('Pearson correlation')
    bar.outline.set_visible(False)
    return figure


def control_bars(summary: pd.DataFrame) -> Figure:
  """How often techniques name a planted layer first.

  Args:
    summary: rows of the table `control_summary` of one setup other than
      'graded', one variant a technique.

  Returns:
    The figure: accuracy@1 with the interval of its verdict where there is one,
    baselines in grey behind a gap, chance dashed.
  """
  with style.styled():
    figure = Figure(
      figsize=(6.2, 1.4 + 0.34 * len(summary)), layout='constrained'
    )
    axes = figure.add_subplot()
    ordered = summary.sort_values('baseline', kind='stable')
    where = np.arange(len(ordered)) + 0.5 * ordered['baseline'].to_numpy()
    accuracy = ordered['accuracy_1'].to_numpy()
    bars = axes.barh(
      where,
      accuracy,
      height=0.62,
      color=np.where(ordered['baseline'], '#B8BFC6', style.BLUE),
      xerr=np.abs(
        ordered.reindex(columns=['adjusted_low', 'adjusted_high'])
        .to_numpy(np.float64)
        .T
        - accuracy
      ),
      error_kw={'ecolor': '#222222', 'elinewidth': 1, 'capsize': 3},
    )
    # A bar of 0 cannot be seen.
    axes.bar_label(bars, fmt='%.2f', padding=4, fontsize=9)
    chance = ordered['chance'].iloc[0]
    axes.axvline(chance, color=style.VERMILION, lw=1.2, dashes=_DASHES)
    axes.text(
      chance, -0.75, ' chance', color=style.VERMILION, fontsize=9, va='center'
    )
    names = [
      label(row.technique) + ' (baseline)' * bool(row.baseline)
      for row in ordered.itertuples()
    ]
    axes.set_yticks(where, names)
    axes.set(xlim=(0, 1), ylim=(where[-1] + 0.6, -1.0), xlabel='Accuracy@1')
    axes.set_title('Accuracy@1 in control models')
    axes.tick_params(axis='y', length=0)
    return figure


def control_profiles(layers: pd.DataFrame, controls: pd.DataFrame) -> Figure:
  """Mean weight per layer of control models, a panel a technique.

  Args:
    layers: rows of the table `layers`, one variant a technique.
    controls: rows of the table `control` of one setup; its sources are drawn.

  Returns:
    The figure: a line a source, with filled circles at the layers that could
    learn the wrong labels.
  """
  sources = list(dict.fromkeys(controls['layers']))
  techniques = list(dict.fromkeys(controls['technique']))
  with style.styled():
    means = (
      layers[
        layers['technique'].isin(techniques) & layers['source'].isin(sources)
      ]
      .groupby(['technique', 'source', 'layer'])['weight']
      .mean()
    )
    tops = means.groupby('technique').max()
    figure, panels = _grid(techniques, tops)
    for technique, axes in panels.items():
      for source, (dashes, colour) in zip(sources, style.series()):
        rows = layers[
          (layers['technique'] == technique) & (layers['source'] == source)
        ]
        if rows.empty:
          continue
        mean = _by_seed(rows).mean(axis=1)
        axes.plot(
          mean.index,
          mean,
          color=colour,
          ls=dashes,
          lw=1.6,
          label=source,
          gid=source,
        )
        planted = [n for n in mean.index if str(n) in source.split('+')]
        axes.plot(
          planted, mean.loc[planted], 'o', ms=5, color=colour, gid='planted'
        )
      number = np.unique(layers['layer'])
      axes.axhline(1 / len(number), color=style.GREY, lw=0.8, dashes=_DASHES)
      _layer_ticks(axes, number)
    _finish(figure, panels, tops)
    handles, names = panels[techniques[0]].get_legend_handles_labels()
    figure.legend(
      handles,
      names,
      loc='outside lower center',
      ncols=min(len(names), len(style.SERIES)),
      title='Layers that could learn (filled circles)',
    )
    return figure


def _by_seed(rows: pd.DataFrame) -> pd.DataFrame:
  """Weights, a row a layer and a column a seed."""
  return rows.pivot(index='layer', columns='seed', values='weight').sort_index()


def _spread(count: int) -> np.ndarray:
  """Small offsets, so that equal points stay apart."""
  return np.linspace(-0.16, 0.16, count) if count > 1 else np.zeros(count)


def _own_scale(tops: pd.Series) -> str | None:
  """The technique whose profile is far above all others, if there is one."""
  if len(tops) < 2:
    return None
  (name, top), (_, second) = tops.nlargest(2).items()
  return name if top > _OWN_SCALE * second else None


def _grid(
  names: Iterable[str], tops: pd.Series
) -> tuple[Figure, dict[str, Axes]]:
  """A panel a technique, trivial baselines in rows of their own.

  Args:
    names: of the techniques.
    tops: the highest weight of each; one that has its own scale comes last of
      its rows, so that no other panel seems to have it.
  """
  names, own = list(names), _own_scale(tops)
  groups = (
    [name for name in names if not is_baseline(name)],
    [name for name in names if is_baseline(name)],
  )
  columns = min(_COLUMNS, max(map(len, groups)))
  rows = [
    group[start : start + columns]
    for group in (
      sorted(group, key=lambda name: name == own) for group in groups
    )
    for start in range(0, len(group), columns)
  ]
  figure = Figure(
    figsize=(0.7 + 1.72 * columns, 0.6 + 1.6 * len(rows)), layout='constrained'
  )
  grid = figure.add_gridspec(len(rows), columns)
  place = {
    name: grid[at, column]
    for at, row in enumerate(rows)
    for column, name in enumerate(row)
  }
  panels = {}
  for name in (*groups[0], *groups[1]):
    panels[name] = figure.add_subplot(place[name])
    # Long names would run into the next panel's.
    panels[name].set_title(textwrap.fill(label(name), 16), fontsize=10)
  return figure, panels


def _finish(figure: Figure, panels: dict[str, Axes], tops: pd.Series) -> None:
  """One vertical scale that reaches 0, but for a panel far above the others.

  Args:
    figure: of the panels.
    panels: by technique.
    tops: the highest weight of each technique.
  """
  steepest = _own_scale(tops)
  highest = tops.drop(steepest).max() if steepest else tops.max()
  for name, axes in panels.items():
    own = name == steepest
    first = axes.get_subplotspec().colspan.start == 0
    axes.set_ylim(0, 1.08 * (tops[name] if own else highest))
    axes.tick_params(labelleft=own or first)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel('Layer')
    if own:
      axes.set_title('own scale', loc='right', fontsize=9, fontweight='normal')
  figure.supylabel('Share of the memory', fontsize=10)


def _layer_ticks(axes: Axes, number: np.ndarray) -> None:
  """Ticks at whole layers, at each of them while there is room."""
  if len(number) <= _MOST_TICKS:
    axes.set_xticks(number)
  else:
    axes.xaxis.set_major_locator(MaxNLocator(_MOST_TICKS, integer=True))
