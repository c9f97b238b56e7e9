"""The report page: complete, self-contained, escaped, whole or not at all."""

import base64
import html
import json
import pathlib
import re
import shlex
import tempfile
import unittest.mock
import xml.etree.ElementTree

import matplotlib
import numpy as np
import pandas as pd
from absl.testing import absltest, parameterized

from memloc_jax.estimators import detection
from memloc_jax.localisation import windows
from memloc_jax.report import libraries, page
from memloc_jax.study import comparison

_EVIL = '<script>alert("x")</script> & <img src=x>'
_LAYERS = 4


def _examples(n=40):
  rng = np.random.default_rng(0)
  noisy = np.arange(n) % 5 == 0
  seen = rng.uniform(0.9, 1, n)
  unseen = np.where(noisy, rng.uniform(0, 0.3, n), rng.uniform(0.6, 1, n))
  return pd.DataFrame(
    {
      'index': np.arange(n),
      'id': [f'row {i}' for i in range(n)],
      'text': [f'text number {i}' for i in range(n)],
      'given': np.where(noisy, 'wrong', 'right'),
      'original': 'right',
      'noisy': noisy,
      'training_memorisation': seen,
      'generalisation': unseen,
      'counterfactual_memorisation': seen - unseen,
      'cm_low': seen - unseen - 0.2,
      'cm_high': seen - unseen + 0.1,
      'in_runs': 8,
      'out_runs': 8,
      'training_memorisation_accuracy': 0.96,
      'suggested': 'right',
      'category': np.where(noisy, 'relabel', 'keep'),
      'label_margin': 1 - 2 * unseen,
      'label_margin_low': 0.9 - 2 * unseen,
      'agreement': 0.875,
    }
  )


def _maps():
  examples = _examples()
  noisy = examples['noisy'].to_numpy()
  scores = {'1 - generalisation': 1 - examples['generalisation'].to_numpy()}
  rows = detection.rows(scores, noisy, noisy.astype(int))
  runs = pd.DataFrame(
    {
      'run': np.arange(4),
      'table': ['map', 'map', 'main', 'main'],
      'purpose': ['map', 'map', 'noisy', 'clean'],
      'seed': [0, 1, 1, 1],
      'epochs': [14, 20, 20, 20],
      'learning_rate': 5e-5,
      'status': 'done',
      'train_macro_f1': [0.9, 0.9, 0.995, 1.0],
    }
  )
  return {
    'examples': examples,
    'detection': pd.DataFrame(rows),
    'runs': runs,
  }


def _swaps(seeds=(1, 2)):
  pairs = windows.all_windows(_LAYERS)
  rng = np.random.default_rng(0)
  measured, layers, mcog = [], [], []
  source = {'technique': 'swapping', 'variant': '', 'source': 'main'}
  attainable = windows.mcog_range(_LAYERS)
  for seed in seeds:
    accuracy = rng.random(len(pairs))
    weights = windows.layer_error(windows.heat_map(accuracy))
    one = source | {'seed': seed}
    for (first, last), value in zip(pairs, accuracy):
      measured.append(
        one
        | {
          'first': first + 1,
          'last': last + 1,
          'noisy_accuracy': value,
          'noisy_original_accuracy': 1 - value,
          'clean_accuracy': 0.9,
        }
      )
    for layer, weight in enumerate(weights):
      share = weight / weights.sum()
      layers.append(one | {'layer': layer + 1, 'raw': weight, 'weight': share})
    mcog.append(
      one
      | {
        'mcog': windows.mcog(weights),
        'attainable_low': attainable[0],
        'attainable_high': attainable[1],
        'mcog_calibrated': 2.0,
      }
    )
  mcog.append(mcog[0] | {'seed': -1, 'mcog': 2.25})
  tables = {'windows': measured, 'layers': layers, 'mcog': mcog}
  tables = {name: pd.DataFrame(rows) for name, rows in tables.items()}
  summary = comparison.mcog_summary(tables['mcog'], _LAYERS)
  return tables | {'mcog_summary': summary}


