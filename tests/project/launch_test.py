"""The launchers: what they start, and what they do with how it ends."""

import os
import pathlib
import re
import shutil
import subprocess
import time

from absl.testing import absltest, parameterized

from tests.project import launchers


class EntrypointTest(parameterized.TestCase):
  def test_all_start_the_same_study(self):
    started = launchers.studies(launchers.FLAGS)
    for launcher, command in started.items():
      with self.subTest(launcher):
        self.assertEqual(command, ['experiments/run.py', *launchers.FLAGS])

  @parameterized.parameters(launchers.LOCAL, launchers.SLURM)
  def test_dry_run_may_stand_anywhere(self, script):
    before, after = launchers.FLAGS[:2], launchers.FLAGS[2:]
    result = launchers.run(
      script, *before, '--dry_run', *after, cwd=pathlib.Path('/')
    )
    self.assertEqual(result.returncode, 0, result.stderr)
    (command,) = launchers.lines(result)
    self.assertEqual(
      launchers.study(command), ['experiments/run.py', *launchers.FLAGS]
    )

  @parameterized.parameters(launchers.LOCAL, launchers.SLURM)
  def test_other_commands_are_passed_on(self, script):
    words = ['extend', 'workdirs/mine', '--add_runs=30']
    result = launchers.run(script, '--dry_run', *words)
    (command,) = launchers.lines(result)
    self.assertEqual(launchers.study(command), ['experiments/run.py', *words])

  def test_what_is_printed_is_what_runs(self):
    fakes = launchers.Fakes(self, printing='')
    python = str(fakes.folder / 'printing')
    ran = launchers.run(launchers.LOCAL, *launchers.FLAGS, PYTHON=python)
    self.assertEqual(ran.returncode, 0, ran.stderr)
    (call,) = fakes.calls('printing')
    self.assertEqual(call[1:], ['experiments/run.py', *launchers.FLAGS])
    shown = launchers.run(
      launchers.LOCAL, '--dry_run', *launchers.FLAGS, PYTHON=python
    )
    self.assertEqual(launchers.lines(shown), [[python, *call[1:]]])


class ScriptsTest(parameterized.TestCase):
  def test_every_launcher_is_checked(self):
    there = {
      f'launch/{path.name}'
      for path in (launchers.ROOT / 'launch').iterdir()
      if path.suffix != '.yaml'
    }
    self.assertContainsSubset(there, launchers.SCRIPTS)

  @parameterized.parameters(*launchers.SCRIPTS)
  def test_scripts_are_strict_and_executable(self, script):
    path = launchers.ROOT / script
    self.assertTrue(os.access(path, os.X_OK))
    self.assertIn('\nset -euo pipefail\n', path.read_text('utf-8'))
    self.assertEqual(launchers.run('bash', '-n', str(path)).returncode, 0)

  @absltest.skipIf(shutil.which('shellcheck') is None, 'needs shellcheck')
  def test_shellcheck(self):
    result = launchers.run('shellcheck', *launchers.SCRIPTS)
    self.assertEqual(result.returncode, 0, result.stdout)


