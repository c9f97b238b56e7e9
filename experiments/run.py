"""Runs one study, on whatever devices there are.

python experiments/run.py --config=experiments/configs/quickstart.py \
  --workdir=workdirs/quickstart

Any setting of the config file can be overridden by name, as in
--config.train.num_epochs=3. The same command goes on where it was stopped.
Exit status: 0 done, 1 failed, 2 bad input, 75 stopped on request (SIGTERM)
after saving.
"""

from memloc_jax.command import study

if __name__ == '__main__':
  study.run()
