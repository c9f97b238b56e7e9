"""What techniques say that they compute, against what they do compute."""

import dataclasses

import jax
import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.localisation import retraining, scores
from memloc_jax.localisation.ablation import AblationConfig
from memloc_jax.localisation.all import TECHNIQUES
from memloc_jax.localisation.probes import ProbeConfig
from memloc_jax.localisation.retraining import RetrainConfig
from memloc_jax.models import bert
from tests.localisation import built

_LAYERS, _EXAMPLES, _NOISY = built.MODEL.num_layers, 24, 8
_PASSES = []


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Counting(bert.Bert):
  """Notes how many examples go through a block, whenever they do."""

  def block(self, block, constants, h, mask, dropout, edits):
    size = len(h)
    jax.debug.callback(lambda _: _PASSES.append(size), h[0, 0, 0])
    return super().block(block, constants, h, mask, dropout, edits)


def _counted(name, source, config):
  """Passes of one example through one block that a technique makes."""
  _PASSES.clear()
  TECHNIQUES[name].run(source, config, lambda share: None)
  jax.effects_barrier()
  return sum(_PASSES)


def _sizes(subjects=1, examples=_EXAMPLES, snapshots=1):
  wrong = np.arange(examples) < examples * _NOISY // _EXAMPLES
  return scores.Sizes(
    _LAYERS,
    built.MODEL.num_heads,
    np.stack([wrong] * subjects),
    snapshots,
  )


class WorkTest(parameterized.TestCase):
  @parameterized.parameters(
    'swapping', 'rewinding', 'gradients', 'accounting', 'centroids', 'probing'
  )
  def test_is_what_runs(self, name):
    # Batches are full, so that none of it is padding.
    source = dataclasses.replace(self.source(), batch_size=4)
    config = ProbeConfig(seeds=1, num_epochs=27) if name == 'probing' else None
    found = TECHNIQUES[name].work(config, _sizes())
    self.assertEqual(_counted(name, source, config), sum(found))
    backward = name in ('gradients', 'accounting')
    self.assertEqual(found.trained > 0, backward)

  @parameterized.parameters(False, True)
  def test_of_ablation_is_at_most_what_is_said(self, heads):
    config = AblationConfig(('skip', 'mlp-mean'), heads)
    source = dataclasses.replace(self.source(), batch_size=1)
    found = TECHNIQUES['ablation'].work(config, _sizes()).forward
    counted = _counted('ablation', source, config)
    # Examples of several groups are passed once.
    self.assertBetween(counted, 0.6 * found, found)

  @parameterized.product(programs=(None, 1, 2, 3), epochs=(1, 5))
  def test_of_retraining_is_that_of_its_tables(self, programs, epochs):
    config = RetrainConfig(num_epochs=epochs, programs=programs)
    source = self.source()
    [subject] = source.subjects
    steps = epochs * -(-len(retraining.split(subject.mislabelled, 42)[0]) // 8)
    groups = retraining.groups(_LAYERS, steps, programs)
    noisy = subject.noisy.load()
    trained = forward = 0
    for table in retraining.tables(source, subject, noisy, config, groups):
      first, stop = table.program.layers
      own = len(table.runs) * (stop - first)
      members = table.runs.membership[0].sum() * table.program.num_epochs
      trained += members * own
      forward += members * first + table.predict.sum() * (own + first)
    found = TECHNIQUES['retraining'].work(config, _sizes())
    self.assertEqual(found, (forward, trained))

  @parameterized.parameters(
    name for name, each in TECHNIQUES.items() if not each.baseline
  )
  def test_grows_with_models_and_examples(self, name):
    technique = TECHNIQUES[name]
    config = technique.settings and technique.settings()
    if name == 'retraining':
      config = RetrainConfig(programs=1)
    count = lambda **sizes: np.array(technique.work(config, _sizes(**sizes)))
    once = count()
    self.assertGreater(once.sum(), 0)
    np.testing.assert_allclose(count(subjects=3), 3 * once)
    np.testing.assert_allclose(count(examples=2 * _EXAMPLES), 2 * once)

  def source(self):
    """The hand-built source with texts of one length and another epoch."""
    params, other = built.params(0), built.params(1)
    source = built.source(params, other, other, other, [(1, other)])
    sizes = {
      field.name: getattr(source.model, field.name)
      for field in dataclasses.fields(source.model)
    }
    examples = dataclasses.replace(
      source.examples, length=np.full(_EXAMPLES, 10, np.int32)
    )
    return dataclasses.replace(
      source, model=_Counting(**sizes), examples=examples
    )


if __name__ == '__main__':
  absltest.main()
