"""A review of a data set that `datasets` has saved becomes another one."""

import pathlib
import tempfile

import datasets
import pandas as pd
from absl.testing import absltest, parameterized

from memloc_jax.curate import apply
from tests.curate import apply_test
from tests.study import tiny

_CLASSES = ['bad', 'good', 'so, so']
_FEATURES = datasets.Features(
  {
    'key': datasets.Value('string'),
    'verdict': datasets.ClassLabel(names=_CLASSES),
    'text': datasets.Value('large_string'),
  }
)


def _rows():
  """Twelve rows as dictionaries."""
  return [
    {'key': f'k{i}', 'verdict': _CLASSES[i % 3], 'text': f'the {i}th ship'}
    for i in range(12)
  ]


class ApplySavedTest(tiny.EncoderCase):
  study = apply_test.ApplyTest.study
  review = apply_test.ApplyTest.review

  def setUp(self):
    super().setUp()
    self.place = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    datasets.disable_progress_bars()
    self.addCleanup(datasets.enable_progress_bars)

  @parameterized.parameters(True, False)
  def test_a_saved_data_set(self, single):
    train = datasets.Dataset.from_list(_rows(), _FEATURES)
    test = train.select([1, 2, 3])
    data = datasets.DatasetDict(train=train, test=test)
    saved = self.place / 'saved'
    (train if single else data).save_to_disk(saved)
    before = tiny.files(saved)
    config, workdir = self.study(saved)
    decisions = {'k1': ('relabel', 'so, so'), 'k4': ('drop', '')}
    done = apply.apply(config, workdir, self.review(workdir, decisions))
    self.assertEqual(tiny.files(saved), before)
    self.assertEqual(done.output, workdir / 'corrected')
    found = datasets.load_from_disk(str(done.output))
    if not single:
      self.assertEqual(found['test'][:], test[:])
      found = found['train']
    wanted = _rows()
    wanted[1]['verdict'] = 'so, so'
    del wanted[4]
    wanted = datasets.Dataset.from_list(wanted, _FEATURES)
    self.assertEqual(found.features, _FEATURES)
    self.assertEqual(found[:], wanted[:])
    # The next study takes it.
    _, new = self.study(done.settings['task.files'], 'again')
    examples = pd.read_parquet(new / 'examples.parquet').set_index('id')
    self.assertLen(examples, 11)
    self.assertEqual(examples['given']['k1'], 'so, so')


if __name__ == '__main__':
  absltest.main()
