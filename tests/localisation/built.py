"""Small random models and the source that techniques look at."""

import jax
import numpy as np

from memloc_jax.localisation import technique
from memloc_jax.models import bert, interface
from memloc_jax.tasks.encode import Encoded

MODEL = bert.Bert(
  num_layers=3,
  width=16,
  num_heads=2,
  hidden=24,
  vocab_size=40,
  max_positions=16,
  initial_scale=0.6,
)
CLASSES = 3


@jax.jit
def _init(key):
  head = MODEL.init_head(key, CLASSES)
  return MODEL.init(key) | {'heads': {'main': head}}


def params(seed: int):
  """Weights large enough that every layer matters to what is predicted."""
  return jax.device_get(_init(jax.random.key(seed)))


def with_layer(params, other, layer):
  """`params` with one layer of `other`."""
  replace = lambda x, y: np.concatenate(
    [x[:layer], y[layer : layer + 1], x[layer + 1 :]]
  )
  blocks = jax.tree.map(replace, params['blocks'], other['blocks'])
  return params | {'blocks': blocks}


def random_examples(count=24, seed=0):
  rng = np.random.default_rng(seed)
  length = rng.integers(3, 11, count).astype(np.int32)
  ids = rng.integers(1, 40, (count, 10)).astype(np.int32)
  ids[np.arange(10) >= length[:, None]] = 0
  return Encoded(ids, length, (6, 10))


@jax.jit
def _logits(params, tokens):
  return interface.forward(MODEL, params, tokens).logits


def forward(params, examples):
  tokens = interface.Tokens(examples.ids, examples.length)
  return np.asarray(_logits(params, tokens))


def source(noisy, clean, pretrained, frozen, snapshots=()):
  """One subject that predicts the given labels of its eight noisy examples."""
  examples = random_examples()
  given = (np.arange(len(examples)) % CLASSES).astype(np.int32)
  given[:8] = forward(noisy, examples)[:8].argmax(-1)
  original = given.copy()
  original[:8] = (given[:8] + 1) % CLASSES
  checkpoint = lambda name, params: technique.Checkpoint(
    name, lambda: dict(params)
  )
  subject = technique.Subject(
    seed=1,
    noisy=checkpoint('noisy', noisy),
    clean=checkpoint('clean', clean),
    frozen=checkpoint('frozen', frozen),
    memorised=checkpoint('noisy', noisy),
    snapshots={
      epoch: checkpoint(f'epoch {epoch}', params) for epoch, params in snapshots
    },
    given=given,
    original=original,
  )
  return technique.Source(
    name='main',
    model=MODEL,
    pretrained={k: pretrained[k] for k in ('blocks', 'final')},
    examples=examples,
    label_names=('a', 'b', 'c'),
    subjects=(subject,),
    dropout=0.0,
    weight_decay=0.01,
    warmup=0.1,
    clip_norm=1.0,
    optimiser='adamw',
    moments='float32',
    engine=None,
  )


def errors_of_single_layers(findings, variant):
  """Error on noisy labels under each window of one layer, [layer]."""
  rows = [
    row
    for row in findings.tables['windows']
    if row['variant'] == variant and row['first'] == row['last']
  ]
  assert [row['first'] for row in rows] == [1, 2, 3]
  return np.array([1 - row['noisy_accuracy'] for row in rows])
