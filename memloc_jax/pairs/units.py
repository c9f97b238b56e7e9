"""Stage `units`: whether a few heads or neurons hold an example.

Chang et al. (2024), "Do Localization Methods Actually Localize Memorized Data
in LLMs?", section 3: zero out units, and see whether the example is forgotten
while everything else is kept.
"""

import dataclasses
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jax import lax
from scipy import special

from memloc_jax.estimators import verdicts
from memloc_jax.estimators.layerwise import mean, ratio_of_means
from memloc_jax.models import interface
from memloc_jax.models.interface import Array, Edit
from memloc_jax.pairs import hybrids
from memloc_jax.pairs.hybrids import Pair
from memloc_jax.pairs.input_texts import join
from memloc_jax.pairs.twins import most_memorised, orient, usable
from memloc_jax.schema import (
  COUNT,
  FLOAT,
  POSITIVE,
  PROBABILITY,
  SIZE,
  TEXT,
  Table,
)
from memloc_jax.study.pair_runs import MAP_PAIRS
from memloc_jax.study.tables import OF_EXAMPLE
from memloc_jax.study.view import View
from memloc_jax.tasks.encode import Encoded

TABLES = (
  Table(
    'units_by_example',
    'example and unit',
    {
      **OF_EXAMPLE,
      'kind': TEXT('`head` or `neuron`'),
      'layer unit': POSITIVE('layer and number of the unit'),
      'contrast': FLOAT('`loss_in - loss_out`, mean over pairs'),
      'contrast_se': SIZE.or_missing('its standard error'),
      'loss_in loss_out': FLOAT(
        "first-order loss of the given label's probability when the unit is "
        'zeroed (activation times gradient, summed over positions), by IN and '
        'by OUT run'
      ),
    },
    text=(
      'The 20 attention heads and 20 MLP neurons with the highest contrast, '
      'for the `localise.units.examples` most memorised examples.'
    ),
  ),
  Table(
    'unit_deletion',
    'kind, ranking and number of deleted units',
    {
      'kind': TEXT('`heads` or `neurons`'),
      'ranking': TEXT('`contrast`, `loss`, `random`, or `learnt` by a mask'),
      'deleted': COUNT('how many are zeroed'),
      'examples': POSITIVE('how many'),
      'value_in value_after value_out': PROBABILITY(
        'mean probability of the given label by the IN run, by the IN run '
        'without the units, by the OUT run'
      ),
      'removed': FLOAT.or_missing(
        'part of the memorisation that is gone, ratio of means; 1 is all of it'
      ),
      'removed_low removed_high': FLOAT.or_missing(
        "95 % interval of that over pairs (Student's t)"
      ),
      'distance_before distance': SIZE.or_missing(
        "mean distance from the OUT runs' distribution, in its standard "
        'deviations of log p / (1 - p), before and after; an OUT run itself '
        'has about 0.8'
      ),
      'others_before others': PROBABILITY.or_missing(
        'mean probability of the given label of the other memorised examples '
        'that the run saw'
      ),
      'accuracy_before accuracy': PROBABILITY.or_missing(
        'on at most `localise.units.held_out` validation examples'
      ),
      'pairs': POSITIVE('how many'),
    },
    text=(
      'What is left when the top units of the IN run are zeroed, ranked in '
      'the same run.'
    ),
    note='`loss` and `random` are the trivial baselines.',
    claim='`removed` above 0',
    baselines=True,
  ),
)


KINDS = ('heads', 'neurons')
# By what the run that saw the example loses more than its twin, by what it
# loses, at random, by masks that are learnt.
CONTRAST, LOSS, RANDOM, LEARNT = 'contrast', 'loss', 'random', 'learnt'
# Texts on which learnt masks should change nothing.
_OTHERS = 8
# Units of each kind and example in the table.
_SHOWN = 20
# In nats: what a unit that is zeroed must at least bring.
_PENALTY = 0.01
# Masks that are learnt at once; each needs a copy of its model.
_TOGETHER = 4


