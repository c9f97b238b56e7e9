"""Coverage, flags and forecasts on ensembles whose truth is known."""

import itertools
import json
import pathlib
import tempfile

import numpy as np
import pandas as pd
from absl.testing import absltest, parameterized
from scipy import stats

from benchmarks import coverage, discoveries, subsamples
from benchmarks import intervals as methods

_BLOCK, _EXAMPLES = 20, 400


def _ensemble(blocks, draw, seed=0):
  """Balanced blocks of 20; `draw` takes the membership and returns values."""
  rng = np.random.default_rng(seed)
  member = np.concatenate(
    [
      rng.random((_BLOCK, _EXAMPLES)).argsort(axis=0) < _BLOCK // 2
      for _ in range(blocks)
    ]
  )
  return subsamples.Ensemble(
    member, draw(rng, member), np.repeat(np.arange(blocks), _BLOCK)
  )


def _bernoulli(seen, unseen):
  def draw(rng, member):
    right = rng.random(member.shape) < np.where(member, seen, unseen)
    return {'correctness': right.astype(float)}

  return draw


def _normal(rng, member):
  values = rng.normal(0.5 + 0.1 * member, 0.05)
  return {'probability': values}


def _by_method(ensemble, size=_BLOCK):
  taken = subsamples.balanced(ensemble.block, size, 100, None)
  rows = subsamples.coverage(ensemble, taken)
  return {r['method']: r for r in rows if r['stratum'] == subsamples.ALL}


class CoverageTest(parameterized.TestCase):
  @parameterized.parameters('Newcombe', 'Agresti-Caffo', 'Wald')
  def test_equals_sum_over_all_results_of_two_binomials(self, name):
    seen, unseen, side, blocks = 0.8, 0.3, _BLOCK // 2, 60
    counts = np.array(list(itertools.product(range(side + 1), repeat=2)))
    # One example for each pair of counts of right runs.
    values = np.concatenate(
      [np.arange(side)[:, None] < counts[None, :, i] for i in (0, 1)]
    ).astype(float)
    member = np.repeat([True, False], side)[:, None] | np.zeros_like(values > 0)
    sample = methods.sample(member, values)
    chance = stats.binom.pmf(counts[:, 0], side, seen)
    chance *= stats.binom.pmf(counts[:, 1], side, unseen)
    # Scores lie on a grid, and so do the jumps of coverage: it is averaged
    # over the truths that the other runs may come to.
    rest = side * (blocks - 1)
    spread = np.sqrt((seen * (1 - seen) + unseen * (1 - unseen)) / rest)
    low, high = (
      sample.score + (end - sample.score) / np.sqrt(1 - 1 / blocks)
      for end in methods.METHODS['correctness'][name](sample)
    )
    below = lambda end: stats.norm.cdf(end, seen - unseen, spread)
    exact = (chance * (below(high) - below(low))).sum()
    found = _by_method(_ensemble(blocks, _bernoulli(seen, unseen)))[name]
    # Of 24 000 intervals.
    self.assertAlmostEqual(found['coverage'], exact, delta=0.006)
    self.assertEqual(found['examples'], _EXAMPLES)

  def test_corrects_for_the_error_of_the_truth(self):
    # Two of three runs more say what is true: the difference to them has 3/2
    # of the variance that the difference to the truth would have.
    found = _by_method(_ensemble(3, _normal))['Student']
    quantile = stats.t.ppf(0.975, _BLOCK - 2) / np.sqrt(1.5)
    low, high = stats.t.cdf([-quantile, quantile], _BLOCK - 2)
    self.assertAlmostEqual(found['coverage_raw'], high - low, delta=0.03)
    self.assertAlmostEqual(found['coverage'], 0.95, delta=0.03)
    self.assertGreater(found['coverage'], found['coverage_raw'] + 0.02)

  def test_strata_are_parts_of_the_whole_by_true_score(self):
    ensemble = _ensemble(6, _bernoulli(np.linspace(0.3, 1, _EXAMPLES), 0.3))
    taken = subsamples.balanced(ensemble.block, _BLOCK, 100, None)
    rows = subsamples.coverage(ensemble, taken)
    rows = [r for r in rows if r['method'] == 'Agresti-Caffo']
    self.assertEqual([r['stratum'] for r in rows], list(subsamples.STRATA))
    whole, *parts = rows
    self.assertEqual(parts[-1], parts[-1] | {'stratum': '0.75 to 1'})
    self.assertLess(parts[-1]['examples'], 20)
    for name in ('coverage', 'width'):
      total = sum(r['examples'] * r.get(name, 0) for r in parts)
      self.assertAlmostEqual(total / _EXAMPLES, whole[name])
    self.assertAlmostEqual(sum(r['examples'] for r in parts), _EXAMPLES)

  def test_without_spread_an_interval_is_its_truth(self):
    ensemble = _ensemble(3, _bernoulli(1, 0))
    self.assertEqual(_by_method(ensemble)['Wald']['coverage'], 1)
    self.assertEqual(_by_method(ensemble)['Wald']['width'], 0)


