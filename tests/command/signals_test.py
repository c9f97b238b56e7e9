"""Signals are for work that can save; everything else ends by them."""

import unittest.mock

from absl import flags
from absl.testing import absltest, flagsaver, parameterized

from memloc_jax.command import study


class ActionsTest(parameterized.TestCase):
  @parameterized.parameters(*flags.FLAGS['action'].parser.enum_values)
  def test_only_what_saves_listens(self, action):
    process = unittest.mock.Mock()
    with (
      unittest.mock.patch.object(study, '_act') as act,
      unittest.mock.patch.object(study, 'from_config_dict'),
      unittest.mock.patch.object(study.hosts, 'join'),
      flagsaver.flagsaver(),
    ):
      self.addCleanup(flags.FLAGS.unparse_flags)
      study.main(process, flags.FLAGS(['memloc', f'--action={action}']))
    act.assert_called_once()
    listens = action in ('run', 'extend')
    self.assertEqual(process.listen.called, listens)


if __name__ == '__main__':
  absltest.main()