class Units(NamedTuple):
  """Something for every unit: a score, or whether it is kept.

  Attributes:
    heads: [..., layer, head].
    neurons: [..., layer, hidden].
  """

  heads: Array
  neurons: Array


def edits_of(kept: Units) -> dict[str, Edit]:
  """Edits of `interface.forward` from factors [layer, 1 or batch, unit]."""
  heads, neurons = kept.heads[:, :, None, :, None], kept.neurons[:, :, None]
  nothing = lambda x: jnp.zeros((x.shape[0], *(1,) * (x.ndim - 1)), x.dtype)
  return {
    'heads': Edit(heads, nothing(heads)),
    'neurons': Edit(neurons, nothing(neurons)),
  }


def params_of(pair: Pair, which: int | jax.Array) -> interface.Tree:
  """The first model of a pair if `which`, a scalar, is 0, else the second."""
  # The second model stands first in a pair.
  take = lambda tree: jax.tree.map(lambda x: x[1 - which], tree)
  final, head = take(pair.ends)
  return {
    'embeddings': pair.embeddings,
    'blocks': take(pair.blocks),
    'final': final,
    'heads': {'main': head},
  }


@functools.partial(jax.jit, static_argnames='model')
def first_order(
  model: interface.Model,
  pair: Pair,
  tokens: interface.Tokens,
  labels: jax.Array,
) -> Units:
  """First-order loss of the label's probability when a unit is zeroed.

  The derivative by a factor on the unit's output, at 1: activation times
  gradient, summed over positions. Evaluation mode.

  Args:
    model: of both models.
    pair: the models.
    tokens: the batch.
    labels: int32 [batch].

  Returns:
    Leaves [2, batch, layer, unit], the first model's first.
  """
  batch = tokens.ids.shape[0]
  ones = Units(
    jnp.ones((model.num_layers, batch, model.num_heads)),
    jnp.ones((model.num_layers, batch, model.hidden)),
  )

  def one(which):
    def value(kept):
      logits = interface.forward(
        model, params_of(pair, which), tokens, edits=edits_of(kept)
      ).logits
      at = labels[:, None]
      return jnp.take_along_axis(jax.nn.softmax(logits), at, axis=1).sum()

    return jax.grad(value)(ones)

  found = jax.tree.map(lambda *x: jnp.stack(x), one(0), one(1))
  return jax.tree.map(lambda x: jnp.moveaxis(x, 2, 1), found)


@functools.partial(jax.jit, static_argnames=('model', 'which'))
def without(
  model: interface.Model,
  pair: Pair,
  which: int,
  kept: Units,
  tokens: interface.Tokens,
) -> jax.Array:
  """Logits of one model without some units, evaluation mode.

  Args:
    model: of both models.
    pair: the models.
    which: 0 for the first one, 1 for the second one.
    kept: 1 for units that stay and 0 for those that are zeroed, leaves
      [masks, layer, unit]; they are tried one after the other.
    tokens: the batch.

  Returns:
    [masks, batch, classes].
  """
  one_model = params_of(pair, which)

  def run(carry, one):
    changed = edits_of(jax.tree.map(lambda x: x[:, None], one))
    found = interface.forward(model, one_model, tokens, edits=changed)
    return carry, found.logits

  return lax.scan(run, None, kept)[1]


def top(score: np.ndarray, count: int) -> np.ndarray:
  """Marks the units with the highest scores.

  Args:
    score: [layer, unit].
    count: of units, over all layers.

  Returns:
    bool, the same shape.
  """
  chosen = np.zeros(score.size, bool)
  chosen[np.argsort(-score, axis=None, kind='stable')[:count]] = True
  return chosen.reshape(score.shape)