_MANIFEST = {
  'config': {
    'task': {'name': 'trec', 'source': 'files:here', 'noise': 0.15},
    'model': {'source': 'some/model'},
  },
  'versions': {'jax': '0.10.2', 'numpy': '2.4'},
  'device': {'platform': 'gpu', 'kind': 'Some GPU', 'count': 4},
  'precision': {'parameters': 'float32', 'matmul': 'bfloat16'},
  'commit': 'c0ffee' * 6 + '+',
  'cost': {'train': {'seconds': 61.0}, 'swap': {'seconds': 2.5}},
}


class PageTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.workdir = pathlib.Path(folder.name)

  def _write(self, tables, manifest=_MANIFEST):
    path = page.write_report(self.workdir, tables, manifest)
    self.assertEqual(path, self.workdir / 'report.html')
    return path.read_text(encoding='utf-8')

  def _files(self):
    files = (p for p in self.workdir.rglob('*') if p.is_file())
    return {str(p.relative_to(self.workdir)): p.read_bytes() for p in files}

  def test_everything_is_there(self):
    tables = _maps() | _swaps()
    text = html.unescape(self._write(tables))
    row = tables['detection'].iloc[0]
    for wanted in (
      '<h1>Memorisation in trec</h1>',
      '>files:here<',
      '>some/model<',
      '>4 × Some GPU<',
      '>parameters float32, matmul bfloat16<',
      '>c0ffeec0ffee+<',
      '>jax 0.10.2, numpy 2.4<',
      '1 min 04 s (train 1 min 01 s, swap 2.5 s)',
      'config.task.noise',
      '2 × 14 to 20 epochs, learning rate 5e-05',
      '2 × 20 epochs,',
      '40, of which 8 noisy (20%)',
      f'{row.auroc:.3f}',
      f'[{row.ap_low:.3f}, {row.ap_high:.3f}]',
      'same given label',
      'saw the example, all examples: 0.960.',
      f'{tables["mcog"].mcog[1]:.2f}',
      'averages 0.900 over windows',
    ):
      self.assertIn(wanted, text)
    self.assertNotIn('Read with care', text)
    # The map stands where it can be explored, the others as figures.
    self.assertEqual(text.count('<img src="data:image/svg+xml;base64,'), 4)
    self.assertEqual(text.count('<figure '), 3)
    self.assertCountEqual(
      self._files(),
      ['report.html']
      + [
        f'figures/{name}.{suffix}'
        for name in (
          'memorisation_map',
          'heat_map_swapping',
          'layers',
          'mcog',
        )
        for suffix in ('pdf', 'png', 'svg')
      ]
      + [
        f'tables/{name}'
        for name in (
          'detection.csv',
          'detection.tex',
          'mcog.csv',
          'mcog_summary.csv',
          'mcog_summary.tex',
        )
      ],
    )

  def test_figure_files_are_what_their_names_say(self):
    self._write(_maps() | _swaps())
    for path in (self.workdir / 'figures').iterdir():
      if path.suffix == '.svg':
        root = xml.etree.ElementTree.parse(path).getroot()
        self.assertTrue(root.tag.endswith('svg'))
      else:
        first = {'.png': b'\x89PNG', '.pdf': b'%PDF'}[path.suffix]
        self.assertTrue(path.read_bytes().startswith(first))

  def test_needs_nothing_from_outside(self):
    text = self._write(_maps() | _swaps())
    for embedded in libraries.libraries():
      self.assertIn(embedded, text)
      text = text.replace(embedded, '')
    self.assertNotRegex(text.lower(), r'<(link|iframe|object|base)\b')
    sources = re.findall(r'(?:src|href|srcset)\s*=\s*"([^"]{0,20})', text)
    self.assertNotEmpty(sources)
    # Images that are in the page, and links to its own sections.
    self.assertTrue(all(s.startswith(('data:image/', '#')) for s in sources))
    for outside in ('http:', 'https:', 'url(', '@import'):
      self.assertNotIn(outside, text)

  def test_texts_labels_and_settings_are_escaped(self):
    tables = _maps()
    for column in ('text', 'given', 'original', 'id', 'suggested'):
      tables['examples'][column] = _EVIL
    tables['runs']['purpose'] = _EVIL
    tables['runs']['train_macro_f1'] = 0.5
    text = self._write(
      tables, {'config': {'task': {'name': _EVIL}, 'evil': {_EVIL: _EVIL}}}
    )
    self.assertNotIn(_EVIL, text)
    self.assertNotIn('<img src=x', text)
    self.assertGreater(text.count('&lt;script&gt;'), 10)
    # The texts for the script.
    self.assertGreater(text.count('\\u003cscript\\u003e'), 10)

  def test_doubtful_labels_are_listed_surest_first(self):
    tables = _maps()
    text = self._write(tables)
    section = text[text.index('id="labels"') :]
    examples = tables['examples']
    wanted = examples[examples['noisy']].sort_values('label_margin_low')
    ids = re.findall(r'<td class="id">(row \d+)</td>', section)
    self.assertEqual(ids, wanted['id'].tolist()[::-1])
    examples['category'] = 'keep'
    self.assertNotIn('<td class="id">', self._write(tables))
    del examples['label_margin_low']
    self.assertNotIn('<td class="id">', self._write(tables))

  def test_long_texts_are_cut(self):
    tables = _maps()
    tables['examples']['text'] = 'word ' * 5000
    text = self._write(tables)
    for embedded in libraries.libraries():
      text = text.replace(embedded, '')
    self.assertLess(text.count('word'), 25 * 70 + 40 * 130)

  def test_maps_without_swapping(self):
    text = self._write(_maps())
    self.assertNotIn('id="layers"', text)
    self.assertIn('id="examples"', text)
    self.assertIn('most memorised', text)
    self.assertEqual(text.count('<figure '), 0)

  def test_swapping_without_maps(self):
    text = self._write(_swaps())
    self.assertNotIn('id="examples"', text)
    self.assertLess(len(text), 10**6)  # No library that nothing needs.
    self.assertNotIn('AUROC', text)
    self.assertEqual(text.count('<figure '), 3)

  def test_nothing_at_all_is_still_a_page(self):
    text = self._write({'examples': pd.DataFrame()}, {})
    self.assertIn('</html>', text)

  def test_figures_are_of_main_models_and_default_variants(self):
    tables = _swaps()
    self._write(tables)
    before = set(self._files())
    for name in ('windows', 'layers'):
      control = tables[name].assign(source='1+2')
      other = tables[name].assign(variant='other')
      tables[name] = pd.concat([tables[name], control, other])
    self._write(tables)
    self.assertEqual(set(self._files()), before)

  def test_controls_are_a_table_with_baselines_marked(self):
    row = {
      'technique': 'swapping',
      'variant': '',
      'setup': 'pair',
      'baseline': False,
      'accuracy_1': 0.9,
      'accuracy_1_low': 0.8,
      'accuracy_1_high': 0.95,
      'adjusted_low': 0.7,
      'adjusted_high': 0.97,
      'verdict': 'supported',
      'reason': '',
      'best_baseline': 'constant',
      'baseline_value': 0.9,
      'above_baseline': 0.0,
      'above_baseline_low': -0.1,
      'above_baseline_high': 0.1,
      'against_baseline': 'not better than the baseline',
      'accuracy_2': 0.85,
      'accuracy_2_low': 0.6,
      'accuracy_2_high': 0.95,
      'rank_correlation': np.nan,
      'rank_correlation_low': np.nan,
      'rank_correlation_high': np.nan,
      'chance': 1 / 3,
      'num_sources': 3,
      'num_seeds': 10,
    }
    base = row | {'technique': 'constant', 'baseline': True, 'verdict': ''}
    base |= {'best_baseline': '', 'against_baseline': ''}
    self._write({'control_summary': pd.DataFrame([row, base])})
    page = self._files()['report.html'].decode()
    self.assertIn('[0.700, 0.970]', page)
    # Not those that are not adjusted.
    self.assertNotIn('[0.800, 0.950]', page)
    self.assertIn('not better than the baseline', page)
    self.assertIn('Constant (baseline)', page)
    self._write({})
    self.assertNotIn('id="control"', self._files()['report.html'].decode())

  def test_words_are_not_said_to_be_clustered(self):
    row = {
      'planted': 'word',
      'localiser': 'occlusion',
      'variant': 'mask',
      'baseline': False,
      'cases': 5,
      'recall': 0.8,
      'low': 0.4,
      'high': 0.96,
      'chance': 0.1,
    }
    text = ' '.join(self._write({'injection': pd.DataFrame([row])}).split())
    self.assertNotIn('clustered by seed or pair', text)
    self.assertIn('Intervals are over examples, which share runs', text)

  def test_every_question_has_an_answer_and_a_link(self):
    text = self._write(_maps() | _swaps())
    ids = re.findall(r'<section id="([\w-]+)">', text)
    self.assertEqual(
      ids, ['labels', 'examples', 'planted', 'layers', 'methods']
    )
    bar = text.partition('<nav')[2].partition('</nav>')[0]
    self.assertEqual(re.findall(r'href="#([\w-]+)"', bar), ids)
    for part in re.split('<section ', text)[1:-1]:
      self.assertRegex(
        part, r'^id="\w+">\s*<h2>[^<]+</h2>\s*<p class="answer">\S'
      )

  def test_begins_with_what_was_found(self):
    tables = _maps() | _swaps()
    tables['examples']['flagged'] = tables['examples']['noisy']
    text = self._write(tables)
    found = text.partition('class="findings"')[2].partition('</ul>')[0]
    labels, examples, layers = (
      re.sub('<[^>]+>', '', line)
      for line in re.findall('<li>(.*)</li>', html.unescape(found))
    )
    # All 8 wrong labels are the first 8 of the list: Wilson's interval.
    self.assertIn('8 of the 8 wrong labels (100% [68%, 100%])', labels)
    self.assertIn('8 of 40 examples are flagged', examples)
    self.assertIn('at most 5% of these flags are expected', examples)
    mean = tables['mcog_summary']['mcog'].item()
    self.assertIn(f'at layer {mean:.2f} of 4 (2 seeds: no interval)', layers)
    self.assertIn('cannot be told', layers)

  def test_own_data_without_wrong_labels_have_no_sections_on_them(self):
    tables = _maps()
    tables['examples']['noisy'] = False
    tables['examples']['original'] = tables['examples']['given']
    self.assertNotEmpty(tables['detection'])  # It is not even asked.
    own = {'task': {'name': 'own', 'files': '/x/reviews.csv', 'noise': 0.0}}
    text = self._write(tables, {'config': own})
    for embedded in libraries.libraries():
      text = text.replace(embedded, '')
    page = text.partition('<body>')[2].partition('<script')[0].lower()
    self.assertIn('memorisation in reviews.csv', page)
    self.assertIn('id="labels"', page)
    for absent in ('planted', 'wrong label', 'noisy', 'auroc', 'control'):
      self.assertNotIn(absent, page.replace('class="controls"', ''))

  def _check(self, **news):
    """The page of a check of 40 rows that offers the first four of them."""
    examples = _examples().assign(hash=[f'{i:016x}' for i in range(40)])
    sample = examples[['index', 'id', 'hash']].assign(
      offered=examples['index'] < 4
    )
    config = {'task': {'name': 'own', 'files': 'my reviews.csv', 'noise': 0.0}}
    check = {'by_models': 'At most 9 of 40 labels are wrong.'} | news
    return self._write(
      {'examples': examples, 'sample': sample},
      {'config': config, 'check': check},
    )

  def test_a_check_says_how_many_labels_are_wrong_and_what_comes_next(self):
    page = self._check()
    text = html.unescape(page)
    body = text.partition('<body>')[2]
    self.assertIn('<h1>Labels to check in my reviews.csv</h1>', text)
    self.assertEqual(re.findall(r'<section id="(\w+)"', text), [
      'labels', 'methods',
    ])  # fmt: skip
    found = body.partition('class="findings"')[2].partition('</ul>')[0]
    self.assertIn('At most 9 of 40 labels are wrong.', found)
    steps = body.partition('class="steps"')[2].partition('</details>')[0]
    self.assertStartsWith(steps, ' open>')
    self.assertIn('A review of 4 rows', steps)
    (command,) = re.findall('<code>(.*?)</code>', steps)
    self.assertEqual(
      shlex.split(command),
      ['memloc', 'check', 'my reviews.csv', f'--workdir={self.workdir}']
      + ['--reviewed=reviewed.csv'],
    )
    # Neither the map nor what draws it.
    self.assertNotIn('id="map"', text)
    self.assertNotIn(libraries.libraries().plotly, page)
    self.assertFalse((self.workdir / 'figures').exists())
    (data,) = re.findall('id="examples-data">(.*?)</script>', text)
    sample = json.loads(data)['review']['sample']
    self.assertCountEqual(sample, range(4))

  def test_a_check_that_was_reviewed_has_the_estimate(self):
    text = self._check(reviewed='About 5 of 40 labels are wrong [4, 9].')
    self.assertNotIn('At most 9', text)
    found = text.partition('class="findings"')[2].partition('</ul>')[0]
    self.assertIn('About 5 of 40 labels are wrong [4, 9].', found)
    self.assertIn('<details class="steps">', text)

  def test_figures_have_the_font_of_the_page(self):
    text = html.unescape(self._write(_maps() | _swaps()))
    (font,) = re.findall(r'body \{[^}]*font: 16px/1\.5 ([^;]*);', text)
    images = re.findall(r'src="data:image/svg\+xml;base64,([^"]*)"', text)
    self.assertNotEmpty(images)
    for image in images:
      svg = base64.b64decode(image).decode()
      fonts = re.findall(r'font-family: ([^;"]*)', html.unescape(svg))
      self.assertEqual(set(fonts), {font})

  def test_terms_have_their_meanings(self):
    text = self._write(_maps() | _swaps())
    for term in ('M-CoG', 'AUROC', 'flat profile', 'wrong labels'):
      self.assertRegex(text, f'<abbr title="[^"]{{20,}}">{term}</abbr>')
    listed = text.partition('<dl class="terms">')[2].partition('</dl>')[0]
    self.assertIn('<dt>m-cog</dt>', listed)
    # Those that the page does not use are left out.
    self.assertNotIn('accuracy@1', listed)

  def test_writing_again_gives_the_same_bytes(self):
    tables = _maps() | _swaps()
    self._write(tables)
    before = self._files()
    self._write(tables)
    self.assertEqual(self._files(), before)

  def test_failure_leaves_the_old_page(self):
    self._write(_maps())
    before = self._files()['report.html']
    tables = _maps()
    tables['detection'] = tables['detection'].drop(columns='auroc')
    with self.assertRaises(AttributeError):
      self._write(tables)
    self.assertEqual(self._files()['report.html'], before)
    with (
      unittest.mock.patch('os.replace', side_effect=OSError('disk')),
      self.assertRaises(OSError),
    ):
      self._write(_maps())
    self.assertEqual(self._files()['report.html'], before)

  def test_drawing_leaves_the_style_of_others_alone(self):
    before = dict(matplotlib.rcParams)
    self._write(_maps() | _swaps())
    self.assertEqual(dict(matplotlib.rcParams), before)


if __name__ == '__main__':
  absltest.main()
