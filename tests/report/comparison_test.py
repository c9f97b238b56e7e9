"""The page on several studies."""

import html
import pathlib
import re
import shutil
import tempfile
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from absl.testing import absltest

from memloc_jax.compare import replication, summary
from memloc_jax.errors import InputError
from memloc_jax.report import comparison
from memloc_jax.report import comparison_figures as draw
from tests.compare import made_up

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
    self.assertEqual(text.count('<figure '), 5)
    self.assertNotIn('<b>two', text)
    # Captions say how many studies, seeds, or points and tasks there are.
    captions = re.findall('<figcaption>(.*?)</figcaption>', text)
    words = [
      ('8 studies', '3 seeds'),
      ('8 studies',),
      ('8 studies',),
      ('8 points', '4 tasks'),
      ('4 tasks',),
    ]
    self.assertLen(captions, len(words))
    for caption, each in zip(captions, words):
      for wanted in each:
        self.assertIn(wanted, caption)
    # Of examples with their right labels.
    self.assertEqual(text.count('[0.11, 0.33]'), 8)
    self.assertEqual(text.count('[0.70, 1.00]'), 8)
    self.assertEqual(text.count('data-head="Event">crossing'), 8)
    self.assertNotRegex(text, r'(?:src|href)="(?!data:|#)')
    # Captions stand outside the boxes in which wide tables scroll.
    for box in re.findall('<div class="scroll".*?</div>', text, re.DOTALL):
      self.assertNotIn('caption', box)
    names = ('curves', 'centres', 'events', 'correlations_techniques')
    for name in (*names, 'correlations_models'):
      for suffix in ('pdf', 'png', 'svg'):
        self.assertTrue((self.output / f'figures/{name}.{suffix}').exists())
    table = pd.read_csv(self.output / 'tables/centres.csv')
    self.assertLen(table, 8 * len(made_up.TECHNIQUES))
    latex = (self.output / 'tables/centres.tex').read_text('utf-8')
    self.assertIn(r'\toprule', latex)
    self.assertIn(r'\caption{M-CoG: mean over seeds', latex)
    self.assertLen(re.findall(r'\\\\', latex), 15 + 1)

  @pytest.mark.full
  def test_regimes_are_shown_against_the_same_study_without(self):
    folders = []
    for name, regime, centre in (('a', [], 2.0), ('b', ['<i>other'], 4.0)):
      path = made_up.workdir(
        self.folder, 'trec', name, centre, generalisation=0.5 + centre / 10
      )
      grid = {'models': ['same'], 'regimes': regime}
      made_up.change_manifest(path, config__grid=grid)
      folders.append(path)
    text = comparison.write(folders, self.output).read_text('utf-8')
    start = text.index('<section id="regimes">')
    part = text[start : text.index('</table>', start)]
    self.assertLen(re.findall('<th scope="col" class="number">', part), 7)
    self.assertNotIn('Constant', part)
    self.assertIn('data-head="Generalisation others"', part)
    self.assertIn('data-head="Depth Swapping"', part)
    self.assertRegex(
      part, r'data-head="Model">same\s.*\s.*data-head="Regime">&lt;i&gt;other'
    )
    self.assertRegex(part, r'0\.20\s*<span class="[a-z ]+">\[0\.20, 0\.20\]')
    table = pd.read_csv(self.output / 'tables/regimes.csv')
    self.assertIn('depth constant', set(table['measure']))
    # Where no regime was studied there is nothing to show.
    text = comparison.write(self.folders, self.output).read_text('utf-8')
    self.assertNotIn('<section id="regimes">', text)

  def test_models_of_different_depth_share_an_axis(self):
    more = made_up.workdir(self.folder, 'wic', 'single', 1.0, num_layers=1)
    more = [
      more,
      made_up.workdir(self.folder, 'wic', 'deep', 20.0, num_layers=24),
    ]
    entries = summary.read([*self.folders, *more])
    table = summary.centres(entries).dropna(subset=['depth'])
    axes = draw.centres(table).axes[0]
    shown = np.concatenate([c.get_offsets()[:, 0] for c in axes.collections])
    rows = table[table['technique'] == axes.get_title('left').lower()]
    np.testing.assert_allclose(np.sort(shown), np.sort(rows['depth']))
    self.assertBetween(rows['depth'].max(), 0.5, 1)

  def test_bars_are_of_groups_without_binarised_tasks(self):
    rows = [('trec', 'topic', 0.2), ('trecv2', 'topic', 0.9)]
    rows += [('reuters', 'topic', 0.4), ('tweets', 'medical', 0.7)]
    table = pd.DataFrame(rows, columns=['task', 'group', 'depth'])
    figure = draw.centres(table.assign(model='m', technique='swapping'))
    [axes] = figure.axes
    bars = {line.get_color(): line.get_xdata() for line in axes.lines}
    np.testing.assert_allclose(bars[draw.group_colour('topic')], [0.3, 0.3])
    # Groups that a user registered have points, places and names too.
    np.testing.assert_allclose(bars[draw.group_colour('medical')], [0.7, 0.7])
    points = axes.collections[0].get_offsets()
    np.testing.assert_allclose(
      points, np.stack([table['depth'], [0, 1, 2, 3]], 1)
    )
    *_, legend = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    self.assertEqual(names, ['topic', 'medical'])

  def test_every_model_has_a_marker_of_its_own(self):
    models = [f'model {i}' for i in range(10)]
    table = pd.DataFrame(
      {'task': 'wic', 'group': 'nlu', 'technique': 'swapping'}
      | {'model': models, 'depth': np.linspace(0, 1, 10)}
    )
    figure = draw.centres(table)
    axes = figure.axes[0]
    self.assertLen(axes.collections, 10)
    shown = [c.get_offsets()[0, 0] for c in axes.collections]
    np.testing.assert_allclose(shown, table['depth'])
    (legend,) = figure.legends  # One group needs no other.
    self.assertEqual([text.get_text() for text in legend.get_texts()], models)
    looks = {
      (line.get_marker(), line.get_fillstyle())
      for line in legend.legend_handles
    }
    self.assertLen(looks, 10)
    # The first eight are filled, as before.
    filled = [len(c.get_facecolor()) > 0 for c in axes.collections]
    self.assertEqual(filled, [True] * 8 + [False] * 2)

  def test_tasks_at_one_place_share_a_name(self):
    rows = [
      {'task': task, 'group': 'nlu', 'model': 'm', 'setup': 'noisy'}
      | {'event': event, 'layer': layer}
      for task, at in (('wic', 1.0), ('rte', 1.0), ('cola', 2.0))
      for event, layer in (('crossing', at), ('initiation', 3.0))
    ]
    [axes] = draw.events(pd.DataFrame(rows)).axes
    names = {text.get_text(): text.xy for text in axes.texts}
    self.assertEqual(names, {'rte, wic': (3.0, 1.0), 'cola': (3.0, 2.0)})

  def test_studies_of_one_task_go_by_their_models(self):
    models = ('one (a)', 'one (b_c)')
    key = {'task': 'wic', 'group': 'nlu'}
    rows = [
      key | {'model': model, 'setup': 'noisy', 'event': event, 'layer': 1.0}
      for model in models
      for event in ('crossing', 'initiation')
    ]
    [axes] = draw.events(pd.DataFrame(rows)).axes
    names = [text.get_text() for text in axes.texts]
    self.assertEqual(names, ['\n'.join(models)])
    table = pd.DataFrame(
      [
        key | {'model': m, 'technique': 'swapping', 'depth': 0.5}
        for m in models
      ]
    )
    places = [
      c.get_offsets()[0] for c in draw.centres(table).axes[0].collections
    ]
    # No point hides another.
    self.assertGreater(np.ptp([y for _, y in places]), 0.2)
    pair = {'what': 'models', 'a': models[0], 'b': models[1], 'value': 0.5}
    axes = draw.matrix(pd.DataFrame([pair]), 'title').axes[0]
    shown = [text.get_text() for text in axes.get_yticklabels()]
    self.assertEqual(shown, list(models))

  def test_studies_of_one_layer_have_no_depth(self):
    single = made_up.workdir(self.folder, 'wic', 'single', 1.0, num_layers=1)
    page = comparison.write([single], self.output)
    self.assertIn('data-head="M-CoG"', page.read_text('utf-8'))
    self.assertFalse((self.output / 'figures/centres.svg').exists())

  def test_one_study_with_nothing_to_correlate(self):
    path = comparison.write(self.folders[:1], self.output)
    self.assertNotIn('<section id="correlations">', path.read_text('utf-8'))

  @mock.patch.object(comparison, 'drawn', return_value=())
  def test_two_studies_of_the_same_stand_side_by_side(self, _):
    again = self.folder / 'again'
    shutil.copytree(self.folders[0], again)
    path = comparison.write([self.folders[0], again], self.output)
    text = path.read_text('utf-8')
    self.assertIn('<h1>Memorisation in wic</h1>', text)
    for name in (self.folders[0].name, 'again'):
      self.assertIn(f'one ({name})', html.unescape(text))

  @mock.patch.object(comparison, 'drawn', return_value=())
  def test_claims_are_of_whom_they_are(self, _):
    paper = 'What Dankers &amp; Titov (2024) report and'
    page = comparison.write(self.folders[:1], self.output)
    self.assertIn(paper, page.read_text('utf-8'))
    claims = self.folder / 'claims.csv'
    replication.references().head(3).to_csv(claims, index=False)
    page = comparison.write(self.folders[:1], self.output, str(claims))
    text = page.read_text('utf-8')
    self.assertNotIn(paper, text)
    self.assertIn(f'What {claims} claims and', text)

  @mock.patch.object(comparison, 'drawn', return_value=())
  def test_centres_say_what_they_are_and_baselines_are_marked(self, _):
    folder = self.folders[0]
    mcog = pd.read_parquet(folder / 'mcog.parquet')
    of_profile = (mcog['technique'] == 'swapping') & (mcog['seed'] == -1)
    mcog.loc[of_profile, ['mcog', 'mcog_calibrated']] = 4.44, 5.55
    mcog.to_parquet(folder / 'mcog.parquet')
    pd.DataFrame(
      [
        {'technique': name, 'variant': '', 'seed': 1, 'setup': 'pair'}
        | {'layers': '1+2', 'top1_in_pair': 1.0, 'top2_in_pair': 0.5}
        for name in ('swapping', 'constant', 'of a user')
      ]
    ).to_parquet(folder / 'control.parquet')
    output = comparison.write(
      [folder, self.folders[-2], self.folders[-4]], self.output
    )
    text = output.read_text('utf-8')
    centres = text.partition('aria-label="Centres of gravity"')[2]
    cells = re.findall(r'<td[^>]*>([^<]*?)\s*<', centres)
    row = cells[: cells.index('4.44') + 2]
    seeds = mcog.loc[(mcog['technique'] == 'swapping') & ~of_profile, 'mcog']
    self.assertEqual(row[-3:], [f'{seeds.mean():.2f}', '4.44', '5.55'])
    for id in ('groups', 'control'):
      part = text.partition(f'<section id="{id}"')[2].partition('<section')[0]
      self.assertIn('Constant (baseline)', part)
      self.assertNotRegex(part, r'>Constant\s*<')
    self.assertRegex(text, r'>Of a user\s*<')

  def test_output_is_no_study(self):
    with self.assertRaisesRegex(InputError, 'is the folder of a study'):
      comparison.write(self.folders, self.folders[0])
    self.assertFalse((self.folders[0] / 'comparison.html').exists())

  def test_output_lies_in_a_file(self):
    (self.folder / 'file').write_text('')
    with self.assertRaisesRegex(InputError, r'file/\S* cannot be written'):
      comparison.write(self.folders, self.folder / 'file' / 'out')


class ClaimsTest(absltest.TestCase):
  def test_have_the_digits_that_were_published(self):
    row = {'claim': 'x', 'relation': 'equals', 'value': 0.99969, 'low': 0.9987}
    row |= {'high': 1.0, 'tasks': 5, 'fixed': 'before', 'reason': ''}
    row |= {'verdict': 'equivalent within 0.02'}
    row |= {'adjusted_low': 0.9987, 'adjusted_high': 1.0}
    rows = [row | {'source': '', 'published': p} for p in (0.997, 0.5)]
    precise, rough = comparison.claims(pd.DataFrame(rows))
    self.assertEqual(precise['found'], '1.000')
    self.assertEqual(precise['adjusted'], '[0.999, 1.000]')
    self.assertEqual(rough['adjusted'], '[1.00, 1.00]')


if __name__ == '__main__':
  absltest.main()