@functools.partial(jax.jit, static_argnames=('model', 'steps'))
def learn_masks(
  model: interface.Model,
  pair: Pair,
  saw: jax.Array,
  examples: interface.Tokens,
  labels: jax.Array,
  others: interface.Tokens,
  steps: int,
) -> Units:
  """How far each unit of the run that saw an example is turned down.

  Network slimming (Liu et al., 2017) as Chang et al. (2024), "Do Localization
  Methods Actually Localize Memorized Data in LLMs?", use it to localise: a
  factor in [0, 1] on every unit, with an L1 penalty. They learn which units are
  enough to keep a text; here it is which few must go, so that the example is
  predicted as by a model that never saw it, and others are as before.

  Adam on the factors, each projected to [0, 1], from 1. What is minimised is
  the cross-entropy between the other run's probability of the label and the
  masked one's, plus the mean Kullback-Leibler divergence of the masked from the
  whole run on other texts, plus 0.01 for every unit that is gone.

  Args:
    model: of both models.
    pair: the models.
    saw: the one that was trained on each example, 0 for the first one and 1
      for the second one, int32 [m].
    examples: m of them.
    labels: int32 [m].
    others: texts on which nothing should change, padded to the same length.
    steps: of Adam; the whole way takes 20 of them.

  Returns:
    1 - factor, leaves [m, layer, unit].
  """
  optimiser = optax.adam(0.05)
  logits = lambda params, tokens, edits: (
    interface.forward(model, params, tokens, edits=edits).logits
  )

  def one(inputs):
    saw, ids, length, label = inputs
    join = lambda own, rest: jnp.concatenate([own[None], rest])
    texts = interface.Tokens(join(ids, others.ids), join(length, others.length))
    params = params_of(pair, saw)
    twin = logits(params_of(pair, 1 - saw), texts, {})[0]
    wanted = jax.nn.softmax(twin)[label]
    before = jax.nn.log_softmax(logits(params, texts, {})[1:])

    def loss(factors):
      edits = edits_of(jax.tree.map(lambda x: x[:, None], factors))
      found = jax.nn.log_softmax(logits(params, texts, edits))
      kept = found[0, label]
      # log(1 - p) from the other classes, which does not cancel.
      rest = jax.nn.logsumexp(found[0].at[label].set(-jnp.inf))
      forget = -(wanted * kept + (1 - wanted) * rest)
      change = (jnp.exp(before) * (before - found[1:])).sum(-1).mean()
      gone = sum((1 - x).sum() for x in factors)
      return forget + change + _PENALTY * gone

    def step(carry, _):
      factors, state = carry
      updates, state = optimiser.update(jax.grad(loss)(factors), state)
      factors = optax.apply_updates(factors, updates)
      return (jax.tree.map(lambda x: jnp.clip(x, 0, 1), factors), state), None

    ones = Units(
      jnp.ones((model.num_layers, model.num_heads)),
      jnp.ones((model.num_layers, model.hidden)),
    )
    (factors, _), _ = lax.scan(step, (ones, optimiser.init(ones)), length=steps)
    return jax.tree.map(lambda x: 1 - x, factors)

  inputs = (saw, examples.ids, examples.length, labels)
  return lax.map(one, inputs, batch_size=_TOGETHER)


def units(study: View) -> None:
  """Writes the tables on units; nothing without pairs of runs."""
  config = study.config.localise.units
  memorised = study.workdir.read_table('pairs_by_example')
  if memorised is None or not config.examples:
    return
  index = most_memorised(memorised, config.examples)
  runs = study.tables[MAP_PAIRS].runs
  pairs = usable(study)
  texts = _texts(study, index)
  found = []
  for number, rows in enumerate(pairs):
    pair = hybrids.pair(*(study.weights(MAP_PAIRS, row) for row in rows))
    first_saw = runs.membership[rows[0], index]
    found.append(_measure(study, pair, texts, len(index), first_saw, number))
    study.progress.update((number + 1) / len(pairs))
    study.stop_if_asked()
  study.workdir.write_table('units_by_example', _by_example(index, found))
  study.workdir.write_table('unit_deletion', _deletion(index, found))


