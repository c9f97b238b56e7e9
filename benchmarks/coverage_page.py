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


_PAIRS = """# Intervals of pairs, of few seeds, and an exact test

Written by `python -m benchmarks.coverage --pairs workdirs/pairs1
workdirs/pairs2 --page=docs/results/coverage_pairs.md` on {date}, commit
`{commit}`, {processor}. The two studies train
{reference} and {pairs} pairs of runs of the embedded task on complementary
halves of {examples} examples, {noisy} of them with a wrong label:

```
python experiments/run.py --config={config} \\
  --config.map.num_runs=0 --config.map.added='()' --config.map.pairs=500 \\
  --config.map.seed=1 --workdir=workdirs/pairs1 --stages=layerwise,estimate
```

and the same with seed 2 and `workdirs/pairs2`.

## Intervals of pairs

The first study is the reference, {reference} pairs that no study holds.
Studies of 8, 16 and 30 pairs are taken from the second. The reference's own
error is corrected for (see `benchmarks/pair_studies.py`). The worst decile is
the tenth of the examples that are covered least by the studies of one half of
the pairs, judged by the studies of the other half, both ways; a decile chosen
by its own coverage would be biased. Methods and bounds were fixed before the
first look.

**Wanted** of the first method: coverage of at least 0.93 on average and 0.90
in the worst decile, mean width at most 1.6, 1.35 and 1.2 times Student's at 8,
16 and 30 pairs. {verdict}

Coverage ± standard error over disjoint studies; `uncorrected`: without the
correction for the reference.

{coverage}

Means over groups of examples. In the first table, groups are drawn at random
and the value is memorisation; in the second, the value is a layer's share in
the groups of `layers_by_group` ({layers} values). The weight of a
pseudo-pair is divided by the square of the number of examples.

{groups}

## Pairs and the other runs of a map

The variance of IN minus OUT over {pairs} pairs, divided by what Welch's
formula takes it to be from the same runs, which ignores that the two runs of a
pair saw complementary halves.

{dependence}

Coverage of `cm_low` to `cm_high` (probability) and `cm_low_accuracy` to
`cm_high_accuracy` (correctness) where all runs are in pairs, against the
reference.

{runs}

The embedded task has little of this. How much there can be is simulated: a run
predicts an example the better, the more helpful examples it saw, and a share
of the variance between runs is due to that (`benchmarks/known_truth.py`,
{simulated:,} studies a row). The truth is known, and the hypothesis that is
tested is just true: the exact test should reject it in at most 5 % of the
studies. The standard error of a share of 0.05 is {share_se:.3f}, that of a
ratio of variances about {ratio_se:.2f}.

{designs}

So, of what `cm_se` and the intervals take for granted: in **one balanced
block** of any size and ratio, Welch's variance is right. In **several pooled
blocks** of K runs it can be as little as 1 - 1 / K of what it should be.
**Pairs** are blocks of two, where it can be half of what it should be; with the
pair as the unit it is right.

## Intervals of few seeds

Coverage of the intervals in `control_summary`, `injection` and the comparison
of studies, on simulated hits and misses: the mean and the least over six true
shares (0.1 to 0.97) and four correlations within a seed (0 to 1),
{simulated:,} studies each. Fewer than three seeds have no interval.

{seeds}

## The test of many runs

The largest chance to reject a true hypothesis, as a multiple of the level,
over 2 001 accuracies; computed, not simulated. `normal` is the normal limit
that stood in for the exact test above 200 runs a side.

{tests}"""


def pairs_page(content: dict[str, Any]) -> str:
  """The page on pairs, few seeds and the exact test, as Markdown.

  Args:
    content: of the JSON file.
  """
  study, environment = content['study'], content['environment']
  short = lambda commit: (commit or 'unknown')[:7]
  missed = content['missed']
  simulated = content['simulated']
  return _PAIRS.format(
    date=environment['date'][:10],
    commit=short(environment['commit']),
    processor=environment.get('processor', 'unknown processor'),
    config='experiments/configs/coverage.py',
    reference=content['reference'],
    pairs=content['pairs'],
    examples=study['examples'],
    noisy=study['noisy'],
    verdict=f'Missed: {", ".join(missed)}.' if missed else 'Met everywhere.',
    coverage=_pair_rows(content['coverage'], 'pairs'),
    groups='\n\n'.join(
      _pair_rows(rows, *heads)
      for rows, heads in (
        (content['groups'], ('examples', 'pairs')),
        (content['layers'], ('pairs',)),
      )
      if rows
    ),
    layers=content['layers'][0]['values'] if content['layers'] else 0,
    dependence=_table(
      ['values', 'pairs', 'variance', 'tenth of the examples', 'ninetieth'],
      [
        [row['kind'], str(row['pairs'])]
        + [f'{row[name]:.3f}' for name in ('ratio', 'low', 'high')]
        for row in content['dependence']
      ],
    ),
    runs=_table(
      ['values', 'pairs', 'unit', 'coverage'],
      [
        [row['kind'], str(row['pairs']), row['method']]
        + [f'{row["coverage"]:.3f}']
        for row in content['runs']
      ],
    ),
    simulated=simulated,
    share_se=(0.05 * 0.95 / simulated) ** 0.5,
    ratio_se=(2 / simulated) ** 0.5,
    designs=_table(
      ['map', 'ratio', 'due to what a run saw', "variance over Welch's"]
      + ["over the project's", 'interval holds, runs as units', 'pairs']
      + ['test rejects, runs as units', 'pairs'],
      [
        [row['design'], f'{row["ratio"]:g}', f'{row["share"]:.0%}']
        + [f'{row["variance"]:.2f}', f'{row["corrected"]:.2f}']
        + [f'{row[name]:.3f}' for name in _CLAIMS]
        for row in content['designs']
      ],
    ),
    seeds=_table(
      ['seeds', 'models a seed', 'coverage', 'least', 'width']
      + ['with the normal quantile', 'least'],
      [
        [str(row['seeds']), str(row['per_seed'])]
        + [f'{row[name]:.3f}' for name in ('coverage', 'least')]
        + [f'{row["width"]:.2f}']
        + [f'{row[name]:.3f}' for name in ('normal', 'normal_least')]
        for row in content['seeds']
      ],
    ),
    tests=_table(
      ['runs a side', 'level', 'exact', 'normal'],
      [
        [str(row['runs']), f'{row["level"]:g}']
        + [f'{row[name]:.2f}' for name in ('exact', 'normal')]
        for row in content['tests']
      ],
    ),
  )


_CLAIMS = ('covered', 'covered_pairs', 'rejected', 'rejected_pairs')


def _pair_rows(rows: list[dict[str, Any]], *keys: str) -> str:
  error = lambda row, name: f'{row[name]:.3f} ± {row[f"{name}_se"]:.3f}'
  return _table(
    [*keys, 'interval', 'studies', 'coverage', 'worst decile', 'width']
    + ["over Student's", 'uncorrected'],
    [
      [str(row[key]) for key in keys]
      + [row['method'], str(row['studies'])]
      + [error(row, 'coverage'), error(row, 'decile')]
      + [f'{row["width"]:.3f}', f'{row["ratio"]:.2f}']
      + [f'{row["coverage_raw"]:.3f}']
      for row in rows
    ],
  )
