"""Figures of where single examples are memorised, in network and text."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from memloc_jax.report import style

_DASHES = (4, 3)
_GROUPS = (
  ('noisy', 'wrong labels', style.VERMILION),
  ('clean', 'right labels', style.BLUE),
  ('all', 'all examples', style.BLUE),
)
_RANKINGS = {
  'map': ('what IN runs lose more', style.VERMILION, 'o-'),
  'loss': ('what IN runs lose', style.BLUE, 's-'),
  'random': ('at random', style.GREY, 'D-'),
}


def player_names(players: pd.DataFrame) -> list[str]:
  """'1', '2-3', 'head' for rows with a first and a last layer."""
  head = players['layer'].max()
  return [
    'head' if a == head else f'{a}' if a == b else f'{a}-{b}'
    for a, b in zip(players['layer'], players['last_layer'])
  ]


def shares(rows: pd.DataFrame) -> Figure:
  """Mean share of each layer, of noisy and of clean examples.

  Args:
    rows: the table `layers_by_group` of one source.

  Returns:
    The figure: means with 95 % intervals over pairs of runs.
  """
  present = set(rows['group'])
  if 'noisy' in present:
    present.discard('all')
  shown = [each for each in _GROUPS if each[0] in present]
  with style.styled():
    figure = Figure(figsize=(5.2, 3.4), layout='constrained')
    axes = figure.add_subplot()
    for number, (group, name, colour) in enumerate(shown):
      of = rows[rows['group'] == group]
      place = np.arange(len(of)) + 0.16 * (number - (len(shown) - 1) / 2)
      axes.errorbar(
        place,
        of['share'],
        yerr=[of['share'] - of['low'], of['high'] - of['share']],
        fmt='o',
        ms=5,
        capsize=3,
        color=colour,
        label=f'{name} ({of["examples"].iloc[0]:,})',
      )
      axes.set_xticks(np.arange(len(of)), player_names(of))
    axes.axhline(0, color=style.GREY, lw=0.8, dashes=_DASHES)
    axes.set(xlabel='Layer', ylabel='Share of the memorisation')
    axes.set_title('Memorisation by layer')
    style.legend_below(figure)
    return figure


def classes(rows: pd.DataFrame) -> Figure:
  """Mean share of each layer by given label, as a heat map.

  Args:
    rows: the table `layers_by_group` of one source.
  """
  rows = rows[rows['group'].str.startswith('class ')]
  names = list(dict.fromkeys(rows['group']))
  table = rows.pivot(index='group', columns='layer', values='share').loc[names]
  limit = float(np.nanmax(np.abs(table.to_numpy()))) or 1.0
  with style.styled():
    figure = Figure(figsize=(5.2, 1.4 + 0.3 * len(names)), layout='constrained')
    axes = figure.add_subplot()
    image = axes.imshow(
      table, cmap=style.DIVERGING, vmin=-limit, vmax=limit, aspect='auto'
    )
    first = rows[rows['group'] == names[0]]
    axes.set_xticks(np.arange(len(first)), player_names(first))
    axes.set_yticks(
      np.arange(len(names)), [_short(n.removeprefix('class ')) for n in names]
    )
    axes.set(xlabel='Layer')
    axes.set_title('Memorisation by layer and given label')
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.9)
    bar.set_label('Share')
    bar.outline.set_visible(False)
    return figure


def depths(examples: pd.DataFrame, noisy: np.ndarray, head: int) -> Figure:
  """How many examples have half of their memorisation up to each layer.

  Args:
    examples: the table `pairs_by_example`.
    noisy: whether each of its rows is, bool [n].
    head: the number that stands for the head.

  Returns:
    The figure; only examples whose interval of memorisation is above 0.
  """
  sure = (examples['cm_pairs_low'] > 0).to_numpy()
  layers = np.arange(1, head + 1)
  with style.styled():
    figure = Figure(figsize=(5.2, 3.4), layout='constrained')
    axes = figure.add_subplot()
    kinds = [(noisy, 'wrong labels', style.VERMILION)]
    right = 'right labels' if noisy.any() else 'all examples'
    kinds += [(~noisy, right, style.BLUE)]
    kinds = [(chosen & sure, *rest) for chosen, *rest in kinds]
    kinds = [kind for kind in kinds if kind[0].any()]
    for number, (chosen, name, colour) in enumerate(kinds):
      depth = examples.loc[chosen, 'depth'].to_numpy()
      share = np.array([(depth == layer).mean() for layer in layers])
      axes.bar(
        layers + 0.38 * (number - (len(kinds) - 1) / 2),
        share,
        width=0.36,
        color=colour,
        label=f'{name} ({chosen.sum():,})',
      )
    axes.set_xticks(layers, [*layers[:-1], 'head'])
    axes.set(xlabel='Layer', ylabel='Share of the examples')
    axes.set_title('Memorisation depth')
    style.legend_below(figure)
    return figure


def hybrids(rows: pd.DataFrame) -> Figure:
  """Accuracy of hybrids on validation examples.

  Args:
    rows: the table `hybrids` of one source.
  """
  with style.styled():
    figure = Figure(figsize=(5.2, 3.2), layout='constrained')
    axes = figure.add_subplot()
    axes.fill_between(
      rows['players'],
      rows['low'],
      rows['high'],
      color=style.BLUE,
      alpha=0.2,
      lw=0,
    )
    axes.plot(rows['players'], rows['accuracy'], 'o-', color=style.BLUE)
    axes.set(
      xlabel='Layers (and head) from the other run',
      ylabel='Validation accuracy',
      ylim=(0, 1.02),
    )
    axes.set_xticks(rows['players'])
    axes.set_title('Accuracy of hybrids')
    return figure


def patching(rows: pd.DataFrame) -> Figure:
  """What whole sites bring of the memorisation, by layer.

  Args:
    rows: the table `patching_summary`.
  """
  with style.styled():
    figure = Figure(figsize=(5.2, 3.4), layout='constrained')
    axes = figure.add_subplot()
    for site, colour in zip(('stream', 'attention', 'mlp'), style.SERIES):
      of = rows[rows['site'] == site].sort_values('layer')
      axes.errorbar(
        of['layer'],
        of['recovery'],
        yerr=[of['recovery'] - of['low'], of['high'] - of['recovery']],
        fmt='o-',
        ms=4.5,
        capsize=3,
        color=colour,
        label=site,
      )
    axes.axhline(0, color=style.GREY, lw=0.8, dashes=_DASHES)
    axes.axhline(1, color=style.GREY, lw=0.8, dashes=_DASHES)
    axes.set_xticks(sorted(set(rows['layer'])))
    axes.set(xlabel='Layer', ylabel='Share of the memorisation')
    axes.set_title('Activations patched from IN to OUT')
    style.legend_below(figure)
    return figure


def patched_heads(rows: pd.DataFrame) -> Figure:
  """What single attention heads bring of it, as a heat map.

  Args:
    rows: the table `patching_summary`.
  """
  table = rows[rows['site'] == 'head'].pivot(
    index='layer', columns='unit', values='recovery'
  )
  limit = float(np.nanmax(np.abs(table.to_numpy()))) or 1.0
  with style.styled():
    figure = Figure(figsize=(5.2, 1.3 + 0.3 * len(table)), layout='constrained')
    axes = figure.add_subplot()
    image = axes.imshow(
      table, cmap=style.DIVERGING, vmin=-limit, vmax=limit, aspect='auto'
    )
    axes.set_xticks(np.arange(table.shape[1]), table.columns)
    axes.set_yticks(np.arange(len(table)), table.index)
    axes.set(xlabel='Head', ylabel='Layer')
    axes.set_title('Patched attention heads')
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.9)
    bar.set_label('Share')
    bar.outline.set_visible(False)
    return figure


def deletion(rows: pd.DataFrame) -> Figure:
  """Memorisation that is left when units of the text are hidden.

  Args:
    rows: the table `deletion`.
  """
  with style.styled():
    figure = Figure(figsize=(5.2, 3.4), layout='constrained')
    axes = figure.add_subplot()
    whole = rows[rows['ranking'] == 'nothing']
    for name, (label, colour, form) in _RANKINGS.items():
      of = rows[rows['ranking'] == name].sort_values('deleted')
      if of.empty:
        continue
      of = pd.concat([whole, of])
      axes.plot(
        of['deleted'],
        of['memorisation'],
        form,
        color=colour,
        ms=5,
        label=label,
        gid=name,
      )
      axes.fill_between(
        of['deleted'], of['low'], of['high'], color=colour, alpha=0.12, lw=0
      )
    axes.axhline(0, color=style.GREY, lw=0.8, dashes=_DASHES)
    axes.set_xticks(sorted(set(rows['deleted'])))
    axes.set(
      xlabel='Units of the text hidden',
      ylabel='Memorisation of what is left',
    )
    axes.set_title('Deletion test')
    style.legend_below(figure, title='Hidden first')
    return figure


def variants(rows: pd.DataFrame) -> Figure:
  """Memorisation that is left of perturbed texts.

  Args:
    rows: the table `variants`.
  """
  kinds = list(dict.fromkeys(rows['kind']))
  with style.styled():
    figure = Figure(figsize=(5.2, 3.4), layout='constrained')
    axes = figure.add_subplot()
    for kind, colour in zip(kinds, (*style.SERIES, style.GREY)):
      of = rows[rows['kind'] == kind].sort_values('strength')
      axes.errorbar(
        of['strength'],
        of['left'],
        yerr=[of['left'] - of['left_low'], of['left_high'] - of['left']],
        fmt='o-',
        ms=4.5,
        capsize=2.5,
        color=colour,
        label=kind,
        gid=kind,
      )
    axes.axhline(1, color=style.GREY, lw=0.8, dashes=_DASHES)
    axes.axhline(0.5, color=style.GREY, lw=0.8, dashes=_DASHES)
    axes.set(
      xlabel='Share of the words (or tokens) changed',
      ylabel='Share of the memorisation left',
    )
    axes.set_title('Perturbed texts')
    style.legend_below(figure, columns=4)
    return figure


def _short(name: str, most: int = 22) -> str:
  return name if len(name) <= most else name[: most - 1] + '…'