@dataclasses.dataclass(frozen=True)
class _Texts:
  """The m examples, and behind them held-out ones.

  Attributes:
    tokens: of all of them, padded to the longest.
    labels: given ones of the examples, those of the held-out ones, int32.
    others: further training examples, padded alike; none without masks to be
      learnt.
  """

  tokens: interface.Tokens
  labels: np.ndarray
  others: interface.Tokens


def _texts(study: View, index: np.ndarray) -> _Texts:
  config, data = study.config.localise.units, study.data
  held_out = data.validation_labels[: config.held_out]
  others = np.setdiff1d(np.arange(len(data.train)), index)
  others = others[: _OTHERS if config.mask_steps else 0]
  parts = [
    Encoded(split.ids[rows], split.length[rows], split.buckets)
    for split, rows in (
      (data.train, index),
      (data.validation, np.arange(len(held_out))),
      (data.train, others),
    )
    if len(rows)
  ]
  whole = join(parts, 0)
  longest = whole.buckets[int(whole.bucket().max())]
  count = len(index) + len(held_out)
  labels = np.append(data.labels[study.noisy_set][index], held_out)
  return _Texts(
    interface.Tokens(whole.ids[:count, :longest], whole.length[:count]),
    labels.astype(np.int32),
    interface.Tokens(whole.ids[count:, :longest], whole.length[count:]),
  )


@dataclasses.dataclass(frozen=True)
class _Found:
  """Of one pair.

  Attributes:
    scores: of IN and OUT run, leaves [2, m, layer, unit].
    seen: probability of the label by the IN run, [m].
    unseen: by the OUT run, [m].
    after: by the IN run without some units, by kind, ranking and number, [m].
    others: mean over the other examples that the run saw, before and after,
      the same keys, [m]; NaN where there are none.
    accuracy: on held-out texts, the same.
  """

  scores: Units
  seen: np.ndarray
  unseen: np.ndarray
  after: dict[tuple[str, str, int], np.ndarray]
  others: dict[tuple[str, str, int] | None, np.ndarray]
  accuracy: dict[tuple[str, str, int] | None, np.ndarray]


def _measure(
  study: View,
  pair: Pair,
  texts: _Texts,
  count: int,
  first_saw: np.ndarray,
  number: int,
) -> _Found:
  """Scores and deletions in one pair."""
  model = study.model.one_by_one()
  examples = interface.Tokens(
    texts.tokens.ids[:count], texts.tokens.length[:count]
  )
  scores = jax.tree.map(
    lambda x: orient(np.asarray(x, np.float64), first_saw),
    first_order(model, pair, examples, texts.labels[:count]),
  )
  learnt = None
  if study.config.localise.units.mask_steps:
    learnt = _learnt(study, pair, texts, count, first_saw)
  keys, kept = _masks(study, scores, learnt, number)
  by_example = []
  for at in range(count):
    found = without(
      model,
      pair,
      0 if first_saw[at] else 1,
      jax.tree.map(lambda x, at=at: x[at], kept),
      texts.tokens,
    )
    by_example.append(np.asarray(found, np.float64))
  logits = np.stack(by_example)  # [m, masks, texts, classes]
  probability = special.softmax(logits, axis=-1)
  own = np.take_along_axis(
    probability, texts.labels[None, None, :, None], axis=-1
  )[..., 0]
  correct = logits.argmax(-1) == texts.labels
  unseen_logits = _other_logits(model, pair, first_saw, examples, scores)
  unseen = special.softmax(unseen_logits, axis=-1)[
    np.arange(count), texts.labels[:count]
  ]
  # Other examples that the same run was trained on.
  same = (first_saw[:, None] == first_saw) & ~np.eye(count, dtype=bool)
  every = np.arange(count)
  after, others, accuracy = {}, {}, {}
  for mask, key in enumerate([None, *keys]):
    values = own[:, mask, :count]
    if key is not None:
      after[key] = values[every, every]
    with np.errstate(invalid='ignore'):
      others[key] = (values * same).sum(1) / same.sum(1)
    held_out = correct[:, mask, count:]
    accuracy[key] = (
      held_out.mean(1) if held_out.shape[1] else np.full(count, np.nan)
    )
  return _Found(scores, own[every, 0, every], unseen, after, others, accuracy)


