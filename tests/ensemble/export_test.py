"""Every program lowers for CPU, CUDA and TPU, so that what a backend lacks
shows on a laptop. Nothing is run there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax import export

from memloc_jax.ensemble.compile import AbstractTable, PlacedTable
from memloc_jax.localisation import (
  gradients,
  probes,
  probing,
  representations,
  swapping,
)
from memloc_jax.models import interface
from tests.ensemble import toy

_PLATFORMS = ('cpu', 'cuda', 'tpu')


def _shapes(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


class ExportTest(toy.TestCase):
  def lowers(self, function, *arguments, **static):
    exported = export.export(function, platforms=_PLATFORMS)(
      *arguments, **static
    )
    self.assertEqual(exported.platforms, _PLATFORMS)
    for name in ('all_reduce', 'all_gather', 'collective_permute'):
      self.assertNotIn(f'stablehlo.{name}', exported.mlir_module())

  @parameterized.parameters(True, False)
  def test_training(self, unroll):
    engine = toy.engine(self.folder(), unroll=unroll)
    ready = AbstractTable(engine, toy.table())
    self.lowers(ready.vectorised.segment, *ready.arguments(4))

  def test_start_and_scoring(self):
    engine = toy.engine(self.folder())
    ready = PlacedTable(engine, toy.table())
    sources = ready.sources(np.arange(4))
    self.lowers(ready.vectorised.init, *_shapes(sources))
    state, segment = ready.arguments(4)
    self.lowers(
      ready.vectorised.predict,
      state.params,
      segment.shared,
      segment.examples[0],
      jax.ShapeDtypeStruct((3,), jnp.int32),
      jax.ShapeDtypeStruct((3, 4, 8), jnp.int32),
    )

  def _models(self):
    params = toy.pretrained()
    head = jax.eval_shape(
      lambda: toy.MODEL.init_head(jax.random.key(0), toy.NUM_CLASSES)
    )
    params['heads'] = {'main': head}
    tokens = interface.Tokens(
      jax.ShapeDtypeStruct((5, 8), jnp.int32),
      jax.ShapeDtypeStruct((5,), jnp.int32),
    )
    return _shapes(params), tokens

  def test_swapping(self):
    params, tokens = self._models()
    self.lowers(
      swapping._predict,
      toy.MODEL,
      params,
      params['blocks'],
      tokens,
    )

  def test_states_and_gradients(self):
    params, tokens = self._models()
    self.lowers(
      representations._states,
      toy.MODEL,
      params,
      tokens,
    )
    self.lowers(
      gradients._add_gradient,
      toy.MODEL,
      gradients.label_logit,
      params,
      tokens,
      jax.ShapeDtypeStruct((5,), jnp.int32),
      jax.ShapeDtypeStruct((5,), bool),
      params['blocks'],
    )

  def test_probing(self):
    config = probes.ProbeConfig(seeds=2, num_epochs=3, first_epoch=2)
    rng = np.random.default_rng(0)
    original = rng.integers(0, 2, 40)
    given = np.where(np.arange(40) % 5, original, 1 - original)
    split = probes.split(40, config.seeds, 4)
    _, targets = probing.targets(given, original, 2, labels=True)
    train = jax.jit(functools.partial(probes._train_all, config))
    self.lowers(
      train,
      jax.ShapeDtypeStruct((3, 40, 8), jnp.float32),
      jax.ShapeDtypeStruct((2,), jnp.uint32),
      _shapes(jax.tree.map(jnp.asarray, split)),
      _shapes(jax.tree.map(jnp.asarray, targets)),
    )


if __name__ == '__main__':
  absltest.main()
