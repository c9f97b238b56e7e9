"""Tables for papers: booktabs, short, with intervals, caption and label."""

import re

import numpy as np
import pandas as pd
from absl.testing import absltest, parameterized

from memloc_jax.report import latex, sections
from memloc_jax.report.content import Tables
from memloc_jax.schema import Cells, Section
from memloc_jax.study import comparison


def _section(rows):
  return Section(
    'Title',
    rows,
    (
      Cells('Technique', 'name', style=''),
      Cells('M-CoG', 'value', 'ends'),
      Cells('Nothing', 'nothing'),
    ),
    'What it shows.',
  )


def _row(**changes):
  row = {'name': 'Swapping', 'value': '2.35', 'ends': '[2.10, 2.60]'}
  return row | {'nothing': ''} | changes


def _body(text):
  """The rows, without their ends."""
  body = text.partition('\\midrule\n')[2].partition('\\bottomrule')[0]
  return [line.removesuffix(r' \\') for line in body.splitlines()]


class TableTest(parameterized.TestCase):
  def test_a_table_environment_with_caption_and_label(self):
    text = latex.table(_section([_row()]), 'mcog', 'Of 40 examples.')
    for wanted in (
      r'\begin{table}',
      r'\caption{What it shows. Of 40 examples.}',
      r'\label{tab:mcog}',
      # A column without any value is left out.
      r'\begin{tabular}{lr}',
      '\\toprule\nTechnique & M-CoG \\\\\n\\midrule\n',
      '\\bottomrule\n\\end{tabular}\n\\end{table}\n',
    ):
      self.assertIn(wanted, text)
    for name in ('table', 'tabular'):
      self.assertEqual(text.count(rf'\begin{{{name}}}'), 1)
      self.assertEqual(text.count(rf'\end{{{name}}}'), 1)

  @parameterized.parameters(
    ({}, '2.35 [2.10, 2.60]'),
    ({'ends': '2 seeds: no interval'}, '2.35 (2 seeds: no interval)'),
    ({'ends': ''}, '2.35'),
    ({'value': '-0.1', 'ends': '[-0.2, 0.0]'}, '$-$0.1 [$-$0.2, 0.0]'),
    ({'value': 'l1-2', 'ends': '1-3'}, 'l1-2 (1-3)'),
    ({'value': 2.35}, '2.350 [2.10, 2.60]'),
    ({'value': '2.35 ± 0.13', 'ends': ''}, r'2.35 $\pm$ 0.13'),
  )
  def test_a_value_stands_with_its_interval(self, changes, wanted):
    (row,) = _body(latex.table(_section([_row(**changes)]), 'x'))
    self.assertEqual(row, f'Swapping & {wanted}')

  def test_no_more_rows_than_a_page_has_room_for(self):
    rows = [_row(name=f'technique {i}') for i in range(40)]
    text = latex.table(_section(rows), 'many')
    self.assertLen(_body(text), 15)
    self.assertIn('The first 15 of 40 rows; all are in many.csv.', text)
    self.assertNotIn('rows', latex.table(_section(rows[:15]), 'few'))

  def test_what_latex_would_read_is_escaped(self):
    evil = r'50 % & $x_1$ #~^{}\input{/etc/passwd} <b>'
    text = latex.table(_section([_row(name=evil)]), 'x')
    (row,) = _body(text)
    name = row.removesuffix(' & 2.35 [2.10, 2.60]')
    written = re.sub(r'\\(textbackslash|text[a-z]+)\{\}', '', name)
    # No character stands for itself that LaTeX takes for a command.
    self.assertNotRegex(written, r'(?<!\\)[%&$#_{}~^<>]')
    self.assertNotRegex(written, r'\\(?![%&$#_{}])')
    self.assertIn(r'\textbackslash{}input', name)


class PaperTest(absltest.TestCase):
  def test_centres_of_gravity_have_intervals_or_say_why_not(self):
    rows = [
      {'technique': technique, 'variant': '', 'source': 'main', 'seed': seed}
      | {'mcog': value, 'attainable_low': 1.0, 'attainable_high': 4.0}
      | {'mcog_calibrated': value}
      for technique, values in (
        ('swapping', [2.0, 2.2, 2.4]),
        ('gradients', [2.5, 2.7, np.nan]),
      )
      for seed, value in [
        *enumerate(values, 1),
        (-1, float(np.nanmean(values))),
      ]
    ]
    mcog = pd.DataFrame(rows)
    tables = Tables(
      {'mcog': mcog, 'mcog_summary': comparison.mcog_summary(mcog, 4)}
    )
    found = dict(sections.of_paper(tables))
    text = latex.table(found['mcog_summary'], 'mcog_summary')
    swapping, gradients = _body(text)
    # Student's, of three values 0.2 apart: 4.303 * 0.2 / sqrt(3) = 0.497.
    self.assertStartsWith(swapping, 'Swapping & 2.20 [1.70, 2.70] & ')
    self.assertStartsWith(gradients, 'Gradients & 2.60 (2 seeds: no interval)')

  def test_studies_without_anything_have_no_rows(self):
    for _, section in sections.of_paper(Tables({})):
      self.assertEmpty(section.rows)

  def test_agreement_is_a_symmetric_matrix(self):
    table = pd.DataFrame(
      {
        'source': 'main',
        'quantity': 'layers',
        'technique_a': ['swapping', 'swapping', 'gradients'],
        'technique_b': ['gradients', 'probing', 'probing'],
        'pearson': [0.5, -0.25, np.nan],
      }
    )
    section = sections.correlations(Tables({'correlations': table}))
    names = ('swapping', 'gradients', 'probing')
    self.assertEqual(
      [[row[name] for name in names] for row in section.rows],
      [['', '0.50', '-0.25'], ['0.50', '', '–'], ['-0.25', '–', '']],
    )


if __name__ == '__main__':
  absltest.main()