def _other_logits(model, pair, first_saw, examples, scores) -> np.ndarray:
  """Logits of the OUT runs on the examples, [m, classes]."""
  everything = Units(*(np.ones((1, *x.shape[2:]), np.float32) for x in scores))
  both = [
    np.asarray(
      without(model, pair, which, everything, examples)[0],
      np.float64,
    )
    for which in (0, 1)
  ]
  return np.where(first_saw[:, None], both[1], both[0])


def _learnt(
  study: View,
  pair: Pair,
  texts: _Texts,
  count: int,
  first_saw: np.ndarray,
) -> Units:
  """How far learnt masks turn units down, leaves [m, layer, unit]."""
  examples = jax.tree.map(lambda x: x[:count], texts.tokens)
  found = learn_masks(
    study.model.one_by_one(),
    pair,
    np.where(first_saw, 0, 1).astype(np.int32),
    examples,
    texts.labels[:count],
    texts.others,
    study.config.localise.units.mask_steps,
  )
  return jax.tree.map(lambda x: np.asarray(x, np.float64), found)


def _masks(
  study: View,
  scores: Units,
  learnt: Units | None,
  number: int,
) -> tuple[list[tuple[str, str, int]], Units]:
  """What is zeroed: keys, and units that stay, [m, 1 + keys, layer, unit].

  The first mask keeps everything.

  Args:
    study: the study.
    scores: of IN and OUT run, leaves [2, m, layer, unit].
    learnt: by masks, leaves [m, layer, unit], where there are any.
    number: of the pair.
  """
  config = study.config.localise.units
  count = scores.heads.shape[1]
  rankings = [CONTRAST, LOSS, RANDOM]
  if learnt is not None:
    rankings.append(LEARNT)
  keys = [
    (kind, ranking, deleted)
    for kind, ranking in itertools.product(KINDS, rankings)
    for deleted in getattr(config, kind)
  ]
  kept = Units(
    *(np.ones((count, 1 + len(keys), *x.shape[2:]), np.float32) for x in scores)
  )
  rng = np.random.default_rng([0x756E6974, number])
  for at in range(count):
    for kind in KINDS:
      seen, unseen = getattr(scores, kind)[:, at]
      ranked = {
        CONTRAST: seen - unseen,
        LOSS: seen,
        RANDOM: rng.random(seen.shape),
      }
      if learnt is not None:
        ranked[LEARNT] = getattr(learnt, kind)[at]
      for mask, (of, ranking, deleted) in enumerate(keys, start=1):
        if of == kind:
          chosen = top(ranked[ranking], deleted)
          getattr(kept, kind)[at, mask][chosen] = 0
  return keys, kept


def _by_example(index: np.ndarray, found: list[_Found]) -> pd.DataFrame:
  """Rows of `units_by_example`: the units with the highest mean contrast."""
  parts = []
  for kind in KINDS:
    values = np.stack([getattr(each.scores, kind) for each in found])
    contrast = mean(values[:, 0] - values[:, 1])  # [m, layer, unit]
    sides = values.mean(0)
    for at, example in enumerate(index):
      layer, unit = np.nonzero(top(contrast.value[at], _SHOWN))
      parts.append(
        pd.DataFrame(
          {
            'index': example,
            'kind': kind.removesuffix('s'),
            'layer': layer + 1,
            'unit': unit + 1,
            'contrast': contrast.value[at, layer, unit],
            'contrast_se': contrast.se[at, layer, unit],
            'loss_in': sides[0, at, layer, unit],
            'loss_out': sides[1, at, layer, unit],
          }
        )
      )
  return pd.concat(parts, ignore_index=True)


