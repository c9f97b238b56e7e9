"""Runs one study, on whatever devices there are: `memloc run` by another name.

python experiments/run.py --config=quickstart --workdir=workdirs/quickstart

Any setting of the config file can be overridden by name, as in
--config.train.num_epochs=3. The same command goes on where it was stopped.
Exit status: 0 done, 1 failed, 2 bad input, 75 stopped by SIGTERM and 130 by
Ctrl-C, after saving. Other commands of memloc can be named first, so that they
can be launched, too: python experiments/run.py extend WORKDIR --add_runs=20
"""

from memloc_jax.command import memloc

if __name__ == '__main__':
  memloc.main(default='run')
