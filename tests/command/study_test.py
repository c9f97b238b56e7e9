"""Which commands take signals, and what is said of devices."""

import contextlib
import unittest.mock

from absl.testing import absltest, parameterized

from memloc_jax import stages
from memloc_jax.command import ending, memloc, parser, study
from memloc_jax.errors import InputError


class SignalsTest(parameterized.TestCase):
  @parameterized.parameters(*memloc.COMMANDS)
  def test_only_what_saves_listens(self, name):
    command = memloc.COMMANDS[name]
    process = unittest.mock.create_autospec(ending.Process, instance=True)
    process.asked.return_value = False
    words = [word for word in command.words if not word.startswith('[')]
    if name == 'check':
      words += ['--text=text', '--label=label']
    call = parser.parse(name, command, process, words)
    with (
      unittest.mock.patch.object(
        study, 'declared', return_value=(None, 'none', ())
      ),
      unittest.mock.patch.object(study, 'stored', side_effect=InputError),
      unittest.mock.patch.object(study.hosts, 'join', side_effect=InputError),
      unittest.mock.patch.object(stages, 'validate_study', return_value=''),
      contextlib.suppress(InputError),
    ):
      command.run(call)
    self.assertTrue(process.loaded.called)
    self.assertEqual(process.listen.called, name in ('run', 'check', 'extend'))


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
      study.devices()
    self.assertNotIn('\n', str(found.exception))


if __name__ == '__main__':
  absltest.main()
