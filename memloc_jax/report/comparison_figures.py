"""Figures that set several studies side by side."""

import itertools
import textwrap
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from memloc_jax.compare import summary
from memloc_jax.localisation import centroids
from memloc_jax.report import style
from memloc_jax.report.localisation_figures import label
from memloc_jax.study.comparison import is_baseline

_DASHES = (4, 3)
# A technique with a peak so many times that of the median has its own scale.
_STEEP = 2.0
_GROUPS = {
  'nlu': ('NLU', style.BLUE),
  'sentiment': ('sentiment', style.VERMILION),
  'hate': ('hate speech', '#009E73'),
  'topic': ('topic', '#CC79A7'),
  'own': ('own', style.GREY),
}
_MARKERS = 'osD^vP*X'
# Most grey levels of text in a cell before it turns white.
_BRIGHT = 0.6


def group_colour(group: str) -> str:
  """The colour that stands for a group of tasks everywhere."""
  return _GROUPS.get(group, _GROUPS['own'])[1]


def _markers() -> Iterator[tuple[str, str]]:
  """How one model after the other is marked: fill style and marker."""
  return itertools.cycle(itertools.product(('full', 'none'), _MARKERS))


def _present(groups: Iterable[str]) -> list[str]:
  """Groups that there are, those of registered tasks after the known ones."""
  there = dict.fromkeys(groups)
  return [group for group in _GROUPS | there if group in there]


def _group_legend(figure: Figure, groups: Iterable[str]) -> None:
  """What the colours mean, if there are several."""
  handles = [
    Line2D([], [], color=group_colour(g), marker='o', ls='', label=name)
    for g in _present(groups)
    for name, *_ in [_GROUPS.get(g, (g,))]
  ]
  if len(handles) > 1:
    count = len(handles)
    figure.legend(handles=handles, loc='outside lower center', ncols=count)


def curves(layers: pd.DataFrame) -> Figure:
  """Weight by layer: a row a model, a column a technique, a line a task.

  Args:
    layers: from `summary.profiles`.

  Returns:
    The figure: means over seeds, coloured by group of tasks, and a dashed line
    where every layer weighs the same; panels share axes, but for techniques
    that are much steeper than the others. Trivial baselines come last.
  """
  techniques = list(dict.fromkeys(layers['technique']))
  techniques.sort(key=is_baseline)
  models = list(dict.fromkeys(layers['model']))
  scales = _scales(layers)
  with style.styled():
    figure = Figure(
      figsize=(_width(0.8, len(techniques)), 0.9 + 1.7 * len(models)),
      layout='constrained',
    )
    panels = figure.subplots(
      len(models), len(techniques), squeeze=False, sharey='col', sharex='row'
    )
    for (row, column), axes in np.ndenumerate(panels):
      chosen = layers[
        (layers['technique'] == techniques[column])
        & (layers['model'] == models[row])
      ]
      _profiles(axes, chosen)
      top = scales[techniques[column]]
      axes.set_ylim(0, top)
      before = scales[techniques[column - 1]] if column else 0
      axes.tick_params(labelleft=top != before)
      if row == 0:
        axes.set_title(_title(techniques[column]), fontsize=10)
      if column == 0:
        axes.set_ylabel(textwrap.fill(models[row], 20), fontsize=9)
      if row == len(models) - 1:
        axes.set_xlabel('Layer')
    _group_legend(figure, list(layers['group'].unique()))
    return figure


def _width(beside: float, panels: int) -> float:
  """Of a figure in inches, so that the page need not make it smaller.

  Args:
    beside: inches left of the panels.
    panels: how many stand side by side.
  """
  return min(beside + 1.5 * panels, style.WIDEST)


def _title(technique: str) -> str:
  """Of a panel; long names would run into the next one's."""
  name = textwrap.fill(label(technique), 12)
  return f'{name}\n(baseline)' if is_baseline(technique) else name


def _scales(layers: pd.DataFrame) -> dict[str, float]:
  """Top of the vertical axis of each technique: one for all but steep ones.

  Args:
    layers: from `summary.profiles`.
  """
  keys = ['technique', 'task', 'model', 'layer']
  means = layers.groupby(keys)['weight'].mean()
  tops = means.groupby('technique').max()
  ordinary = tops[tops <= _STEEP * tops.median()].max()
  return {name: 1.08 * max(top, ordinary) for name, top in tops.items()}


