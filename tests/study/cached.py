"""Trains the toy table with a compilation cache on disk.

python tests/study/cached.py FOLDER NAME

The cache is in FOLDER/cache. Writes FOLDER/NAME.npy, the logits of all runs,
and FOLDER/NAME.json: runs at once, bytes that the compiled program uses, and
how often each event of JAX's compilation cache happened.
"""

import collections
import json
import os
import pathlib
import sys


def main(folder: str, name: str) -> None:
  os.environ['JAX_NUM_CPU_DEVICES'] = '1'
  os.environ['JAX_PLATFORMS'] = 'cpu'
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
  import jax
  import numpy as np

  from memloc_jax.study import compilation_cache
  from tests.ensemble import toy

  events, starts = collections.Counter(), []
  jax.monitoring.register_event_listener(
    lambda event, **unused: events.update([event.rpartition('/')[2]])
  )
  place = pathlib.Path(folder)
  with compilation_cache.on_disk(place / 'cache', least_seconds=0):
    engine = toy.engine(
      place / f'rows-{name}', devices=None, lanes=0, on_start=starts.append
    )
    logits = toy.logits(engine, toy.table())
  np.save(place / f'{name}.npy', logits)
  [start] = starts
  found = {'lanes': start.lanes, 'needed': start.needed, 'events': events}
  (place / f'{name}.json').write_text(json.dumps(found))


if __name__ == '__main__':
  main(*sys.argv[1:])