class SlurmTest(parameterized.TestCase):
  def array(self, *flags: str, element: str = '') -> list[str]:
    element = {'SLURM_ARRAY_TASK_ID': element} if element else {}
    result = launchers.run(launchers.SLURM, '--dry_run', *flags, **element)
    self.assertEqual(result.returncode, 0, result.stderr)
    (command,) = launchers.lines(result)
    return launchers.study(command)[1:]

  def test_array_fills_in_its_number(self):
    self.assertEqual(
      self.array('--workdir=workdirs/%a', '--config.map.seed=%a', element='3'),
      ['--workdir=workdirs/3', '--config.map.seed=3'],
    )

  def test_array_over_the_cells_of_a_grid(self):
    grid = ['--tasks=trec,cola', '--models=a,b', '--workdir=w']
    self.assertEqual(
      self.array(*grid, '--cell=%a', element='3'), [*grid, '--cell=3']
    )

  def test_number_without_an_array_is_refused(self):
    result = launchers.run(launchers.SLURM, '--dry_run', '--cell=%a')
    self.assertEqual(result.returncode, 2)
    self.assertEqual(
      result.stderr, 'slurm.sbatch: %a in --cell=%a needs sbatch --array.\n'
    )

  def test_one_process_a_node_has_all_of_its_gpus(self):
    result = launchers.run(
      launchers.SLURM,
      '--dry_run',
      *launchers.FLAGS,
      SLURM_GPUS_ON_NODE='4',
      SLURM_CPUS_PER_TASK='16',
    )
    (command,) = launchers.lines(result)
    self.assertEqual(command[:2], ['env', 'JAX_LOCAL_DEVICE_IDS=0,1,2,3'])
    self.assertEqual(command[2], 'srun')
    self.assertIn('--ntasks-per-node=1', command)
    self.assertIn('--cpus-per-task=16', command)
    self.assertIn(f'--chdir={launchers.ROOT}', command)

  def job(
    self, status: int, scontrol: str = ''
  ) -> tuple[launchers.Fakes, int, str]:
    """Runs the batch script; `srun` does what it is given to do."""
    skip = 'while [[ "$1" == -* ]]; do shift; done'
    fakes = launchers.Fakes(
      self, srun=f'{skip}\n"$@"', scontrol=scontrol, python=f'exit {status}'
    )
    result = launchers.run(
      launchers.SLURM,
      *launchers.FLAGS,
      PATH=fakes.path,
      PYTHON='python',
      SLURM_JOB_ID='7',
      SLURM_GPUS_ON_NODE='2',
    )
    return fakes, result.returncode, result.stderr

  @parameterized.parameters(0, 1, 2, 75, 143)
  def test_requeued_only_where_the_study_asks_for_it(self, status):
    fakes, returned, errors = self.job(status)
    self.assertEqual(returned, status, errors)
    (python,) = fakes.calls('python')
    self.assertEqual(python[1:], ['experiments/run.py', *launchers.FLAGS])
    self.assertLen(fakes.calls('srun'), 1)
    wanted = [['scontrol', 'requeue', '7']] if status == 75 else []
    self.assertEqual(fakes.calls('scontrol'), wanted)

  def test_what_is_printed_is_what_srun_gets(self):
    fakes, _, _ = self.job(0)
    shown = launchers.run(
      launchers.SLURM,
      '--dry_run',
      *launchers.FLAGS,
      PYTHON='python',
      SLURM_GPUS_ON_NODE='2',
    )
    (command,) = launchers.lines(shown)
    (srun,) = fakes.calls('srun')
    self.assertEqual(command, ['env', 'JAX_LOCAL_DEVICE_IDS=0,1', *srun])

  def test_refused_requeue_is_said(self):
    _, returned, errors = self.job(75, scontrol='exit 1')
    self.assertEqual(returned, 75)
    self.assertIn('not requeued; submit it again', errors)

  def test_shell_outlives_a_signal_of_its_own(self):
    """The shell waits for srun, and still sends the job back."""
    fakes = launchers.Fakes(self, srun='sleep 0.5; exit 75', scontrol='')
    script = subprocess.Popen(
      [launchers.SLURM, *launchers.FLAGS],
      env=os.environ | {'PATH': fakes.path, 'SLURM_JOB_ID': '7'},
      stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while not fakes.calls('srun') and time.monotonic() < deadline:
      time.sleep(0.01)
    script.terminate()
    self.assertEqual(script.wait(timeout=30), 75)
    self.assertLen(fakes.calls('scontrol'), 1)

  def test_submitted_from_elsewhere_is_refused(self):
    elsewhere = launchers.temporary(self)
    result = launchers.run(
      launchers.SLURM, '--dry_run', SLURM_SUBMIT_DIR=str(elsewhere)
    )
    self.assertEqual(result.returncode, 2)
    self.assertIn(f'{elsewhere} is not the repository', result.stderr)

  def test_options_are_read_by_slurm(self):
    """Slurm stops reading its options at the first command."""
    text = pathlib.Path(launchers.SLURM).read_text('utf-8')
    head = re.split(r'\n(?!#)', text, maxsplit=1)[0]
    options = dict(re.findall(r'\n#SBATCH --([a-z-]+)=?(.*)', head))
    self.assertLen(options, text.count('\n#SBATCH '))
    self.assertEqual(options['ntasks-per-node'], '1')
    self.assertIn('gpus-per-node', options)
    self.assertIn('requeue', options)
    # Appended: a requeued job has the same number, so the same log.
    self.assertEqual(options['open-mode'], 'append')
    # No B: before it, so the study is signalled and not the shell.
    self.assertEqual(options['signal'], 'TERM@180')


if __name__ == '__main__':
  absltest.main()
