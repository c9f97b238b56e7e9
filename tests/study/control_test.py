"""The control setup: who learns what, in the table and in a whole study."""

import pathlib
import tempfile
import types

import numpy as np
import pandas as pd
import pytest
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.study import config as study_config
from memloc_jax.study import control
from tests.study import tiny


def _study(layers=6, noise=0.15, draws=1, **settings):
  """As much of a study as `setups` looks at."""
  settings = {'seeds': (3, 5)} | settings
  return types.SimpleNamespace(
    config=study_config.StudyConfig(
      task=study_config.DataConfig(noise=noise, noise_draws=draws),
      control=study_config.ControlConfig(**settings),
    ),
    model=types.SimpleNamespace(num_layers=layers),
    noisy_set=noise > 0,
  )


class SetupsTest(parameterized.TestCase):
  @parameterized.parameters(
    (2, ['1+2']),
    (3, ['1+2', '2+3']),
    (4, ['1+2', '2+3', '3+4']),
    (6, ['1+2', '3+4', '5+6']),
  )
  def test_default_pairs_are_lowest_middle_and_highest(self, layers, names):
    found = control.setups(_study(layers))
    self.assertEqual([setup.name for setup in found], names)
    for setup in found:
      planted = [int(n) - 1 for n in setup.name.split('+')]
      np.testing.assert_array_equal(
        setup.rates, np.isin(np.arange(layers), planted)
      )
      np.testing.assert_array_equal(setup.layers, planted)

  def test_kinds_and_their_seeds(self):
    study = _study(4, pairs=((2, 1), (1, 4)), graded_seeds=(9,))
    found = {(s.kind, s.name): s for s in control.setups(study)}
    self.assertEqual(
      list(found),
      [('pair', '1+2'), ('pair', '1+4')]
      + [('graded', 'rising'), ('graded', 'falling')],
    )
    rising = found['graded', 'rising']
    np.testing.assert_allclose(rising.rates, [1 / 27, 1 / 9, 1 / 3, 1])
    self.assertEqual(rising.seeds, (9,))
    self.assertEqual(found['pair', '1+4'].seeds, (3, 5))

  def test_none_without_seeds(self):
    self.assertEmpty(control.setups(_study(seeds=())))

  @parameterized.parameters((0, 1), (6, 7), ())
  def test_refuses_layers_out_of_range(self, *pair):
    with self.assertRaisesRegex(InputError, '--config.control.pairs: '):
      control.setups(_study(6, pairs=(pair,)))

  @parameterized.parameters((((1, 2), (2, 1)),), (((3, 3),),))
  def test_refuses_layers_that_are_there_twice(self, pairs):
    with self.assertRaisesRegex(
      InputError, r'^--config.control.pairs: layers \(.*\) are there twice'
    ):
      control.setups(_study(6, pairs=pairs))

  def test_refuses_a_task_without_noise(self):
    with self.assertRaisesRegex(InputError, 'noise=0: .* needs wrong labels'):
      control.setups(_study(noise=0.0))

  def test_seeds_take_noise_draws_in_turn(self):
    study = _study(draws=2, seeds=(7, 3, 5), graded_seeds=(3, 1))
    found = [control.label_set(study, seed) for seed in (7, 3, 5, 1)]
    self.assertEqual(found, [1, 2, 1, 2])


@pytest.mark.full
class StudyTest(absltest.TestCase):
  """A whole study whose only models are controls."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    values = tiny.config(
      tiny.write_encoder(folder),
      folder,
      train__seeds=(),
      train__snapshots=(),
      map__num_runs=0,
      control__seeds=(4,),
      control__pairs=((2,), (1, 2)),
      control__graded_seeds=(4,),
      control__learning_rate=1e-2,
      control__auxiliary_rate=1e-3,
      localise__techniques=('swapping', 'difference_norm', 'constant'),
    )
    cls.workdir = tiny.run(values, folder / 'workdir')

  def read(self, name):
    return pd.read_parquet(self.workdir / f'{name}.parquet')

  def test_runs_of_a_seed(self):
    runs = self.read('runs')
    self.assertEqual(set(runs['table']), {'control'})
    self.assertEqual(set(runs['seed']), {4})
    names = ('2', '1+2', 'rising', 'falling')
    wanted = {'frozen auxiliary'} | {
      f'{kind} {name}' for kind in ('noisy', 'clean') for name in names
    }
    self.assertCountEqual(runs['purpose'], wanted)
    clean = runs['purpose'].str.startswith('clean')
    np.testing.assert_array_equal(runs['label_set'], np.where(clean, 0, 1))

  def test_labels_reach_the_planted_layer_only(self):
    """Noisy and clean twins differ where the main task's gradient goes.

    The auxiliary task trains the other layers of both alike, but for what
    reaches them through the planted layer's weights.
    """
    layers = self.read('layers')
    norms = layers[layers['technique'] == 'difference_norm']
    of_one = norms[norms['source'] == '2'].set_index('layer')['weight']
    self.assertGreater(of_one[2], 0.8)

  def test_tables(self):
    found = self.read('control')
    self.assertCountEqual(
      found['technique'].unique(), ['swapping', 'difference_norm', 'constant']
    )
    of_one = found[found['layers'] == '2'].set_index('technique')
    self.assertEqual(of_one.loc['difference_norm', 'top1_in_pair'], 1)
    self.assertEqual(of_one.loc['difference_norm', 'top2_in_pair'], 0.5)
    # Of two layers both are always in the pair.
    both = found[found['layers'] == '1+2']
    self.assertTrue((both['top1_in_pair'] == 1).all())
    graded = found[found['setup'] == 'graded']
    self.assertTrue(graded['top1_in_pair'].isna().all())
    self.assertTrue(graded['rank_correlation'].round(9).isin([-1, 0, 1]).all())
    summary = self.read('control_summary').set_index(['technique', 'setup'])
    # One of two layers in one source, both in the other.
    self.assertEqual(summary.loc[('swapping', 'pair'), 'chance'], 0.75)
    self.assertTrue(summary.loc[('constant', 'pair'), 'baseline'])

  def test_report_is_about_controls(self):
    page = (self.workdir / 'report.html').read_text('utf-8')
    self.assertIn('Do techniques find planted memorisation?', page)
    self.assertNotIn('id="layers"', page)


if __name__ == '__main__':
  absltest.main()
