"""One of several processes that train the toy table together.

python tests/ensemble/processes.py FOLDER ROLE [ID NUM PORT]

Writes FOLDER/rows, FOLDER/logits-ID.npy and, for every epoch, how many runs
this process trained, FOLDER/running-ID.npy. ROLE is 'train'; 'alone' for a
single process; 'die' for one that ends by itself after the first segment;
'choose' to train as many runs at once as it chooses by itself.
"""

import os
import pathlib
import sys


def main(folder: str, role: str, *processes: str) -> None:
  """Trains, and saves every run's logits."""
  os.environ.setdefault('JAX_NUM_CPU_DEVICES', '1')
  os.environ['JAX_PLATFORMS'] = 'cpu'
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
  import jax
  import numpy as np

  from memloc_jax.ensemble import hosts
  from memloc_jax.errors import PeerError
  from tests.ensemble import toy

  number = 0
  if processes:
    number, count, port = map(int, processes)
    hosts.join(f'localhost:{port}', count, number, 60.0, heartbeat=10.0)
  path = pathlib.Path(folder)
  cache = str(toy.temporary_folder())
  shared = not (path / 'apart').exists()
  rows = path / 'rows' if shared else path / f'rows-{number}'
  calls, events = [], []

  def stop() -> bool:
    calls.append(None)
    if role == 'die' and len(calls) > 1:
      os._exit(9)
    return False

  with toy.quick_compilation(cache):
    engine = toy.engine(
      rows,
      devices=None,
      lanes=0 if role == 'choose' else 2,
      on_epoch=events.append,
      stop=stop,
      segment_steps=2,
      checkpoint_seconds=0.0,
      shared_folder=shared,
    )
    keep = np.arange(8) % 2 == 0
    table = toy.table(toy.runs(8), keep=keep)
    try:
      logits = toy.logits(engine, table)
    except PeerError as error:
      print(f'memloc: {error}', file=sys.stderr, flush=True)
      os._exit(1)
    kept = [
      engine.store.has_weights(table.name, row, 'final') for row in range(8)
    ]
    if kept != keep.tolist():
      raise AssertionError(f'weights kept of {kept}')
  np.save(path / f'logits-{number}.npy', logits)
  np.save(path / f'running-{number}.npy', [event.running for event in events])
  print(f'{jax.process_index()} of {jax.process_count()} done', flush=True)
  hosts.leave()


if __name__ == '__main__':
  main(*sys.argv[1:])
