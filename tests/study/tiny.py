"""A study small enough for a test: random encoder, embedded task."""

import functools
import json
import pathlib
import tempfile

import jax
import numpy as np
from absl.testing import parameterized
from rich.console import Console

from memloc_jax.localisation.all import TECHNIQUES
from memloc_jax.models import checkpoint
from memloc_jax.models.bert import Bert
from memloc_jax.stages import run_study
from memloc_jax.study import config as study_config
from memloc_jax.study.progress import Progress
from memloc_jax.tasks import embedded
from tests.ensemble import toy
from tests.models import small

TABLES = (
  'examples',
  'runs',
  'history',
  'windows',
  'layers',
  'mcog',
  'mcog_summary',
  'detection',
  'correlations',
  'centroids',
  'events',
  'heads',
  'accounting',
)


class EncoderCase(parameterized.TestCase):
  """Tests with a `folder` that lasts as long as the class, and an `encoder`.

  What is compiled is neither optimised nor compiled twice, as in `toy`.
  """

  _cache = toy.temporary_folder()

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.enterClassContext(toy.quick_compilation(str(cls._cache)))
    cls.folder = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.encoder = write_encoder(cls.folder)


def write_encoder(folder: pathlib.Path) -> pathlib.Path:
  """A random two-layer encoder with the embedded task's tokenizer."""
  tokenizer = folder / 'tokenizer'
  embedded.write_tokenizer(tokenizer)
  vocabulary = (tokenizer / 'vocab.txt').read_text('utf-8').split()
  model = Bert(
    num_layers=2,
    width=16,
    num_heads=2,
    hidden=32,
    vocab_size=len(vocabulary),
    max_positions=32,
  )
  params = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
  checkpoint.export(folder / 'encoder', model, params, tokenizer, ())
  return folder / 'encoder'


def write_model(folder: pathlib.Path, family: str) -> pathlib.Path:
  """A random model of the family with the embedded task's tokenizer."""
  tokenizer = folder / 'tokenizer'
  embedded.write_tokenizer(tokenizer)
  file = tokenizer / 'tokenizer_config.json'
  # Some families pad with the token that ends a text.
  config = json.loads(file.read_text('utf-8')) | {'eos_token': '[SEP]'}
  file.write_text(json.dumps(config), 'utf-8')
  vocabulary = (tokenizer / 'vocab.txt').read_text('utf-8').split()
  changes = {'vocab_size': len(vocabulary), 'initial_scale': 0.3}
  if family == 'roberta':
    changes['pad_id'] = vocabulary.index('[PAD]')
  model = small.model(family, **changes)
  params = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
  checkpoint.export(folder / 'model', model, params, tokenizer, ())
  return folder / 'model'


def config(encoder: pathlib.Path, folder: pathlib.Path, **changes):
  """A study's configuration.

  Args:
    encoder: from `write_encoder`.
    folder: for caches.
    **changes: values by dotted name, with '__' for '.'.

  Returns:
    A StudyConfig.
  """
  values = study_config.default()
  values.task.name = 'embedded'
  values.task.source = 'embedded:train=80,pool=20'
  values.task.noise = 0.15
  values.model.source = str(encoder)
  values.engine.cache = str(folder / 'cache')
  values.train.seeds = (1,)
  values.train.num_epochs = 2
  values.train.learning_rate = 1e-3
  values.train.batch_size = 8
  values.map.num_runs = 4
  values.map.num_epochs = 2
  values.map.learning_rate = 1e-3
  values.map.evaluate_every = 2
  values.map.log_epochs = False
  values.train.snapshots = (1,)
  # Ten noisy examples are too few for the splits of probing.
  values.localise.techniques = tuple(t for t in TECHNIQUES if t != 'probing')
  values.localise.retrain.num_epochs = 1
  values.localise.retrain.learning_rate = 3e-5
  values.localise.ablation.variants = ('skip', 'mlp-mean')
  values.control.num_epochs = 2
  values.control.auxiliary = 'embedded_agreement'
  values.control.auxiliary_source = 'embedded:train=24,pool=4'
  values.engine.unroll = 'never'
  for name, value in changes.items():
    *groups, field = name.split('__')
    setattr(functools.reduce(getattr, groups, values), field, value)
  return study_config.from_config_dict(values)


def run(values, workdir: pathlib.Path) -> pathlib.Path:
  """Runs a study without saying anything."""
  with open('/dev/null', 'w', encoding='utf-8') as nowhere:
    return run_study(values, workdir, Progress(Console(file=nowhere)))


def files(folder: pathlib.Path) -> dict[str, tuple[int, int]]:
  """Size and time of last change of every file, by name."""
  return {
    str(path.relative_to(folder)): (
      path.stat().st_size,
      path.stat().st_mtime_ns,
    )
    for path in folder.rglob('*')
    if path.is_file()
  }


def same_arrays(first: np.ndarray, second: np.ndarray) -> bool:
  """Equal, with NaNs equal to NaNs."""
  return np.array_equal(first, second, equal_nan=first.dtype.kind == 'f')
