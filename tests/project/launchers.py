"""The launchers, run apart from what they call, and what they would start."""

import os
import pathlib
import re
import shlex
import subprocess
import tempfile

import yaml
from absl.testing import absltest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOCAL = str(ROOT / 'launch/local.sh')
SLURM = str(ROOT / 'launch/slurm.sbatch')
TPU = str(ROOT / 'launch/tpu_pod.sh')
JOBSET = str(ROOT / 'launch/jobset.sh')
SCRIPTS = (
  'launch/local.sh',
  'launch/slurm.sbatch',
  'launch/tpu_pod.sh',
  'launch/jobset.sh',
  'benchmarks/gpu.sh',
  '.ci/run',
)
FLAGS = (
  '--config=experiments/configs/quickstart.py',
  '--workdir=workdirs/with_no_space',
  '--config.train.num_epochs=3',
  '--config.train.seeds=(1, 2)',
  r'--config.task.source=files:a "b" \c $(D) &',
)
SLICE = (
  '--name=slice',
  '--zone=zone',
  '--project=project',
  '--accelerator_type=v5litepod-16',
  '--runtime_version=v2-alpha-tpuv5-lite',
)
CLUSTER = ('--name=study', '--image=host/image:1', '--claim=claim')


def run(
  *command: str, cwd: pathlib.Path = ROOT, **variables: str
) -> subprocess.CompletedProcess:
  """Runs a command apart from any `make` or Slurm job that runs the tests."""
  environment = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(('MAKE', 'MFLAGS', 'SLURM_'))
    and name not in ('VENV', 'PYTHON')
  }
  return subprocess.run(
    command,
    cwd=cwd,
    env=environment | variables,
    capture_output=True,
    text=True,
    timeout=60,
    check=False,
  )


def temporary(test: absltest.TestCase) -> pathlib.Path:
  """A folder that lasts as long as the test."""
  return pathlib.Path(test.enterContext(tempfile.TemporaryDirectory()))


class Fakes:
  """Executables that record how they are called, and where they come first."""

  def __init__(self, test: absltest.TestCase, **programs: str):
    self.folder = temporary(test)
    for name, program in programs.items():
      path = self.folder / name
      # One argument a line; an empty line ends the call.
      path.write_text(
        '#!/usr/bin/env bash\n'
        f'printf "%s\\n" {name} "$@" "" >> "{self.folder}/calls"\n'
        f'{program}\n'
      )
      path.chmod(0o755)
    self.path = f'{self.folder}:{os.environ["PATH"]}'

  def calls(self, *names: str) -> list[list[str]]:
    """The calls of these programs so far."""
    record = self.folder / 'calls'
    if not record.exists():
      return []
    calls = record.read_text().split('\n\n')[:-1]
    return [
      call.split('\n') for call in calls if call.split('\n', 1)[0] in names
    ]


def lines(result: subprocess.CompletedProcess) -> list[list[str]]:
  """What a dry run printed, as commands."""
  return [shlex.split(line) for line in result.stdout.splitlines()]


def remote(command: list[str]) -> str:
  """What a call of gcloud has run on the hosts; empty if nothing."""
  prefix = '--command='
  return ''.join(
    part.removeprefix(prefix) for part in command if part.startswith(prefix)
  )


def study(command: list[str]) -> list[str]:
  """The entrypoint and its flags, after the interpreter, of a command line."""
  interpreter = command.index('experiments/run.py') - 1
  if not re.fullmatch(r'python[\d.]*', pathlib.Path(command[interpreter]).name):
    raise ValueError(f'{command[interpreter]} is no Python')
  return command[interpreter + 1 :]


def pod(manifest: dict) -> dict:
  (workers,) = manifest['spec']['replicatedJobs']
  return workers['template']['spec']['template']['spec']


def studies(flags: tuple[str, ...]) -> dict[str, list[str]]:
  """What every launcher would start, by its name."""
  away = pathlib.Path('/')
  results = {
    'local': run(LOCAL, '--dry_run', *flags, cwd=away),
    'slurm': run(SLURM, '--dry_run', *flags, cwd=away),
    'tpu': run(TPU, '--dry_run', *SLICE, *flags, cwd=away),
    'jobset': run(JOBSET, '--dry_run', *CLUSTER, *flags, cwd=away),
  }
  for result in results.values():
    if result.returncode:
      raise ValueError(result.stderr)
  (local,) = lines(results['local'])
  (slurm,) = lines(results['slurm'])
  started = [
    shlex.split(remote(command))
    for command in lines(results['tpu'])
    if 'experiments/run.py' in remote(command)
  ]
  (tpu,) = started
  (container,) = pod(yaml.safe_load(results['jobset'].stdout))['containers']
  # Kubernetes reads $$ as $.
  jobset = [part.replace('$$', '$') for part in container['command']]
  return {
    'local': study(local),
    'slurm': study(slurm),
    'tpu': study(tpu),
    'jobset': study(jobset)[:-3],
  }
