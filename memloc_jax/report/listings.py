"""Short lists of examples: the most memorised, and labels to check."""

from typing import Any

import pandas as pd

from memloc_jax.curate import triage
from memloc_jax.report.content import FITTED_EXAMPLE, interval, number

_MOST_MEMORISED = 25
_MOST_DOUBTFUL = 25
_ADVICE = {'relabel': 'relabel as suggested?', 'review': 'look at it'}
_LONGEST_TEXT = 320  # characters shown of an example


def memorised(examples: pd.DataFrame) -> list[dict[str, Any]]:
  """The most memorised of the examples that were fitted, surest first."""
  if examples.empty:
    return []
  fitted = examples[
    examples['training_memorisation_accuracy'] >= FITTED_EXAMPLE
  ]
  ranked = fitted.dropna(subset=['cm_low']).sort_values(
    ['cm_low', 'counterfactual_memorisation', 'index'],
    ascending=[False, False, True],
  )
  return [
    _described(row)
    | {
      'exception': not row.noisy and getattr(row, 'kind', '') == 'exception',
      'memorisation': number(row.counterfactual_memorisation),
      'interval': interval(row.cm_low, row.cm_high),
      'seen': number(row.training_memorisation),
      'in_runs': f'{row.in_runs} runs',
      'unseen': number(row.generalisation),
      'out_runs': f'{row.out_runs} runs',
    }
    for row in ranked.head(_MOST_MEMORISED).itertuples()
  ]


def doubtful(examples: pd.DataFrame) -> list[dict[str, Any]]:
  """The first rows of `triage.csv`, in its order."""
  if 'label_margin_low' not in examples:
    return []  # Written by an earlier version.
  return [
    _described(row)
    | {
      'suggested': row.suggested or '',
      'category': _ADVICE[row.category],
      'unseen': number(row.generalisation),
      'margin': number(row.label_margin),
      'low': number(row.label_margin_low),
      'agreement': number(row.agreement, 2),
    }
    for row in triage.doubtful(examples).head(_MOST_DOUBTFUL).itertuples()
  ]


def _described(row: Any) -> dict[str, Any]:
  """What every list of examples says of one."""
  return {
    'id': row.id,
    'text': shorten(row.text),
    'given': row.given,
    'original': row.original,
    'noisy': bool(row.noisy),
    'alike': int(getattr(row, 'cluster_size', 1)) - 1,
  }


def shorten(text: str, longest: int = _LONGEST_TEXT) -> str:
  """The text, cut at so many characters."""
  return text if len(text) <= longest else text[:longest].rstrip() + ' …'