def _profiles(axes: Axes, layers: pd.DataFrame) -> None:
  """Lines of the tasks of one model and technique."""
  if layers.empty:
    return
  mean = layers.groupby(['task', 'group', 'layer'])['weight'].mean()
  for (task, group), one in mean.groupby(level=['task', 'group']):
    axes.plot(
      one.index.get_level_values('layer').to_numpy(),
      one.to_numpy(),
      color=group_colour(group),
      lw=1.3,
      alpha=0.85,
      gid=task,
    )
  count = layers['layer'].max()
  axes.axhline(1 / count, color=style.GREY, lw=0.8, dashes=_DASHES)
  axes.set_xticks(range(1, count + 1, max(1, count // 6)))


def centres(table: pd.DataFrame) -> Figure:
  """How deep the memory of every study lies, a panel a technique.

  Args:
    table: from `summary.centres`, of which every row has a `depth`.

  Returns:
    The figure: `depth`, so that models of any number of layers and techniques
    of any range share one axis; tasks from top to bottom, grouped, markers
    for models, and the mean of each group, without binarised tasks, as a bar.
  """
  techniques = list(dict.fromkeys(table['technique']))
  techniques.sort(key=is_baseline)
  models = list(dict.fromkeys(table['model']))
  # One above the other, since they may have equal depths.
  offsets = np.linspace(-0.2, 0.2, len(models)) if len(models) > 1 else [0.0]
  order = [
    task
    for group in _present(table['group'])
    for task in dict.fromkeys(table.loc[table['group'] == group, 'task'])
  ]
  place = {task: row for row, task in enumerate(order)}
  with style.styled():
    figure = Figure(
      figsize=(_width(1.2, len(techniques)), 1.8 + 0.4 * len(order)),
      layout='constrained',
    )
    panels = figure.subplots(
      1, len(techniques), squeeze=False, sharex=True, sharey=True
    )[0]
    for axes, technique in zip(panels, techniques):
      rows = table[table['technique'] == technique]
      for model, offset, (fill, marker) in zip(models, offsets, _markers()):
        of = rows[rows['model'] == model]
        colours = [group_colour(g) for g in of['group']]
        axes.scatter(
          of['depth'],
          of['task'].map(place) + offset,
          facecolors=colours if fill == 'full' else fill,
          edgecolors=colours,
          marker=marker,
          s=34,
          zorder=3,
        )
      for group, of in summary.not_binarised(rows).groupby('group'):
        at = of['task'].map(place)
        axes.plot(
          [of['depth'].mean()] * 2,
          [at.min() - 0.35, at.max() + 0.35],
          color=group_colour(group),
          lw=2,
          alpha=0.5,
          zorder=2,
        )
      axes.set_title(_title(technique), fontsize=10)
      axes.set_xlabel('Depth')
      axes.grid(axis='y', color='#E8E8E8', lw=0.6)
    # All of what is possible, and whatever lies beyond.
    ends = [table['depth'].min(), table['depth'].max()]
    panels[0].set_xlim(min(0, ends[0]) - 0.04, max(1, ends[1]) + 0.04)
    panels[0].set_yticks(range(len(order)), order)
    panels[0].set_ylim(len(order) - 0.5, -0.5)
    handles = [
      Line2D(
        [], [], color=style.GREY, marker=m, fillstyle=fill, ls='', label=model
      )
      for model, (fill, m) in zip(models, _markers())
    ]
    figure.legend(
      handles=handles, loc='outside upper center', ncols=min(4, len(models))
    )
    _group_legend(figure, list(table['group'].unique()))
    return figure


def matrix(rows: pd.DataFrame, title: str) -> Figure:
  """Correlations of one kind as a symmetric matrix.

  Args:
    rows: from `correlations.correlations`, of one `what`.
    title: of the figure.
  """
  names = list(dict.fromkeys([*rows['a'], *rows['b']]))
  place = {name: at for at, name in enumerate(names)}
  grid = np.full((len(names), len(names)), np.nan)
  np.fill_diagonal(grid, 1)
  for row in rows.itertuples():
    a, b = place[row.a], place[row.b]
    grid[a, b] = grid[b, a] = row.value
  size = 1.8 + 0.55 * len(names)
  with style.styled():
    figure = Figure(figsize=(size + 0.8, size), layout='constrained')
    axes = figure.add_subplot()
    image = axes.imshow(grid, cmap=style.DIVERGING, vmin=-1, vmax=1)
    for (i, j), value in np.ndenumerate(grid):
      if np.isfinite(value):
        colour = style.ON_DARK if abs(value) > _BRIGHT else style.ON_LIGHT
        axes.text(
          j, i, f'{value:.2f}', ha='center', va='center', color=colour, size=9
        )
    models = (rows['what'] == 'models').any()
    shown = names if models else [label(name) for name in names]
    axes.set_xticks(
      range(len(names)),
      shown,
      rotation=45,
      ha='right',
      rotation_mode='anchor',
    )
    axes.set_yticks(range(len(names)), shown)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label('Correlation')
    bar.outline.set_visible(False)
    return figure


def events(table: pd.DataFrame) -> Figure:
  """Where classes come apart against where noisy examples cross over.

  Args:
    table: from `summary.events`.

  Returns:
    The figure: a point a study, whole models only; above the line noisy
    examples cross to their given class after classes have come apart.
  """
  whole = table[table['setup'] == centroids.WHOLE]
  wide = whole.pivot_table(
    index=['task', 'group', 'model'], columns='event', values='layer'
  ).dropna(subset=['crossing', 'initiation'])
  with style.styled():
    figure = Figure(figsize=(4.8, 4.6), layout='constrained')
    axes = figure.add_subplot()
    top = float(np.nanmax(wide[['crossing', 'initiation']].to_numpy())) + 0.5
    axes.plot([0, top], [0, top], color=style.GREY, lw=0.8, dashes=_DASHES)
    for (_, group, _), row in wide.iterrows():
      axes.scatter(
        row['initiation'], row['crossing'], color=group_colour(group), s=36
      )
    # Those at one place share a name, or none could be read.
    known = wide.reset_index()
    # Models have longer names than tasks.
    several = known['task'].nunique() > 1
    name, between = ('task', ', ') if several else ('model', '\n')
    for place, names in known.groupby(['initiation', 'crossing'])[name]:
      right = place[0] > top / 2
      axes.annotate(
        between.join(dict.fromkeys(names)),
        place,
        xytext=(-4 if right else 4, 3),
        ha='right' if right else 'left',
        textcoords='offset points',
        size=9,
      )
    axes.set(
      xlim=(0, top),
      ylim=(0, top),
      aspect='equal',
      xlabel='Initiation (layer)',
      ylabel='Crossing (layer)',
    )
    axes.set_title('Initiation and crossing')
    _group_legend(figure, list(wide.index.get_level_values('group')))
    return figure
