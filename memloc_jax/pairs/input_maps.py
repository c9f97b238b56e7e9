"""Stage `input_maps`: by what of their text examples are memorised."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import lax

from memloc_jax.estimators import verdicts
from memloc_jax.estimators.layerwise import (
  Mean,
  bounded_mean,
  mean,
  ratio_of_means,
)
from memloc_jax.localisation import representations
from memloc_jax.models import interface
from memloc_jax.pairs import hybrids, input_texts
from memloc_jax.pairs.input_texts import Chosen
from memloc_jax.pairs.twins import most_memorised, orient, usable
from memloc_jax.schema import (
  COUNT,
  FLOAT,
  POSITIVE,
  PROBABILITY,
  SIGNED,
  SIZE,
  TEXT,
  Kind,
  Table,
)
from memloc_jax.study.pair_runs import MAP_PAIRS
from memloc_jax.study.tables import OF_EXAMPLE
from memloc_jax.study.view import View
from memloc_jax.tasks.encode import Encoded

_DIFFERENCE = Kind(float, -2, 2)

TABLES = (
  Table(
    'tokens_by_example',
    'token of an example that input maps look at',
    {
      **OF_EXAMPLE,
      'position': COUNT('place of the token in the example'),
      'token': TEXT('the part of the text that it stands for'),
      'word': COUNT('number of its word'),
      'unit': COUNT(
        'number of what is hidden together: tokens, words, or spans of them '
        'in long texts'
      ),
      'contrast': _DIFFERENCE(
        '`loss_in - loss_out`, mean over pairs; of the whole unit; high is '
        'memorised'
      ),
      'contrast_se': SIZE.or_missing('its standard error over pairs'),
      'loss_in loss_out': SIGNED(
        'probability of the given label that the IN and the OUT run lose when '
        'the unit is hidden; where tokens are taken out, a text of which '
        'nothing would be left keeps its last one'
      ),
      'integrated': FLOAT.or_missing(
        'integrated gradients of the token, IN minus OUT; their sum is the '
        'memorisation beyond that of the text without any words; missing with '
        '`localise.inputs.steps=0`'
      ),
      'integrated_se': SIZE.or_missing('its standard error over pairs'),
    },
    text=(
      'Of the `localise.inputs.examples` most memorised examples, special '
      'tokens left out.'
    ),
  ),
  Table(
    'variants',
    'perturbation of the texts',
    {
      'kind': TEXT(
        '`lower`, `upper`, `typos`, `shuffle` (order of words), `token '
        'dropout`, or `paraphrase` (with `task.paraphrase`)'
      ),
      'strength': PROBABILITY(
        'share of the words, or tokens, that are changed'
      ),
      'examples': POSITIVE('how many'),
      'value_in value_out': PROBABILITY(
        'mean probability of the given label by IN and OUT runs'
      ),
      'memorisation': SIGNED('their difference'),
      'memorisation_se': SIZE.or_missing('its standard error over pairs'),
      'left': FLOAT.or_missing(
        'it, over that of the original texts, ratio of means'
      ),
      'left_low left_high': FLOAT.or_missing(
        "95 % interval of that over pairs (Student's t)"
      ),
    },
    text='The examples of `tokens_by_example` with perturbed texts.',
  ),
  Table(
    'deletion',
    'ranking and number of hidden units',
    {
      'ranking': TEXT(
        '`map` (by `contrast`), `loss` (by `loss_in`), `random`, or `nothing`'
      ),
      'deleted': COUNT('units hidden in each text'),
      'examples': POSITIVE('how many'),
      'memorisation': SIGNED('mean over examples'),
      'memorisation_se': SIZE.or_missing('its standard error over pairs'),
      'low high': SIGNED.or_missing(
        '95 % interval over pairs: as `cm_pairs_low`, with the added weight '
        'divided by the square of `examples`'
      ),
      'less_than_random': _DIFFERENCE(
        'how much lower it is than with as many random units'
      ),
      'less_low less_high': _DIFFERENCE.or_missing(
        'interval of that over pairs'
      ),
    },
    text=(
      'What is left of the memorisation of these examples when several units '
      'are hidden. Units are ranked on other pairs than those that are '
      'measured.'
    ),
    note='`loss` and `random` are the trivial baselines.',
    claim='memorisation that is lost, of the ranking `map`',
    baselines=True,
  ),
)


# How units are ranked to be deleted: by what models that were trained on the
# example lose more than others do, by what they lose, at random.
BY_MAP, BY_LOSS, AT_RANDOM = 'map', 'loss', 'random'

# Integrated gradients should sum to what they explain, a probability. What is
# further off than this says something of the integral, not of the words.
_LARGEST_GAP = 0.02


def input_maps(study: View) -> None:
  """Writes the tables on texts; nothing without pairs of runs."""
  config = study.config.localise.inputs
  memorised = study.workdir.read_table('pairs_by_example')
  if memorised is None or not config.examples:
    return
  index = most_memorised(memorised, config.examples)
  chosen = input_texts.choose(study, index)
  rows, hidden = input_texts.each_unit(chosen.unit)
  variants = input_texts.perturbed(study, chosen)
  parts = [chosen.encoded, chosen.without(rows, hidden)]
  texts = input_texts.join(
    [*parts, *(encoded for _, _, encoded in variants)], chosen.pieces.pad
  )
  everyone = np.arange(len(index))
  of = np.concatenate([everyone, rows, np.tile(everyone, len(variants))])
  found, attributions, gaps = [], [], []
  for pair, member in _pairs(study, index, (0.0, 0.6)):
    found.append(_predict(study, chosen, pair, member, texts, of))
    if config.steps:
      contrast, gap = _attribute(study, chosen, pair, member)
      attributions.append(contrast)
      gaps.append(gap)
  _warn_of_gaps(study, gaps)
  sides = np.stack(found)  # [pairs, 2, texts]
  whole, lost, changed = np.split(
    sides, [len(everyone), len(everyone) + len(rows)], axis=2
  )
  drops = whole[:, :, rows] - lost
  study.workdir.write_table(
    'tokens_by_example', _tokens(chosen, rows, drops, attributions)
  )
  changed = changed.reshape(*whole.shape[:2], len(variants), len(index))
  _write_variants(study, index, whole, variants, changed)
  if len(sides) > 1 and config.deleted:
    study.workdir.write_table('deletion', _deletion(study, chosen, rows, drops))


def _pairs(
  study: View, index: np.ndarray, span: tuple[float, float]
) -> Iterator[tuple[hybrids.Pair, np.ndarray]]:
  """Each finished pair, and which examples its first run was trained on."""
  runs = study.tables[MAP_PAIRS].runs
  rows = usable(study)
  for number, (first, second) in enumerate(rows):
    pair = hybrids.pair(
      study.weights(MAP_PAIRS, first), study.weights(MAP_PAIRS, second)
    )
    yield pair, runs.membership[first, index]
    study.progress.update(span[0] + (number + 1) / len(rows) * span[1])
    study.stop_if_asked()


def _predict(
  study: View,
  chosen: Chosen,
  pair: hybrids.Pair,
  member: np.ndarray,
  texts: Encoded,
  of: np.ndarray,
) -> np.ndarray:
  """Probability of the given label, IN and OUT run, [2, texts]."""
  values = probabilities(
    study.model,
    pair,
    texts,
    chosen.labels[of],
    study.config.localise.inputs.max_tokens,
  )
  return orient(values.astype(np.float64), member[of])


def _attribute(
  study: View, chosen: Chosen, pair: hybrids.Pair, member: np.ndarray
) -> tuple[np.ndarray, float]:
  """Integrated gradients, IN run minus OUT run, [m, longest]; largest gap."""
  config = study.config.localise.inputs
  found = integrated(
    study.model,
    pair,
    chosen.encoded,
    chosen.baseline(),
    chosen.labels,
    config.steps,
    config.max_tokens,
  )
  seen, unseen = orient(found.attribution.astype(np.float64), member)
  return seen - unseen, float(np.abs(found.gap).max())


def _warn_of_gaps(study: View, gaps: list[float]) -> None:
  """Says so where integrated gradients are far from their sum."""
  largest = max(gaps, default=0.0)
  if largest <= _LARGEST_GAP:
    return
  text = (
    f'input_maps: integrated gradients are up to {largest:.3f} off the '
    'probability that they should sum to (wanted: at most '
    f'{_LARGEST_GAP}); raise --config.localise.inputs.steps, now '
    f'{study.config.localise.inputs.steps}'
  )
  if study.config.engine.compute != 'float32':
    text += ', or leave --config.engine.compute at float32'
  study.progress.warn(f'{text}.')
  study.workdir.log(f'{text}.')


def _tokens(
  chosen: Chosen,
  rows: np.ndarray,
  drops: np.ndarray,
  attributions: list[np.ndarray],
) -> pd.DataFrame:
  """Rows of `tokens_by_example`: one a token, special ones left out."""
  contrast = mean(drops[:, 0] - drops[:, 1])
  sides = drops.mean(0)
  example, position = np.nonzero(chosen.unit >= 0)
  unit = chosen.unit[example, position]
  # Units of all texts are numbered one after the other.
  at = np.searchsorted(rows, example) + unit
  empty = np.full(len(example), np.nan)
  gradients = Mean(empty, empty, empty, empty)
  if attributions:
    values = np.stack(attributions)
    gradients = mean(values[:, example, position])
  return pd.DataFrame(
    {
      'index': chosen.index[example],
      'position': position,
      'token': [chosen.pieces.tokens[e][p] for e, p in zip(example, position)],
      'word': chosen.pieces.word[example, position],
      'unit': unit,
      'contrast': contrast.value[at],
      'contrast_se': contrast.se[at],
      'loss_in': sides[0, at],
      'loss_out': sides[1, at],
      'integrated': gradients.value,
      'integrated_se': gradients.se,
    }
  )


def _write_variants(
  study: View,
  index: np.ndarray,
  whole: np.ndarray,
  variants: list[tuple[str, float, Encoded]],
  changed: np.ndarray,
) -> None:
  """Writes `variants`.

  Args:
    study: the study.
    index: of the m examples.
    whole: values of IN and OUT runs on the texts, [pairs, 2, m].
    variants: kind, strength and texts of each perturbation.
    changed: the same of them, [pairs, 2, variants, m].
  """
  before = whole[:, 0] - whole[:, 1]  # [pairs, m]
  after = changed[:, 0] - changed[:, 1]  # [pairs, variants, m]
  summary = []
  for at, (kind, strength, _) in enumerate(variants):
    average = mean(after[:, at].mean(1))
    left = ratio_of_means(after[:, at].mean(1), before.mean(1))
    summary.append(
      {
        'kind': kind,
        'strength': strength,
        'examples': len(index),
        'value_in': changed[:, 0, at].mean(),
        'value_out': changed[:, 1, at].mean(),
        'memorisation': average.value,
        'memorisation_se': average.se,
        'left': left[0],
        'left_low': left[1],
        'left_high': left[2],
      }
    )
  study.workdir.write_table('variants', pd.DataFrame(summary))


def _deletion(
  study: View, chosen: Chosen, rows: np.ndarray, drops: np.ndarray
) -> pd.DataFrame:
  """Rows of `deletion`: what is left when top units are hidden together.

  Pairs that rank the units do not judge the deletion: those with even numbers
  rank for those with odd ones, and the other way round. The map is claimed to
  name units whose deletion lowers memorisation, and more than as many at
  random, or with the largest loss, which are trivial.

  Args:
    study: the study.
    chosen: m examples.
    rows: the example of each unit.
    drops: loss of IN and OUT runs by unit, [pairs, 2, units].
  """
  config = study.config.localise.inputs
  fold = np.arange(len(drops)) % 2
  texts: dict[int, Encoded] = {}
  for number in (0, 1):
    ranking = drops[fold != number].mean(0)
    parts, labels = [chosen.encoded], [('nothing', 0, 0)]
    for deleted in config.deleted:
      for name, draw, score in _rankings(ranking, config.draws):
        hidden = _top(chosen, rows, score, deleted)
        parts.append(chosen.without(np.arange(len(chosen.index)), hidden))
        labels.append((name, deleted, draw))
    texts[number] = input_texts.join(parts, chosen.pieces.pad)
  count = len(chosen.index)
  of = np.tile(np.arange(count), len(labels))
  of_pairs = []
  for (pair, member), half in zip(
    _pairs(study, chosen.index, (0.6, 0.4)), fold
  ):
    values = _predict(study, chosen, pair, member, texts[int(half)], of)
    of_pairs.append((values[0] - values[1]).reshape(-1, count).mean(1))
  left = np.stack(of_pairs)  # [pairs, texts]
  draws: dict[tuple[str, int], list[np.ndarray]] = {}
  for at, (name, deleted, _) in enumerate(labels):
    draws.setdefault((name, deleted), []).append(left[:, at])
  result, claims, beside = [], [], []
  by_name = {key: np.mean(values, axis=0) for key, values in draws.items()}
  (whole,) = (value for (_, deleted), value in by_name.items() if not deleted)
  for (name, deleted), value in by_name.items():
    claims.append(
      verdicts.Claim(
        _interval(whole - value, count),
        'above',
        delta=verdicts.DELTA['memorisation'],
        units=verdicts.count(len(value), 'pair'),
      )
      if name == BY_MAP
      else None
    )
    beside.append(
      [
        verdicts.Baseline(
          other,
          float((whole - by_name[other, deleted]).mean()),
          float((by_name[other, deleted] - value).mean()),
          _interval(by_name[other, deleted] - value, count),
        )
        for other in (BY_LOSS, AT_RANDOM)
        if (other, deleted) in by_name
      ]
    )
    random = by_name.get((AT_RANDOM, deleted), value)
    average = bounded_mean(value, size=count)
    less = bounded_mean(random - value, -2, 2, count)
    result.append(
      {
        'ranking': name,
        'deleted': deleted,
        'examples': count,
        'memorisation': average.value,
        'memorisation_se': average.se,
        'low': average.low,
        'high': average.high,
        'less_than_random': less.value,
        'less_low': less.low,
        'less_high': less.high,
      }
    )
  return pd.concat(
    [pd.DataFrame(result), verdicts.section(claims, beside)], axis=1
  )


def _interval(values: np.ndarray, size: int) -> verdicts.Interval:
  """Of the mean of differences of memorisation, means of `size` examples."""

  def ends(level: float) -> tuple[float, float]:
    _, _, low, high = bounded_mean(values, -2, 2, size, level)
    return float(low), float(high)

  return ends


def _rankings(
  ranking: np.ndarray, draws: int
) -> Iterator[tuple[str, int, np.ndarray]]:
  """Name, draw and score of each unit; `ranking` is [2, units]."""
  yield BY_MAP, 0, ranking[0] - ranking[1]
  yield BY_LOSS, 0, ranking[0]
  rng = np.random.default_rng(0x64656C)
  for draw in range(draws):
    yield AT_RANDOM, draw, rng.random((ranking.shape[1],))


def _top(
  chosen: Chosen, rows: np.ndarray, score: np.ndarray, count: int
) -> np.ndarray:
  """Tokens of the units with the highest scores, bool [m, longest]."""
  order = np.lexsort((-score, rows))
  rank = np.empty(len(rows), int)
  rank[order] = np.arange(len(rows)) - np.searchsorted(rows, rows[order])
  top = np.append(rank < count, False)
  first = np.searchsorted(rows, np.arange(len(chosen.index)))
  at = np.where(chosen.unit >= 0, first[:, None] + chosen.unit, len(rows))
  return top[at]


def _each(function, pair: hybrids.Pair):
  """`function` of either model's blocks, final norm and head, as one axis."""

  def one(blocks, ends):
    if jax.default_backend() == 'cpu':
      blocks = interface.unstack(blocks)
    return function(blocks, *ends)

  return jax.vmap(one)(pair.blocks, pair.ends)


