"""The page on several studies."""

import pathlib
import re
import tempfile

import pandas as pd
from absl.testing import absltest

from memloc_jax.errors import InputError
from memloc_jax.report import comparison
from tests.study import made_up

_TASKS = {'wic': 1.5, 'rte': 2.0, 'sst2': 3.5, 'trec': 4.0}


class ComparisonTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.folders = [
      made_up.workdir(self.folder, task, model, centre)
      for task, centre in _TASKS.items()
      for model in ('one', '<b>two')
    ]
    self.output = self.folder / 'out'

  def test_page_figures_and_tables(self):
    path = comparison.write(self.folders, self.output)
    text = path.read_text('utf-8')
    self.assertIn('Comparison of 8 studies', text)
    self.assertEqual(text.count('<figure>'), 5)
    self.assertNotIn('<b>two', text)
    self.assertNotRegex(text, r'(?:src|href)="(?!data:)')
    names = ('curves', 'centres', 'events', 'correlations_techniques')
    for name in (*names, 'correlations_models'):
      for suffix in ('pdf', 'png', 'svg'):
        self.assertTrue((self.output / f'figures/{name}.{suffix}').exists())
    table = pd.read_csv(self.output / 'tables/centres.csv')
    self.assertLen(table, 8 * len(made_up.TECHNIQUES))
    latex = (self.output / 'tables/centres.tex').read_text('utf-8')
    self.assertIn(r'\toprule', latex)
    self.assertLen(re.findall(r'\\\\', latex), len(table) + 1)

  def test_one_study_with_nothing_to_correlate(self):
    path = comparison.write(self.folders[:1], self.output)
    self.assertNotIn('Correlations over studies', path.read_text('utf-8'))

  def test_output_is_no_study(self):
    with self.assertRaisesRegex(InputError, 'is the folder of a study'):
      comparison.write(self.folders, self.folders[0])
    self.assertFalse((self.folders[0] / 'comparison.html').exists())


if __name__ == '__main__':
  absltest.main()
