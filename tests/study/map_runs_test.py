"""Clusters and small classes: what their runs see, and what scores say then."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from absl.testing import absltest

from memloc_jax.ensemble import membership
from memloc_jax.errors import InputError
from memloc_jax.estimators.memorisation import memorisation
from memloc_jax.study import map_runs
from memloc_jax.study.config import MapConfig
from tests.study import tiny

_LABELS = np.repeat([0, 1, 2], [40, 35, 5])


def _draw(size=30, block=0, clusters=None, labels=_LABELS, **changes):
  config = dataclasses.replace(MapConfig(), **changes)
  return map_runs.draw(config, size, block, labels, clusters)


class DrawTest(absltest.TestCase):
  def test_defaults_draw_as_ever(self):
    for block in (0, 2):
      np.testing.assert_array_equal(
        _draw(block=block), membership.balanced(30, 80, 0.5, 1, block)
      )
    np.testing.assert_array_equal(
      _draw(design='independent', ratio=0.7),
      membership.independent(30, 80, 0.7, 1),
    )

  def test_only_small_classes_have_their_ratio(self):
    inside = _draw(small_class=6).sum(0)
    np.testing.assert_array_equal(inside, np.repeat([15, 24], [75, 5]))
    np.testing.assert_array_equal(_draw(small_class=5), _draw())
    inside = _draw(small_class=36, small_class_ratio=0.7).sum(0)
    np.testing.assert_array_equal(inside, np.repeat([15, 21], [40, 40]))

  def test_memorisation_of_a_cluster_is_not_hidden(self):
    # Examples 0 and 1 say the same, and a run knows their label if it saw
    # either; all other examples are known to every run.
    clusters = np.arange(80)
    clusters[1] = 0

    def scores(member):
      correct = np.ones(member.shape, bool)
      correct[:, :2] = member[:, :2].any(1, keepdims=True)
      return memorisation(member, correct).counterfactual_memorisation

    apart = scores(_draw(200))
    together = scores(_draw(200, clusters=clusters))
    # By themselves, the OUT runs have seen the other one half of the time.
    np.testing.assert_allclose(apart[:2], 0.5, atol=0.15)
    np.testing.assert_array_equal(together[:2], 1)
    np.testing.assert_array_equal(together[2:], 0)

  def test_a_run_without_examples_is_refused(self):
    with self.assertRaisesRegex(InputError, 'map.ratio.*80 form one cluster'):
      _draw(clusters=np.zeros(80, int))
    with self.assertRaisesRegex(InputError, 'map.ratio=0.01'):
      _draw(design='independent', ratio=0.01)


class ClustersTest(tiny.EncoderCase):
  @pytest.mark.full
  def test_a_study_of_clusters(self):
    words = ('old', 'new', 'big', 'calm', 'small', 'grey', 'young', 'local')
    rows = [
      {'words': f'{start} {word} sailor {verb} the ship', 'label': label}
      for word in words
      for start, verb, label in (
        ('the', 'praised', 'good'),
        ('The', 'praised', 'bad' if word == 'old' else 'good'),
        ('the', 'hated', 'bad'),
      )
    ]
    path = self.folder / 'rows.jsonl'
    path.write_text('\n'.join(map(json.dumps, rows)))
    config = tiny.config(
      self.encoder,
      self.folder,
      task__name='own',
      task__source='hub:',
      task__files=str(path),
      task__text='words',
      task__label='label',
      task__noise=0.0,
      train__seeds=(),
      map__clusters=True,
    )
    workdir = tiny.run(config, self.folder / 'clusters')
    member = np.load(workdir / 'arrays' / 'membership.npy')
    np.testing.assert_array_equal(member[:, ::3], member[:, 1::3])
    self.assertTrue((member[:, ::3] != member[:, 2::3]).any())
    np.testing.assert_array_equal(member.sum(0), 2)
    examples = pd.read_parquet(workdir / 'examples.parquet')
    index = np.arange(len(rows))
    np.testing.assert_array_equal(
      examples['cluster'], np.where(index % 3 == 1, index - 1, index)
    )
    np.testing.assert_array_equal(
      examples['cluster_size'], np.where(index % 3 == 2, 1, 2)
    )
    np.testing.assert_array_equal(
      np.flatnonzero(examples['cluster_labels_disagree']), [0, 1]
    )
    manifest = json.loads((workdir / 'manifest.json').read_text('utf-8'))
    self.assertEqual(
      manifest['data']['near_duplicates'],
      {'examples': 16, 'clusters': 8, 'clusters_with_different_labels': 1},
    )
    page = (workdir / 'report.html').read_text('utf-8')
    self.assertIn('Near-duplicates: 16 of 24 examples', page)
    self.assertIn('all of a cluster or nothing of it (map.clusters)', page)


if __name__ == '__main__':
  absltest.main()