def _probability(model, blocks, final, head, h, tokens, labels):
  """Of the label, from the stream before the first block, [batch]."""
  mask = interface.real_tokens(tokens)
  h, _ = interface.apply_blocks(model, blocks, h, mask)
  x = model.read_out(model.finish(final, h), tokens)
  logits = model.head(final, head, x, None)
  at = labels[:, None]
  return jnp.take_along_axis(jax.nn.softmax(logits), at, axis=1)[:, 0]


@functools.partial(jax.jit, static_argnames='model')
def _probabilities(model, pair, tokens, labels):
  h = model.embed(pair.embeddings, tokens, None)
  return _each(
    lambda blocks, final, head: _probability(
      model, blocks, final, head, h, tokens, labels
    ),
    pair,
  )


def probabilities(
  model: interface.Model,
  pair: hybrids.Pair,
  examples: Encoded,
  labels: np.ndarray,
  max_tokens: int,
) -> np.ndarray:
  """Probability of each label by both models, evaluation mode.

  Args:
    model: the model of both.
    pair: the models.
    examples: N of them.
    labels: int [N].
    max_tokens: most tokens on the device at once, of both models together.

  Returns:
    float32 [2, N], the first model's first.
  """
  model = model.one_by_one()
  result = np.empty((2, len(examples)), np.float32)
  for index, length in enumerate(examples.buckets):
    chosen = np.flatnonzero(examples.bucket() == index)
    size = max(1, max_tokens // (2 * length))
    for rows, real, tokens in representations.batches(examples, chosen, size):
      found = np.asarray(_probabilities(model, pair, tokens, labels[rows]))
      result[:, rows[:real]] = found[::-1, :real]
  return result


class Integrated(NamedTuple):
  """Integrated gradients of both models, the first one's first.

  Attributes:
    attribution: of each token, float32 [2, n, longest]; 0 behind a text.
    gap: how far their sum is from what they explain, the probability of the
      label on the text minus that on the baseline, float32 [2, n].
  """

  attribution: np.ndarray
  gap: np.ndarray


@functools.partial(jax.jit, static_argnames='model')
def _integrate(model, pair, tokens, baseline, labels, nodes, weights):
  text = model.embed(pair.embeddings, tokens, None)
  nothing = model.embed(
    pair.embeddings, interface.Tokens(baseline, tokens.length), None
  )
  # The path and its sums are float32; what the model computes is its own.
  kind = text.dtype
  text, nothing = text.astype(jnp.float32), nothing.astype(jnp.float32)

  def one(blocks, final, head):
    value = lambda h: _probability(
      model, blocks, final, head, h.astype(kind), tokens, labels
    )

    def add(total, node):
      at, weight = node
      slope = jax.grad(lambda h: value(h).sum())(
        nothing + at * (text - nothing)
      )
      return total + weight * slope, None

    total, _ = lax.scan(add, jnp.zeros_like(text), (nodes, weights))
    attribution = ((text - nothing) * total).sum(-1)
    explained = value(text) - value(nothing)
    return attribution, attribution.sum(-1) - explained

  return _each(one, pair)


def integrated(
  model: interface.Model,
  pair: hybrids.Pair,
  examples: Encoded,
  baseline: np.ndarray,
  labels: np.ndarray,
  steps: int,
  max_tokens: int,
) -> Integrated:
  """Integrated gradients of the label's probability.

  Sundararajan et al. (2017), "Axiomatic Attribution for Deep Networks",
  section 3. The path is a straight line between the embedding outputs of the
  baseline and of the text; the integral is Gauss and Legendre's.

  Args:
    model: the model of both.
    pair: the models.
    examples: n of them.
    baseline: token ids that say nothing, int32 [n, longest].
    labels: int [n].
    steps: points of the integral.
    max_tokens: most tokens on the device at once, of both models together.
  """
  model = model.one_by_one()
  nodes, weights = np.polynomial.legendre.leggauss(steps)
  nodes, weights = (nodes + 1) / 2, weights / 2
  result = np.zeros((2, *examples.ids.shape), np.float32)
  gap = np.empty((2, len(examples)), np.float32)
  for index, length in enumerate(examples.buckets):
    chosen = np.flatnonzero(examples.bucket() == index)
    size = max(1, max_tokens // (2 * length))
    for rows, real, tokens in representations.batches(examples, chosen, size):
      found = jax.device_get(
        _integrate(
          model,
          pair,
          tokens,
          baseline[rows, :length],
          labels[rows],
          nodes.astype(np.float32),
          weights.astype(np.float32),
        )
      )
      result[:, rows[:real], :length] = found[0][::-1, :real]
      gap[:, rows[:real]] = found[1][::-1, :real]
  return Integrated(result, gap)