class SubsamplesTest(absltest.TestCase):
  def test_balanced_are_all_choices_of_whole_blocks(self):
    block = np.repeat(np.arange(8), [3, 3, 3, 3, 5, 5, 5, 5])
    found = subsamples.balanced(block, 6, 100, None)
    self.assertLen(found, 6)
    self.assertLen(set(map(tuple, found)), 6)
    for chosen in found:
      self.assertEqual(chosen.sum(), 6)
      for name in np.unique(block):
        self.assertLen(set(chosen[block == name]), 1)
    # Five is a block of five, not five blocks of one.
    self.assertEqual(
      np.unique(block[subsamples.balanced(block, 5, 9, None)[0]]).tolist(), [4]
    )

  def test_balanced_draws_as_often_as_asked_where_there_are_more(self):
    block = np.repeat(np.arange(12), 4)
    found = subsamples.balanced(block, 16, 50, np.random.default_rng(0))
    self.assertLen(set(map(tuple, found)), 50)
    self.assertEqual(set(found.sum(axis=1)), {16})

  def test_balanced_leaves_at_least_as_many_runs_for_the_truth(self):
    block = np.repeat(np.arange(3), 4)
    self.assertEmpty(subsamples.balanced(block, 8, 50, None))
    self.assertEmpty(subsamples.balanced(block, 6, 50, None))

  def test_random_takes_any_runs(self):
    block = np.repeat(np.arange(4), 5)
    found = subsamples.random(block, 6, 400, np.random.default_rng(0))
    self.assertEqual(set(found.sum(axis=1)), {6})
    share = found.mean(axis=0)
    np.testing.assert_allclose(share, 0.3, atol=0.1)


