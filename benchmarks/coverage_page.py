"""The page of results that the benchmark of coverage writes."""

from typing import Any

from benchmarks.intervals import METHODS
from benchmarks.subsamples import ALL, STRATA

_TEXT = """# Do the intervals hold?

Written by `python -m benchmarks.coverage` on {date}, commit `{commit}`, from a
study of [`experiments/configs/coverage.py`]({config}) (commit `{trained}`):
{runs:,} runs of the embedded task with {examples} examples, {noisy} of them
with a wrong label, in balanced blocks of {blocks}. IN runs fit {fit:.0%} of
their labels and {fit_noisy:.0%} of the wrong ones.

A study of few runs is taken out of the ensemble, and the truth is what the
other runs say. Nothing is simulated, and protocol and bars were fixed before
the first look; that correctness has the interval of Agresti and Caffo, and not
Newcombe's, was decided after it. Whole blocks are what a study has; these were
compared: {studies}. The truth's own error is corrected
for (see `benchmarks/subsamples.py`); without that, coverage would read {raw}.

**Wanted** of the interval of correctness, on whole blocks: 0.93 to 0.98 on
average and at least 0.90 in every stratum. {verdict}

## Coverage of 95 % intervals

By the absolute value of the true score, with the mean number of examples in
parentheses: coverage ± its standard error over studies (which overlap and are
counted as independent), then mean width. The first method of each table is the
one in `examples.parquet`.

{coverage}

## Flagging

Examples flagged as memorised (counterfactual memorisation above 0.25) at a
false discovery rate, on whole blocks: means over studies. `clear`: only
examples that are below the threshold by two standard errors of the truth count
as false.

{discoveries}

## Reliability of the ranking

Squared correlation of a study's scores with the truth, predicted from the
study alone and realised; and what the study predicts for other numbers of runs.

{reliability}
"""
_CONFIG = '../../experiments/configs/coverage.py'


def page(content: dict[str, Any]) -> str:
  """Everything that was measured, as Markdown.

  Args:
    content: of the JSON file.

  Returns:
    The page.
  """
  study, environment = content['study'], content['environment']
  short = lambda commit: (commit or 'unknown')[:7]
  return _TEXT.format(
    date=environment['date'][:10],
    commit=short(environment['commit']),
    trained=short(study['commit']),
    config=_CONFIG,
    runs=study['runs'],
    examples=study['examples'],
    noisy=study['noisy'],
    blocks=' and '.join(map(str, sorted(set(study['blocks'])))),
    fit=study['in_accuracy']['all'],
    fit_noisy=study['in_accuracy']['noisy'],
    studies=_studies(content['coverage']),
    raw=_raw(content['coverage']),
    verdict=_verdict(content['missed']),
    coverage='\n\n'.join(
      _coverage(content['coverage'], kind)
      for kind in dict.fromkeys(row['kind'] for row in content['coverage'])
    ),
    discoveries=_discoveries(content['discoveries']),
    reliability=_reliability(content['reliability']),
  )


def _studies(rows: list[dict[str, Any]]) -> str:
  counts = {(r['design'], r['runs']): r['studies'] for r in rows}
  return ', '.join(
    f'{count} studies of {runs} runs ({design})'
    for (design, runs), count in counts.items()
  )


def _raw(rows: list[dict[str, Any]]) -> str:
  """The average of the first method of correctness without correction."""
  used = next(iter(METHODS['correctness']))
  return ', '.join(
    f'{row["coverage_raw"]:.3f} in place of {row["coverage"]:.3f} at '
    f'{row["runs"]} runs'
    for row in rows
    if (row['method'], row['stratum']) == (used, ALL)
    and row['design'] == 'balanced blocks'
  )


def _verdict(missed: list[dict[str, Any]]) -> str:
  if not missed:
    return 'Met everywhere.'
  places = ', '.join(
    f'{row["coverage"]:.3f} at {row["runs"]} runs ({row["stratum"]})'
    for row in missed
  )
  return f'Missed: {places}.'


def _table(heads: list[str], rows: list[list[str]]) -> str:
  lines = [heads, ['---'] * len(heads), *rows]
  return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in lines)


def _coverage(rows: list[dict[str, Any]], kind: str) -> str:
  found = {
    (r['design'], r['runs'], r['method'], r['stratum']): r
    for r in rows
    if r['kind'] == kind
  }
  places = dict.fromkeys(key[:2] for key in found)
  parts = []
  for design, runs in places:
    first = next(iter(METHODS[kind]))
    heads = [f'{kind}, {design}, {runs} runs']
    for stratum in STRATA:
      examples = found[design, runs, first, stratum]['examples']
      heads.append(f'{stratum} ({examples:.0f})')
    cells = []
    for method in METHODS[kind]:
      of_method = [found[design, runs, method, s] for s in STRATA]
      cells.append([method, *map(_cell, of_method)])
    parts.append(_table(heads, cells))
  return '\n\n'.join(parts)


def _cell(row: dict[str, Any]) -> str:
  if 'coverage' not in row:
    return ''
  return f'{row["coverage"]:.3f} ± {row["coverage_se"]:.3f}, {row["width"]:.2f}'


def _share(value: float | None) -> str:
  return '' if value is None else f'{value:.3f}'


def _discoveries(rows: list[dict[str, Any]]) -> str:
  heads = ['values', 'runs', 'rate', 'memorised', 'flagged', 'false', 'worst']
  heads += ['clear', 'power', 'power above 0.5']
  return _table(
    heads,
    [
      [
        row['kind'],
        str(row['runs']),
        f'{row["rate"]:g}',
        f'{row["memorised"]:.0f}',
        f'{row["flagged"]:.1f}',
        f'{row["fdr"]:.3f} ± {row["fdr_se"]:.3f}',
        f'{row["fdr_most"]:.3f}',
        f'{row["fdr_clear"]:.3f}',
        _share(row['power']),
        _share(row['power_strong']),
      ]
      for row in rows
    ],
  )


def _reliability(rows: list[dict[str, Any]]) -> str:
  sizes = list(rows[0]['at']) if rows else []
  heads = ['values', 'runs', 'predicted', 'realised', 'rms difference']
  heads += [f'predicted for {size}' for size in sizes]
  return _table(
    heads,
    [
      [row['kind'], str(row['runs'])]
      + [f'{row[name]:.3f}' for name in ('predicted', 'realised', 'rms')]
      + [f'{row["at"][size]:.3f}' for size in sizes]
      for row in rows
    ],
  )
