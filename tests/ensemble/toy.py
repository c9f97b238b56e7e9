"""A model, data and tables small enough to train in a test."""

import atexit
import contextlib
import dataclasses
import pathlib
import shutil
import tempfile

import jax
import numpy as np
from absl.testing import parameterized
from jax.experimental.compilation_cache import compilation_cache

from memloc_jax.ensemble import membership
from memloc_jax.ensemble import table as table_lib
from memloc_jax.ensemble.engine import Engine
from memloc_jax.ensemble.store import RowStore
from memloc_jax.ensemble.table import Objective, Program
from memloc_jax.ensemble.train import train
from memloc_jax.models import bert
from memloc_jax.tasks.encode import Encoded

MODEL = bert.Bert(
  num_layers=2,
  width=16,
  num_heads=2,
  hidden=24,
  vocab_size=40,
  max_positions=16,
  initial_scale=0.3,
)
NUM_CLASSES = 3
NUM_EXAMPLES = 40
BUCKETS = (8, 12)
PROGRAM = Program(
  (Objective('main', NUM_CLASSES),),
  num_epochs=4,
  batch_size=4,
  evaluate_every=0,
)


def temporary_folder() -> pathlib.Path:
  """A folder that lasts as long as the process."""
  folder = tempfile.mkdtemp()
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  return pathlib.Path(folder)


class TestCase(parameterized.TestCase):
  """Compiles each program of the test process once and without much effort.

  Every table compiles its own programs. Here equal ones come from a cache in
  a temporary folder, and LLVM's optimisations, which are most of the time and
  none of what is tested, are off.
  """

  _cache = temporary_folder()

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.enterClassContext(quick_compilation(str(cls._cache)))

  def folder(self) -> pathlib.Path:
    return pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))


@contextlib.contextmanager
def quick_compilation(cache: str):
  settings = {
    'jax_enable_compilation_cache': True,
    'jax_compilation_cache_dir': cache,
    'jax_persistent_cache_min_compile_time_secs': 0,
    'jax_persistent_cache_min_entry_size_bytes': -1,
    'jax_disable_most_optimizations': True,
  }
  before = {name: jax.config.values[name] for name in settings}
  for name, value in settings.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  try:
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()


def random_like(shapes, seed=0, scale=0.3):
  """Normal weights of these shapes, drawn without compiling anything."""
  rng = np.random.default_rng(seed)
  draw = lambda x: rng.normal(0, scale, x.shape).astype(np.float32)
  return jax.tree.map(draw, shapes)


def pretrained(seed=0):
  """Embeddings, blocks and final, as a checkpoint has them."""
  shapes = jax.eval_shape(lambda: MODEL.init(jax.random.key(0)))
  return random_like(shapes, seed)


def examples(count=NUM_EXAMPLES, seed=0) -> Encoded:
  """Random tokens under random labels, two label sets."""
  rng = np.random.default_rng(seed)
  longest = BUCKETS[-1]
  length = rng.integers(3, longest + 1, count).astype(np.int32)
  ids = rng.integers(1, MODEL.vocab_size, (count, longest)).astype(np.int32)
  ids[np.arange(longest) >= length[:, None]] = 0
  labels = rng.integers(0, NUM_CLASSES, (2, count)).astype(np.int32)
  return Encoded(ids, length, BUCKETS, labels)


def runs(count=6, *, learning_rate=1e-4, **changes) -> table_lib.RunTable:
  """Runs on random halves, labels from either set."""
  table = table_lib.make_table(
    membership.balanced(count, NUM_EXAMPLES, 0.5, 0),
    num_layers=MODEL.num_layers,
    seed=np.arange(count) + 10,
    purpose=['map'] * count,
    learning_rate=learning_rate,
    label_set=np.arange(count) % 2,
  )
  return dataclasses.replace(table, **changes)


def table(table_runs=None, **changes) -> table_lib.TrainingTable:
  """A table over `examples()`; seven held out, no weights kept."""
  table_runs = runs() if table_runs is None else table_runs
  values = {
    'name': 'map',
    'program': PROGRAM,
    'runs': table_runs,
    'examples': (examples(),),
    'validation': examples(count=7, seed=3),
    'keep': np.zeros(len(table_runs), bool),
    'seed': 5,
  }
  return table_lib.TrainingTable(**values | changes)


def engine(folder, **changes) -> Engine:
  """An engine on the first device; four lanes, scanned layers."""
  values = {
    'model': MODEL,
    'pretrained': pretrained(),
    'fingerprint': 'toy',
    'store': RowStore(folder),
    'devices': tuple(jax.devices()[:1]),
    'lanes': 4,
    'unroll': False,
  }
  return Engine(**values | changes)


def records(toy_engine, toy_table):
  """Trains the table and reads every record."""
  hashes = train(toy_engine, toy_table)
  read = toy_engine.store.read
  return [read(toy_table.name, row, hash) for row, hash in enumerate(hashes)]


def logits(toy_engine, toy_table):
  """Trains the table; logits of all its runs, [runs, n, classes]."""
  return np.stack([x.logits for x in records(toy_engine, toy_table)])