class DiscoveriesTest(absltest.TestCase):
  def test_what_only_the_study_shows_is_false(self):
    rng = np.random.default_rng(0)
    member = rng.random((120, _EXAMPLES)).argsort(axis=0) % 2 == 0
    chosen = np.arange(120) < 40
    values = np.zeros(member.shape)
    # Four examples that every run memorises, one that only the study does,
    # and one that only the others do.
    values[:, :4] = member[:, :4]
    values[chosen, 4] = member[chosen, 4]
    values[~chosen, 5] = member[~chosen, 5]
    ensemble = subsamples.Ensemble(
      member, {'correctness': values}, np.zeros(120, int)
    )
    for row in discoveries.discoveries(ensemble, chosen[None]):
      self.assertEqual(row['flagged'], 5)
      self.assertEqual(row['memorised'], 5)
      self.assertAlmostEqual(row['fdr'], 0.2)
      self.assertAlmostEqual(row['fdr_clear'], 0.2)
      self.assertAlmostEqual(row['power'], 0.8)
      self.assertAlmostEqual(row['power_strong'], 0.8)

  def test_nothing_to_find_is_no_power_and_no_false_discovery(self):
    ensemble = _ensemble(4, _bernoulli(0.97, 0.97))
    taken = subsamples.balanced(ensemble.block, _BLOCK, 10, None)
    for row in discoveries.discoveries(ensemble, taken):
      self.assertEqual((row['flagged'], row['fdr']), (0, 0))
      self.assertIsNone(row['power'])

  def test_reliability_is_that_of_known_variances(self):
    gap = np.linspace(0, 0.5, _EXAMPLES)
    ensemble = _ensemble(12, _bernoulli(0.4 + gap, 0.4))
    taken = subsamples.balanced(ensemble.block, _BLOCK, 12, None)
    rows = discoveries.reliability(ensemble, taken, (_BLOCK, 60))
    seen = 0.4 + gap
    noise = (seen * (1 - seen) + 0.24).mean() / (_BLOCK // 2)
    true = gap.var()
    for row in rows:
      self.assertAlmostEqual(row['realised'], true / (true + noise), delta=0.05)
      self.assertAlmostEqual(row['predicted'], row['realised'], delta=0.06)
      self.assertAlmostEqual(row['at'][str(_BLOCK)], row['predicted'])
      self.assertAlmostEqual(
        row['at']['60'], true / (true + noise / 3), delta=0.07
      )


class IntervalsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(1)
    self.member = rng.random((24, 30)) < 0.4
    self.member[:3], self.member[3:6] = True, False
    self.values = rng.beta(0.7, 0.5, (24, 30))

  @parameterized.parameters(('Welch', False), ('Student', True))
  def test_equals_library(self, name, equal):
    method = methods.METHODS['probability'][name]
    low, high = method(methods.sample(self.member, self.values))
    for i, inside in enumerate(self.member.T):
      interval = stats.ttest_ind(
        self.values[inside, i], self.values[~inside, i], equal_var=equal
      ).confidence_interval(0.95)
      self.assertAlmostEqual(low[i], max(interval.low, -1))
      self.assertAlmostEqual(high[i], min(interval.high, 1))

  def test_two_halves_of_pseudo_runs_are_one_each(self):
    # Of twice the runs with twice the pseudo-runs the means are the same.
    once = methods.sample(self.member, self.values)
    twice = methods.sample(
      np.tile(self.member, (2, 1)), np.tile(self.values, (2, 1))
    )
    centre = lambda ends: np.mean(ends, axis=0)
    half = methods.half_welch(once)
    whole = methods.pseudo_welch(twice)
    inside = np.abs([*half, *whole]).max(axis=0) < 1
    np.testing.assert_allclose(centre(half)[inside], centre(whole)[inside])

  def test_bootstrap_is_about_a_normal_interval_of_its_own_variance(self):
    member = np.arange(400)[:, None] % 2 == np.zeros(5)[None]
    values = np.random.default_rng(0).beta(2, 2, member.shape)
    sample = methods.sample(member, values)
    np.testing.assert_allclose(
      methods.bootstrap(sample), methods.normal(sample), atol=0.01
    )

  def test_published_agresti_caffo(self):
    # Agresti & Caffo (2000), section 1: 7 of 10 against 2 of 10 is about
    # the Wald interval of 8 of 12 against 3 of 12.
    right = np.concatenate([np.arange(10) < 7, np.arange(10) < 2])[:, None]
    member = (np.arange(20) < 10)[:, None]
    low, high = methods.agresti_caffo(methods.sample(member, right * 1.0))
    half = 1.959964 * np.sqrt((8 / 12 * 4 / 12 + 3 / 12 * 9 / 12) / 12)
    self.assertAlmostEqual(low[0], 5 / 12 - half, places=6)
    self.assertAlmostEqual(high[0], 5 / 12 + half, places=6)

  @parameterized.parameters(*itertools.chain(*methods.METHODS.values()))
  def test_examples_do_not_matter_to_each_other(self, name):
    [method] = [m[name] for m in methods.METHODS.values() if name in m]
    values = self.values
    if name in methods.METHODS['correctness']:
      values = values.round()
    order = np.random.default_rng(2).permutation(values.shape[1])
    ends = method(methods.sample(self.member, values))
    moved = method(methods.sample(self.member[:, order], values[:, order]))
    for before, after in zip(ends, moved):
      np.testing.assert_allclose(before[order], after)


class LoadTest(absltest.TestCase):
  def test_reads_finished_map_runs_with_their_blocks(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    (folder / 'arrays').mkdir()
    rng = np.random.default_rng(0)
    member, logits = rng.random((4, 3)) < 0.5, rng.normal(size=(4, 3, 2))
    np.save(folder / 'arrays' / 'membership.npy', member)
    np.save(folder / 'arrays' / 'logits.npy', logits)
    runs = {
      'table': ['main', 'map', 'map', 'map', 'map-1', 'map-1'],
      'purpose': ['noisy'] + ['map'] * 5,
      'status': ['done', 'done', 'diverged', 'done', 'done', 'done'],
    }
    pd.DataFrame(runs).to_parquet(folder / 'runs.parquet')
    pd.DataFrame(
      {'given': ['b', 'a', 'b'], 'noisy': [True, False, False]}
    ).to_parquet(folder / 'examples.parquet')
    manifest = {
      'data': {'label_names': ['a', 'b']},
      'in_accuracy': {'all': 0.5, 'noisy': None},
      'config': {},
      'commit': None,
    }
    (folder / 'manifest.json').write_text(json.dumps(manifest))
    ensemble, study = coverage.load(folder)
    np.testing.assert_array_equal(ensemble.membership, member)
    np.testing.assert_array_equal(ensemble.block, [0, 0, 1, 1])
    self.assertEqual((study['runs'], study['noisy']), (4, 1))
    given = np.array([1, 0, 1])
    for run, example in np.ndindex(4, 3):
      chosen = np.exp(logits[run, example])
      share = chosen[given[example]] / chosen.sum()
      right = ensemble.values['correctness'][run, example]
      self.assertEqual(right, share > 0.5)
      self.assertAlmostEqual(
        ensemble.values['probability'][run, example], share
      )


class MeasureTest(absltest.TestCase):
  def test_what_was_missed_is_counted(self):
    ensemble = _ensemble(8, _bernoulli(np.linspace(0.2, 1, _EXAMPLES), 0.2))
    found = coverage.measure(ensemble, (_BLOCK, 2 * _BLOCK), 5)
    self.assertEqual(found['missed'], coverage.missed(found['coverage']))
    row = next(
      r
      for r in found['coverage']
      if (r['method'], r['stratum']) == ('Agresti-Caffo', '0.25 to 0.5')
    )
    row['coverage'] = 0.899
    found['missed'] = coverage.missed(found['coverage'])
    self.assertIn(row, found['missed'])
    # As it comes out of the file.
    text = coverage.tables_of(json.loads(json.dumps(found)))
    for name in ('coverage', 'discoveries', 'reliability', 'missed'):
      self.assertIn(f'{name}\n', text)
    self.assertIn('0.899', text.partition('missed\n')[2])
    text = coverage.tables_of({'missed': [], 'study': {'runs': 3}})
    self.assertEqual(text, 'missed\nnone')


if __name__ == '__main__':
  absltest.main()
