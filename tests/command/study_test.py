"""Which actions take signals, and what is said of devices."""

import unittest.mock

from absl import flags
from absl.testing import absltest, flagsaver, parameterized

from memloc_jax.command import study
from memloc_jax.errors import InputError


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


class DevicesTest(parameterized.TestCase):
  @parameterized.parameters(
    (
      RuntimeError("Unable to initialize backend 'x'\nmore"),
      "initialize .*'x'",
    ),
    (AssertionError(), 'it is not installed'),
  )
  def test_devices_that_are_not_there(self, error, why):
    with (
      unittest.mock.patch.object(study.jax, 'devices', side_effect=error),
      unittest.mock.patch.dict('os.environ', {'JAX_PLATFORMS': 'x'}),
      self.assertRaisesRegex(InputError, f'^JAX_PLATFORMS=x: .*{why}') as found,
    ):
      study._devices()
    self.assertNotIn('\n', str(found.exception))


if __name__ == '__main__':
  absltest.main()
