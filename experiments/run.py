"""Runs one study, on whatever devices there are.

python experiments/run.py --config=experiments/configs/quickstart.py \
  --workdir=workdirs/quickstart

Any setting of the config file can be overridden by name, as in
--config.train.num_epochs=3.
"""

import os
import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from memloc_jax.errors import InputError
from memloc_jax.report import stage as _  # noqa: F401  registers all stages
from memloc_jax.study.config import from_config_dict
from memloc_jax.study.stages import run_study

_CONFIG = config_flags.DEFINE_config_file(
  'config', help_string='The study: a file under experiments/configs/.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the results; a finished part is not run again.'
)
_ACTION = flags.DEFINE_enum('action', 'run', ['run'], 'What to do.')


def main(argv: list[str]) -> None:
  """Checks the flags and runs the study."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)  # Libraries say much at INFO.
  os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
  try:
    config = from_config_dict(_CONFIG.value)
    devices = jax.local_devices()
    print(f'devices: {len(devices)} x {devices[0].device_kind}')
    workdir = run_study(config, _WORKDIR.value)
  except InputError as error:
    print(f'memloc: {error}', file=sys.stderr)
    sys.exit(2)
  print(f'report: {(workdir / "report.html").resolve()}')


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main)
