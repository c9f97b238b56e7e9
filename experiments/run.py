"""Runs one study, on whatever devices there are.

python experiments/run.py --config=experiments/configs/quickstart.py \
  --workdir=workdirs/quickstart

Any setting of the config file can be overridden by name, as in
--config.train.num_epochs=3. The same command goes on where it was stopped.
Exit status: 0 done, 1 failed, 2 bad input, 75 stopped by SIGTERM and 130 by
Ctrl-C, after saving.
"""

from memloc_jax.command import ending


def main(process: ending.Process) -> None:
  """Imports the package and runs the study, both of which can be stopped."""
  from memloc_jax.command import study

  study.run(process)


if __name__ == '__main__':
  ending.Process().run(main)
