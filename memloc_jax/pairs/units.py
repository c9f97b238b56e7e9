"""Stage `units`: whether a few heads or neurons hold an example."""

import dataclasses
import itertools

import jax
import numpy as np
import pandas as pd
from scipy import special

from memloc_jax.estimators import verdicts
from memloc_jax.estimators.layerwise import mean, ratio_of_means
from memloc_jax.models import interface
from memloc_jax.pairs import hybrids, masks
from memloc_jax.pairs import zeroing as technique
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
from memloc_jax.study.pair_runs import PAIRS
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


def units(study: View) -> None:
  """Writes the tables on units; nothing without pairs of runs."""
  config = study.config.localise.units
  memorised = study.workdir.read_table('pairs_by_example')
  if memorised is None or not config.examples:
    return
  index = most_memorised(memorised, config.examples)
  runs = study.tables[PAIRS].runs
  pairs = usable(study)
  texts = _texts(study, index)
  found = []
  for number, rows in enumerate(pairs):
    pair = hybrids.pair(*(study.weights(PAIRS, row) for row in rows))
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

  scores: technique.Units
  seen: np.ndarray
  unseen: np.ndarray
  after: dict[tuple[str, str, int], np.ndarray]
  others: dict[tuple[str, str, int] | None, np.ndarray]
  accuracy: dict[tuple[str, str, int] | None, np.ndarray]


def _measure(
  study: View,
  pair: hybrids.Pair,
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
    technique.scores(model, pair, examples, texts.labels[:count]),
  )
  learnt = None
  if study.config.localise.units.mask_steps:
    learnt = _learnt(study, pair, texts, count, first_saw)
  keys, kept = _masks(study, scores, learnt, number)
  by_example = []
  for at in range(count):
    found = technique.without(
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
  at = np.arange(count)
  after, others, accuracy = {}, {}, {}
  for mask, key in enumerate([None, *keys]):
    values = own[:, mask, :count]
    if key is not None:
      after[key] = values[at, at]
    with np.errstate(invalid='ignore'):
      others[key] = (values * same).sum(1) / same.sum(1)
    held_out = correct[:, mask, count:]
    accuracy[key] = (
      held_out.mean(1) if held_out.shape[1] else np.full(count, np.nan)
    )
  return _Found(scores, own[at, 0, at], unseen, after, others, accuracy)


def _other_logits(model, pair, first_saw, examples, scores) -> np.ndarray:
  """Logits of the OUT runs on the examples, [m, classes]."""
  everything = technique.Units(
    *(np.ones((1, *x.shape[2:]), np.float32) for x in scores)
  )
  both = [
    np.asarray(
      technique.without(model, pair, which, everything, examples)[0],
      np.float64,
    )
    for which in (0, 1)
  ]
  return np.where(first_saw[:, None], both[1], both[0])


def _learnt(
  study: View,
  pair: hybrids.Pair,
  texts: _Texts,
  count: int,
  first_saw: np.ndarray,
) -> technique.Units:
  """How far learnt masks turn units down, leaves [m, layer, unit]."""
  examples = jax.tree.map(lambda x: x[:count], texts.tokens)
  found = masks.learn(
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
  scores: technique.Units,
  learnt: technique.Units | None,
  number: int,
) -> tuple[list[tuple[str, str, int]], technique.Units]:
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
  kept = technique.Units(
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
          chosen = technique.top(ranked[ranking], deleted)
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
      layer, unit = np.nonzero(technique.top(contrast.value[at], _SHOWN))
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
        lambda level, part=part: ratio_of_means(part, whole, level)[1:],
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


def _trivial(
  name: str, removed: np.ndarray, part: np.ndarray, whole: np.ndarray
) -> verdicts.Baseline:
  """What a trivial ranking removes of the whole, beside a part, [pairs]."""
  return verdicts.Baseline(
    name,
    ratio_of_means(removed, whole)[0],
    ratio_of_means(part - removed, whole)[0],
    lambda level: ratio_of_means(part - removed, whole, level)[1:],
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
