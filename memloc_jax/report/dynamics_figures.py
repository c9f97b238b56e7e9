"""Figure of how memorisation comes about while runs train."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from memloc_jax.report import style

_MOST_TICKS = 12
_GROUPS = (
  ('noisy', 'wrong labels', style.VERMILION),
  ('clean', 'right labels', style.BLUE),
  ('all', 'all examples', style.BLUE),
)


def memorisation(rows: pd.DataFrame) -> Figure:
  """Mean memorisation and accuracy by epoch.

  Args:
    rows: the table `dynamics_epochs`.

  Returns:
    The figure: mean counterfactual memorisation of noisy and of clean
    examples, or of all where none are noisy, with its 95 % interval; and
    their accuracy on given labels, of runs that saw them (solid) and of runs
    that did not (dashed).
  """
  present = set(rows['group'])
  if 'noisy' in present:
    present.discard('all')
  with style.styled():
    figure = Figure(figsize=(8.6, 3.9), layout='constrained')
    left, right = figure.subplots(1, 2)
    for group, name, colour in _GROUPS:
      if group not in present:
        continue
      of = rows[rows['group'] == group].sort_values('epoch')
      left.fill_between(
        of['epoch'], of['low'], of['high'], color=colour, alpha=0.2, lw=0
      )
      left.plot(
        of['epoch'],
        of['memorisation'],
        color=colour,
        lw=2,
        marker='o',
        ms=4,
        label=f'{name} ({of["examples"].iloc[0]:,})',
        gid=group,
      )
      for side, dashes in (('in', (1, 0)), ('out', (4, 2))):
        right.plot(
          of['epoch'],
          of[f'{side}_accuracy'],
          color=colour,
          lw=2,
          dashes=dashes,
          label=f'{name}, {"" if side == "in" else "not "}trained on',
          gid=f'{group}_{side}',
        )
    left.axhline(0, color=style.GREY, lw=0.8, dashes=(4, 3))
    left.set(ylabel='Mean counterfactual memorisation')
    left.set_title('Memorisation')
    right.set(ylabel='Accuracy on given labels', ylim=(-0.02, 1.02))
    right.set_title('Accuracy')
    for axes in (left, right):
      axes.set_xlabel('Epoch')
      axes.xaxis.set_major_locator(MaxNLocator(_MOST_TICKS, integer=True))
      axes.grid(axis='y', color='#DDDDDD', linewidth=0.6)
      axes.set_axisbelow(True)
    style.legend_below(figure)
    return figure
