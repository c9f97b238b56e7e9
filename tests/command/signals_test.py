"""SIGTERM is for work that can save; everything else ends by it."""

import signal
import unittest.mock

from absl import flags
from absl.testing import absltest, flagsaver, parameterized

from memloc_jax.command import study
from memloc_jax.study.signals import Termination


class TerminationTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    before = signal.getsignal(signal.SIGTERM)
    self.addCleanup(signal.signal, signal.SIGTERM, before)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

  def test_the_first_is_remembered_and_the_second_ends_the_process(self):
    termination = Termination()
    self.assertEqual(signal.getsignal(signal.SIGTERM), signal.SIG_DFL)
    termination.listen()
    self.assertFalse(termination.asked())
    signal.raise_signal(signal.SIGTERM)
    self.assertTrue(termination.asked())
    self.assertEqual(signal.getsignal(signal.SIGTERM), signal.SIG_DFL)


class ActionsTest(parameterized.TestCase):
  @parameterized.parameters(*flags.FLAGS['action'].parser.enum_values)
  def test_only_what_saves_listens(self, action):
    with (
      unittest.mock.patch.object(study, 'Termination') as termination,
      unittest.mock.patch.object(study, '_act') as act,
      unittest.mock.patch.object(study, 'from_config_dict'),
      unittest.mock.patch.object(study.hosts, 'join'),
      flagsaver.flagsaver(),
    ):
      self.addCleanup(flags.FLAGS.unparse_flags)
      study.main(flags.FLAGS(['memloc', f'--action={action}']))
    act.assert_called_once()
    listens = action in ('run', 'extend')
    self.assertEqual(termination.return_value.listen.called, listens)


if __name__ == '__main__':
  absltest.main()
