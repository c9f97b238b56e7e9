"""Classifiers from elsewhere, for studies that are given them."""

import json

import jax
import numpy as np

from memloc_jax.models import checkpoint, interface
from memloc_jax.study.context import Context
from memloc_jax.study.progress import Progress
from memloc_jax.study.runs import Runs
from memloc_jax.study.workdir import Workdir
from tests.ensemble import toy
from tests.study import tiny


class GivenCase(tiny.EncoderCase):
  """Has `data`, `label_names` and `model` of the tiny study."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    study = cls.study()
    cls.data, cls.model = study.context.data, study.context.model
    cls.label_names = study.context.data.label_names

  @classmethod
  def config(cls, **changes):
    values = {'map__num_runs': 0, 'train__snapshots': ()} | changes
    return tiny.config(cls.encoder, cls.folder, **values)

  @classmethod
  def study(cls, **changes):
    """A study that nothing is done with."""
    where = Workdir(cls.folder / 'nowhere')
    return Runs(Context(cls.config(**changes), where, Progress()))

  @classmethod
  def params(cls, seed, pooled=False):
    """A classifier, in every part unlike the study's encoder."""
    classes = len(cls.label_names)
    init = lambda: cls.model.init_head(jax.random.key(0), classes)
    head = jax.eval_shape(init)
    if pooled:
      width = cls.model.width
      init = lambda: cls.model.init_head(jax.random.key(0), width)
      head |= {'pooler': jax.eval_shape(init)}
    shapes = jax.eval_shape(lambda: cls.model.init(jax.random.key(0)))
    return toy.random_like(shapes | {'heads': {'main': head}}, seed, scale=0.4)

  @classmethod
  def write(cls, name, params, label_names=None):
    """Writes a classifier; returns its folder as the setting takes it."""
    folder = cls.folder / name
    names = cls.label_names if label_names is None else label_names
    checkpoint.export(folder, cls.model, params, cls.encoder, names)
    return str(folder)

  def predicted(self, params):
    """Logits of all training examples."""
    tokens = interface.Tokens(self.data.train.ids, self.data.train.length)
    return np.asarray(interface.forward(self.model, params, tokens).logits)


def change_config(folder, **changes):
  """Sets fields of `config.json`; None leaves them out."""
  path = f'{folder}/config.json'
  with open(path, encoding='utf-8') as file:
    content = json.load(file)
  content |= changes
  with open(path, 'w', encoding='utf-8') as file:
    json.dump({k: v for k, v in content.items() if v is not None}, file)