def _deletion(index: np.ndarray, found: list[_Found]) -> pd.DataFrame:
  """Rows of `unit_deletion`.

  Each ranking is claimed to remove some of the memorisation, and more than as
  many units at random, or with the largest loss, which are trivial.
  """
  stack = lambda of: np.stack([of(each) for each in found])  # [pairs, m]
  seen, unseen = stack(lambda f: f.seen), stack(lambda f: f.unseen)
  rows, claims, beside = [], [], []
  whole = (seen - unseen).mean(1)
  left = {key: stack(lambda f, key=key: f.after[key]) for key in found[0].after}
  for key, after in left.items():
    part = (seen - after).mean(1)
    removed = ratio_of_means(part, whole)
    kind, ranking, deleted = key
    claims.append(
      None
      if ranking in (LOSS, RANDOM)
      else verdicts.Claim(
        functools.partial(_ends, part, whole),
        'above',
        delta=verdicts.DELTA['share'],
        units=verdicts.count(len(found), 'pair'),
      )
    )
    beside.append(
      [
        _trivial(
          other, (seen - left[kind, other, deleted]).mean(1), part, whole
        )
        for other in (LOSS, RANDOM)
        if (kind, other, deleted) in left
      ]
    )
    of = lambda name, key: _known_mean(
      stack(lambda f, name=name, key=key: getattr(f, name)[key])
    )
    rows.append(
      {
        'kind': kind,
        'ranking': ranking,
        'deleted': deleted,
        'examples': len(index),
        'value_in': seen.mean(),
        'value_after': after.mean(),
        'value_out': unseen.mean(),
        'removed': removed[0],
        'removed_low': removed[1],
        'removed_high': removed[2],
        'distance_before': distance(seen, unseen),
        'distance': distance(after, unseen),
        'others_before': of('others', None),
        'others': of('others', key),
        'accuracy_before': of('accuracy', None),
        'accuracy': of('accuracy', key),
        'pairs': len(found),
      }
    )
  return pd.concat(
    [pd.DataFrame(rows), verdicts.section(claims, beside)], axis=1
  )


def _ends(
  part: np.ndarray, whole: np.ndarray, level: float
) -> tuple[float, float]:
  return ratio_of_means(part, whole, level)[1:]


def _trivial(
  name: str, removed: np.ndarray, part: np.ndarray, whole: np.ndarray
) -> verdicts.Baseline:
  """What a trivial ranking removes of the whole, beside a part, [pairs]."""
  return verdicts.Baseline(
    name,
    ratio_of_means(removed, whole)[0],
    ratio_of_means(part - removed, whole)[0],
    functools.partial(_ends, part - removed, whole),
  )


def _known_mean(values: np.ndarray) -> float:
  """Mean of what is not NaN; NaN where nothing is known."""
  known = values[~np.isnan(values)]
  return float(known.mean()) if len(known) else float('nan')


def distance(values: np.ndarray, unseen: np.ndarray) -> float:
  """Mean distance from the runs that did not see an example.

  In standard deviations of these runs' scaled logits, log p / (1 - p); a
  perfect deletion cannot be told from them, and has about 0.8.

  Args:
    values: probabilities, [pairs, m].
    unseen: those of the OUT runs, [pairs, m].

  Returns:
    Mean over pairs and examples; NaN with fewer than two pairs.
  """
  if len(unseen) < 2:
    return float('nan')
  tiny = np.finfo(np.float32).tiny
  scaled = lambda p: special.logit(np.clip(p, tiny, 1 - 1e-7))
  out = scaled(unseen)
  deviation = np.maximum(out.std(0, ddof=1), 1e-6)
  return float((np.abs(scaled(values) - out.mean(0)) / deviation).mean())
