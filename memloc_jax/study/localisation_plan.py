"""How long localisation may take, from each technique run on a few examples.

Every technique runs as it would, but on one model and on some of the examples.
The model is the checkpoint with a random head, since the speed does not depend
on what was learnt; what is found is dropped.
"""

import dataclasses
import math
import pathlib
import tempfile
import time
import warnings
from collections.abc import Collection
from typing import Any

import jax
import numpy as np

from memloc_jax.ensemble.store import RowStore
from memloc_jax.errors import InputError
from memloc_jax.localisation.all import TECHNIQUES
from memloc_jax.localisation.scores import Checkpoint, Source, Subject
from memloc_jax.study import control
from memloc_jax.study.context import Context
from memloc_jax.study.runs import Runs
from memloc_jax.tasks.encode import Encoded

# Examples at first. More are taken until a run takes so many seconds, or so
# many with compiling, which more examples may repeat, or compiling more than
# all models and examples.
_EXAMPLES = 32
_ENOUGH, _PATIENCE = 2.0, 10.0


@dataclasses.dataclass(frozen=True)
class Times:
  """Of one technique.

  Attributes:
    name: of the technique.
    compilation: seconds that the first run took beyond the second.
    run: seconds of the second run.
    examples: in it.
    share: of all models and examples of the study that they are.
  """

  name: str
  compilation: float
  run: float
  examples: int
  share: float

  @property
  def seconds(self) -> float:
    """That the technique takes on all models and examples."""
    return self.compilation + self.run / self.share


def pending(context: Context, due: Collection[str]) -> list[str]:
  """Techniques that are still to be run, without trivial baselines.

  Args:
    context: the study's.
    due: names of its stages that are not finished.
  """
  if not _label_sets(context):
    return []
  wanted = context.config.localise.techniques or tuple(TECHNIQUES)
  return [
    name for name in wanted if name in due and not TECHNIQUES[name].baseline
  ]


def _label_sets(context: Context) -> list[int]:
  """That of each noisy model that techniques will look at."""
  if not context.noisy_set:
    return []
  found = [context.noisy_set] * len(context.config.train.seeds)
  for setup in control.setups(context):
    found += [control.label_set(context, seed) for seed in setup.seeds]
  return found


def measure(study: Runs, name: str) -> Times:
  """Times a technique twice on as many examples as it takes to tell.

  Args:
    study: with weights and something to localise in; nothing is written to
      its workdir.
    name: of the technique.
  """
  technique, context = TECHNIQUES[name], study.context
  settings = technique.settings_in(context.config.localise)
  label_sets, count = _label_sets(context), len(context.data.train)
  size = min(_EXAMPLES, count)
  while True:
    source = _source(study, label_sets[0], size)
    try:
      technique.check(settings, source.subjects[0].mislabelled)
    except InputError:
      if size == count:
        raise
      size = min(2 * size, count)
      continue
    first, again = (
      _seconds(source, name, settings),
      _seconds(source, name, settings),
    )
    share = size / (count * len(label_sets))
    long = again >= _ENOUGH or first >= min(_PATIENCE, again / share)
    if long or size == count:
      break
    size = min(count, size * max(2, math.ceil(_ENOUGH / max(again, 1e-3))))
  return Times(
    name=name,
    compilation=max(first - again, 0.0),
    run=again,
    examples=size,
    share=share,
  )


def _seconds(source: Source, name: str, settings: Any) -> float:
  """That a technique takes; runs that it trains are forgotten."""
  with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
    # Such as that some class has no example.
    warnings.simplefilter('ignore')
    assert source.engine is not None  # See `_source`.
    engine = dataclasses.replace(
      source.engine, store=RowStore(pathlib.Path(folder))
    )
    source = dataclasses.replace(source, engine=engine)
    began = time.monotonic()
    TECHNIQUES[name].run(source, settings, lambda share: None)
    return time.monotonic() - began


def _source(study: Runs, label_set: int, size: int) -> Source:
  """One model and some of the examples, as many short and noisy ones as in all.

  Args:
    study: the study.
    label_set: of the model.
    size: number of examples.
  """
  context = study.context
  data, pretrained = context.data, context.pretrained
  order = np.lexsort((data.train.length, data.noisy[label_set]))
  at = np.linspace(0, len(order) - 1, size).round().astype(int)
  chosen = np.sort(order[at])

  def model(seed: int) -> Checkpoint:
    head = context.model.init_head(jax.random.key(seed), len(data.label_names))
    params = {
      'embeddings': context.embeddings,
      'blocks': pretrained['blocks'],
      'final': pretrained['final'],
      'heads': {'main': jax.device_get(head)},
    }
    return Checkpoint(f'plan/{seed}', lambda: params)

  table = 'main' if 'main' in study.tables else 'control'
  epochs = study.tables[table].snapshots
  noisy = model(0)
  return Source(
    name=table,
    model=context.model,
    pretrained={key: pretrained[key] for key in ('blocks', 'final')},
    examples=Encoded(
      data.train.ids[chosen], data.train.length[chosen], data.train.buckets
    ),
    label_names=data.label_names,
    subjects=(
      Subject(
        seed=0,
        noisy=noisy,
        clean=model(1),
        frozen=model(2),
        memorised=noisy,
        snapshots={epoch: noisy for epoch in epochs},
        given=data.labels[label_set][chosen],
        original=data.labels[0][chosen],
      ),
    ),
    dropout=context.dropout,
    weight_decay=context.config.train.weight_decay,
    warmup=context.config.train.warmup,
    clip_norm=context.config.train.clip_norm,
    optimiser=context.config.train.optimiser,
    moments=context.config.engine.moments,
    batch_size=context.config.localise.batch_size,
    engine=dataclasses.replace(
      study.engine,
      on_start=lambda start: None,
      on_epoch=lambda event: None,
      checkpoint_seconds=math.inf,
      profile=None,
    ),
    snapshots=epochs,
  )


def lines(times: list[Times]) -> list[str]:
  """The plan's lines on how long localisation takes, at least one time."""
  head = f'{"localisation":12} {"examples":>8} {"seconds":>8} {"minutes":>8}'
  return [
    '',
    head,
    *(
      f'{one.name:12} {one.examples:8,} {one.run:8.1f} {one.seconds / 60:8.1f}'
      for one in times
    ),
    'seconds: measured on one model and so many examples, without compiling; '
    'minutes: in proportion for all models and examples, with compiling.',
  ]
