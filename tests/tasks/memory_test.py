"""Peak memory of reading goes by the columns that are used."""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from absl.testing import absltest, parameterized

_ROOT = pathlib.Path(__file__).parents[2]
_MB = 10**6
_STATUS = pathlib.Path('/proc/self/status')
# Of a process of its own, with everything that it imports. What `getrusage`
# says would include the process that started it.
_READ = """
import pathlib, re, sys
from memloc_jax.tasks import registry, sources
task = registry.own_task('text', 'label')
rows = sources.load_rows(f'files:{sys.argv[1]}', task)['train']
status = pathlib.Path('/proc/self/status').read_text()
print(len(rows), 1024 * int(re.search(r'VmHWM:\\s+(\\d+) kB', status)[1]))
"""


def write(path, rows, words, width):
  """Writes texts of random words, labels, and vectors that are not used.

  Args:
    path: of the Parquet file.
    rows: number of rows.
    words: of each text, ten characters each.
    width: of the vectors, float32.

  Returns:
    Size of the file, and that of the texts and labels, in bytes.
  """
  rng = np.random.default_rng(1)
  named = np.array([f'word{i:05} ' for i in range(20_000)])
  texts, labels = [], ['place', 'time'] * (rows // 2)
  for _ in range(rows // 1000):
    chosen = named[rng.integers(0, len(named), (1000, words))]
    texts += map(''.join, chosen)
  vectors = pa.array(rng.random(rows * width, np.float32))
  columns = {'text': pa.array(texts), 'label': pa.array(labels)}
  if width:
    columns['vector'] = pa.FixedSizeListArray.from_arrays(vectors, width)
  pyarrow.parquet.write_table(pa.table(columns), path, compression=None)
  return path.stat().st_size, sum(map(len, texts)) + sum(map(len, labels))


def peak(path):
  """Rows that a fresh process reads, and its peak memory in bytes."""
  done = subprocess.run(
    [sys.executable, '-c', _READ, path],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  rows, found = map(int, done.stdout.split())
  return rows, found


@pytest.mark.skipif(not _STATUS.exists(), reason='peaks are read from /proc')
class MemoryTest(parameterized.TestCase):
  def check(self, size, **shape):
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / 'data.parquet'
      whole, used = write(path, **shape)
      self.assertGreater(whole, size)
      rows, found = peak(path)
    print(*(f'{size / _MB:.0f} MB' for size in (whole, used, found)))
    self.assertEqual(rows, shape['rows'])
    self.assertLess(found, 1.5 * used + 200 * _MB)

  def test_unused_vectors(self):
    self.check(50 * _MB, rows=8000, words=10, width=1600)

  @parameterized.parameters(
    {'rows': 130_000, 'words': 10, 'width': 384},
    {'rows': 400_000, 'words': 50, 'width': 0},
    {'rows': 3_000_000, 'words': 6, 'width': 0},
  )
  @pytest.mark.full
  def test_two_hundred_megabytes(self, **shape):
    self.check(190 * _MB, **shape)


if __name__ == '__main__':
  absltest.main()
