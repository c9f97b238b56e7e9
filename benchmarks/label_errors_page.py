"""The page of results that the benchmark of label errors writes."""

from typing import Any

import numpy as np

_TEXT = """# Finding wrong labels, against cleanlab

Written by `python -m benchmarks.label_errors` on {date}, commit `{commit}`;
{cores} CPU cores ({processor}), jax {jax}, cleanlab {cleanlab}.

{limit} TREC questions (drawn with seed {seed}), all-MiniLM-L6-v2 of which the
upper {layers} layers train, wrong labels injected at {levels}, {draws} draws
each. Both sides train with AdamW at {learning_rate:g} and batches of
{batch_size}: cleanlab's {epochs} epochs on {folds} folds, stratified by given
label, this project's {half} epochs on {runs} balanced subsets of the size of a
fold's rest ({cleanlab_passes:,} and {ours_passes:,} examples with their epochs,
over all levels and draws). At the end runs fit {cleanlab_fit:.1%} and
{ours_fit:.1%} of their own labels, wrong ones included.

**Average precision and AUROC**, mean over draws:

{rankings}

**This project's self-confidence minus each of cleanlab's rankings**, with 95 %
intervals (paired bootstrap over draws and examples). `self_confidence` is
cleanlab's default, and is what was to be compared: nowhere worse by more than
{margin} in average precision, and better at one level: {verdict}.

{differences}
"""


def page(content: dict[str, Any]) -> str:
  """Everything that was measured, as Markdown.

  Args:
    content: of the JSON file.

  Returns:
    The page.
  """
  config, environment = content['config'], content['environment']
  versions = environment['versions']
  return _TEXT.format(
    date=environment['date'][:10],
    commit=(environment['commit'] or 'unknown')[:7],
    cores=environment['cores'],
    processor=environment['processor'],
    jax=versions['jax'],
    cleanlab=versions['cleanlab'],
    levels=', '.join(f'{noise:.0%}' for noise in config['noise']),
    half=config['epochs'] // 2,
    runs=2 * config['folds'],
    ours_passes=content['passes']['ours'],
    cleanlab_passes=content['passes']['cleanlab'],
    ours_fit=content['fit']['ours'],
    cleanlab_fit=content['fit']['cleanlab'],
    margin=content['wanted']['margin'],
    verdict='met' if content['wanted']['met'] else 'missed',
    rankings=_rankings(content['levels']),
    differences=_differences(content['levels']),
    **{
      name: config[name]
      for name in ('limit', 'layers', 'draws', 'epochs', 'folds')
      + ('learning_rate', 'batch_size', 'seed')
    },
  )


def _rankings(levels: list[dict[str, Any]]) -> str:
  heads = [
    f'{level["noise"]:.0%} noise ({np.mean(level["wrong"]):g} wrong)'
    for level in levels
  ]
  lines = ['| ranking | ' + ' | '.join(heads) + ' |']
  lines.append('|---' * (1 + len(levels)) + '|')
  for name in levels[0]['rankings']:
    cells = []
    for level in levels:
      found = level['rankings'][name]
      precision = np.mean(found['average_precision'])
      cells.append(f'{precision:.3f}, {np.mean(found["auroc"]):.3f}')
    lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def _differences(levels: list[dict[str, Any]]) -> str:
  lines = [
    '| against | noise | average precision | AUROC |',
    '|---|---|---|---|',
  ]
  for name in levels[0]['differences']:
    for level in levels:
      cells = [
        '{difference:+.3f} [{low:+.3f}, {high:+.3f}]'.format(**found)
        for found in level['differences'][name].values()
      ]
      lines.append(
        f'| {name} | {level["noise"]:.0%} | ' + ' | '.join(cells) + ' |'
      )
  return '\n'.join(lines)
