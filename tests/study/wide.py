"""Pairs of classifiers that fit their labels, from an encoder that is wide."""

import json

import jax
import numpy as np
import pandas as pd
from rich.console import Console

from memloc_jax.models import checkpoint, interface
from memloc_jax.stages import run_study
from memloc_jax.study.context import Context
from memloc_jax.study.progress import Progress
from memloc_jax.study.runs import Runs
from memloc_jax.study.workdir import Workdir
from memloc_jax.tasks import embedded
from tests.ensemble import toy
from tests.models import small
from tests.study import tiny


class WideCase(tiny.EncoderCase):
  """An encoder so wide that a last layer can fit any labels."""

  FAMILY = 'bert'

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    tokenizer = cls.folder / 'wide_tokenizer'
    embedded.write_tokenizer(tokenizer)
    file = tokenizer / 'tokenizer_config.json'
    # Some families pad with the token that ends a text.
    settings = json.loads(file.read_text('utf-8')) | {'eos_token': '[SEP]'}
    file.write_text(json.dumps(settings), 'utf-8')
    vocabulary = (tokenizer / 'vocab.txt').read_text('utf-8').split()
    changes = {'width': 96, 'vocab_size': len(vocabulary)}
    if cls.FAMILY == 'roberta':
      changes['pad_id'] = vocabulary.index('[PAD]')
    cls.model = small.model(cls.FAMILY, **changes)
    cls.encoder = cls.folder / 'wide'
    shapes = jax.eval_shape(lambda: cls.model.init(jax.random.key(0)))
    checkpoint.export(
      cls.encoder, cls.model, toy.random_like(shapes, 9, 0.5), tokenizer, ()
    )
    cls.data = cls.study().context.data

  @classmethod
  def config(cls, **changes):
    values = {
      'map__num_runs': 0,
      'train__snapshots': (),
      'localise__techniques': ('swapping', 'gradients', 'difference_norm'),
    } | changes
    return tiny.config(cls.encoder, cls.folder, **values)

  @classmethod
  def study(cls, **changes):
    where = Workdir(cls.folder / 'nowhere')
    return Runs(Context(cls.config(**changes), where, Progress()))

  @classmethod
  def tables(cls, **changes):
    """For which read-outs must be known."""
    return cls.study(**changes).tables

  @classmethod
  def fitted(cls, seed, labels, dense):
    """A model whose last layer fits labels behind a dense layer, or without.

    Args:
      seed: of all other weights.
      labels: [n].
      dense: whether what it fits is behind the dense layer.

    Returns:
      Parameters, and a dense layer whether it is used or not.
    """
    model, examples = cls.model, cls.data.train
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    params = toy.random_like(shapes, seed, 0.5)
    init = lambda: model.init_head(jax.random.key(0), model.width)
    layer = toy.random_like(jax.eval_shape(init), seed + 50, 0.2)
    tokens = interface.Tokens(examples.ids, examples.length)
    h = interface.encode(model, params, tokens, None)
    x = np.asarray(model.read_out(h, tokens))
    if dense:
      x = np.asarray(model.pool(x @ layer['kernel'] + layer['bias']))
    x = np.concatenate([x, np.ones((len(x), 1))], 1).astype(np.float64)
    wanted = 4.0 * np.eye(len(cls.data.label_names))[labels]
    solved, *_ = np.linalg.lstsq(x, wanted, rcond=1e-5)
    solved = solved.astype(np.float32)
    head = {'kernel': solved[:-1], 'bias': solved[-1]}
    return params | {'heads': {'main': head}}, layer

  @classmethod
  def write(cls, name, params, layer=None):
    """Writes a classifier; a dense layer is stored with it.

    Returns:
      The folder.
    """
    folder = cls.folder / name
    head = params['heads']['main']
    if layer is not None:
      head = head | {'pooler': layer}
    params = params | {'heads': {'main': head}}
    checkpoint.export(
      folder, cls.model, params, cls.encoder, cls.data.label_names
    )
    return str(folder)

  @classmethod
  def pair(cls, name, dense, stored=True):
    """Folders of a noisy and a clean model, as settings take them."""
    found = {}
    for seed, role in enumerate(('noisy', 'clean')):
      labels = cls.data.labels[int(role == 'noisy')]
      params, layer = cls.fitted(seed, labels, dense)
      folder = cls.write(f'{name}_{role}', params, layer if stored else None)
      found[f'model__{role}'] = (folder,)
    return found

  def logits(self, params):
    """Of all training examples."""
    tokens = interface.Tokens(self.data.train.ids, self.data.train.length)
    return np.asarray(interface.forward(self.model, params, tokens).logits)

  def macro_f1(self, workdir):
    runs = pd.read_parquet(workdir / 'runs.parquet').set_index('purpose')
    return runs['train_macro_f1']

  def same_tables(self, first, second):
    """Every table of localisation, column by column."""
    names = sorted(path.name for path in first.glob('*.parquet'))
    self.assertEqual(
      names, sorted(path.name for path in second.glob('*.parquet'))
    )
    self.assertIn('layers.parquet', names)
    for name in names:
      one, other = (pd.read_parquet(x / name) for x in (first, second))
      self.assertEqual(list(one.columns), list(other.columns))
      for column in one.columns:
        if column != 'config_hash':
          pd.testing.assert_series_equal(one[column], other[column])


def run_noted(values, workdir, output):
  """Runs a study and notes what it says."""
  progress = Progress(Console(file=output))
  return run_study(values, workdir, progress, stages=('localise',))
