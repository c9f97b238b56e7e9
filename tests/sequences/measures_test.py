"""Measures: the same as their definitions, one sequence at a time."""

import math
import zlib
from fractions import Fraction

import numpy as np
from absl.testing import absltest, parameterized
from scipy import special

from memloc_jax.sequences import measures

_K = 5


def _model(ids, seed, sharp=2.0):
  """Logits that depend on the token before, [vocabulary, vocabulary]."""
  rng = np.random.default_rng(seed)
  logits = rng.normal(0, 1, (20, 20))
  logits[ids[:-1], ids[1:]] += sharp
  return logits


def _table(logits, ids):
  """The columns of a table for the tokens after the first, [positions]."""
  rows = special.log_softmax(logits[ids[:-1]], axis=-1)
  own = rows[np.arange(len(rows)), ids[1:]]
  rank = (rows > own[:, None]).sum(-1)
  top = np.sort(rows, axis=-1)[:, -_K:]
  logp_k = np.where(rank < _K, own - special.logsumexp(top, axis=-1), -np.inf)
  p = np.exp(rows)
  entropy = -(p * rows).sum(-1)
  sd = np.sqrt((p * rows**2).sum(-1) - entropy**2)
  return own, logp_k, entropy, sd, rank


class MeasuresTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    # No token twice, so that the boosted successors do not collide.
    self.ids = np.stack([rng.permutation(20)[:9] for _ in range(6)])
    self.models = [
      [_model(ids, seed, sharp) for ids in self.ids]
      for seed, sharp in ((1, 1.0), (2, 3.0), (3, 6.0))
    ]
    tables = [
      [_table(m, ids) for m, ids in zip(run, self.ids)] for run in self.models
    ]
    self.logp, self.logp_k, self.entropy, self.sd, self.rank = (
      np.array([[table[i] for table in run] for run in tables])
      for i in range(5)
    )

  def test_extractable_is_what_greedy_decoding_gives(self):
    decoded = np.empty((3, 6, 8), int)
    for run, models in enumerate(self.models):
      for at, logits in enumerate(models):
        token = self.ids[at, 0]
        for position in range(8):
          token = decoded[run, at, position] = logits[token].argmax()
    same = (decoded == self.ids[:, 1:]).all(-1)
    self.assertTrue(same.any() and not same.all())
    np.testing.assert_array_equal(measures.extractable(self.rank), same)
    match = measures.greedy_match(decoded, self.ids[:, 1:])
    np.testing.assert_array_equal(match == 1, same)
    for run in range(3):
      for at in range(6):
        want = sum(decoded[run, at] == self.ids[at, 1:]) / 8
        self.assertAlmostEqual(match[run, at], want)

  def test_a_longer_continuation_is_extractable_less_often(self):
    for length in range(1, 8):
      longer = measures.extractable(self.rank[..., : length + 1])
      self.assertTrue(
        (longer <= measures.extractable(self.rank[..., :length])).all()
      )

  def test_sampling_agrees_with_p_z(self):
    # The first four tokens of a sharp model, so that p_z is not small.
    log_p = measures.log_p_z(self.logp_k[2, :, :4])
    rng = np.random.default_rng(0)
    draws = 4000
    for at in np.flatnonzero((log_p > np.log(0.01)) & (log_p < np.log(0.9))):
      token = np.full(draws, self.ids[at, 0])
      hit = np.ones(draws, bool)
      for position in range(1, 5):
        logits = self.models[2][at][token]
        bar = np.sort(logits, axis=-1)[:, -_K][:, None]
        p = special.softmax(np.where(logits >= bar, logits, -np.inf), axis=-1)
        token = (p.cumsum(-1) < rng.random((draws, 1))).sum(-1)
        hit &= token == self.ids[at, position]
      p_z = np.exp(log_p[at])
      self.assertAlmostEqual(
        hit.mean(), p_z, delta=4 * math.sqrt(p_z * (1 - p_z) / draws)
      )

  def test_outside_the_top_k(self):
    outside = (self.rank >= _K).any(-1)
    self.assertTrue(outside.any() and not outside.all())
    log_p = measures.log_p_z(self.logp_k)
    np.testing.assert_array_equal(np.isneginf(log_p), outside)
    np.testing.assert_array_equal(
      np.isposinf(measures.log10_n(log_p, 0.5)), outside
    )
    # Among the k likeliest tokens, each is likelier than among all.
    self.assertTrue((log_p >= self.logp.sum(-1))[~outside].all())

  @parameterized.product(
    p=(0.1, 0.5, 0.9), p_z=(1.0, 0.999, 0.5, 0.3, 1e-3, 1e-9, 2e-15)
  )
  def test_n(self, p, p_z):
    n = round(10 ** float(measures.log10_n(np.log(p_z), p)))
    if p_z > 1e-6:
      # The smallest n that does, in whole fractions of the same floats.
      missed = 1 - Fraction(float(np.exp(np.log(p_z))))
      self.assertLessEqual(missed**n, 1 - Fraction(p))
      if n > 1:
        self.assertGreater(missed ** (n - 1), 1 - Fraction(p))
    else:
      self.assertAlmostEqual(n * p_z / -math.log1p(-p), 1, delta=1e-6)

  def test_n_of_probabilities_that_are_too_small_to_hold(self):
    log_p = np.array([-35.9999, -36.0001, -1000.0])
    found = measures.log10_n(log_p, 0.5)
    want = (np.log(np.log(2)) - log_p) / np.log(10)
    np.testing.assert_allclose(found, want, rtol=0, atol=2e-4)
    self.assertEqual(found[2], want[2])
    with self.assertRaises(ValueError):
      measures.log10_n(log_p, 1.0)

  def test_means(self):
    for run in range(3):
      for at in range(6):
        rank, logp = self.rank[run, at], self.logp[run, at]
        self.assertAlmostEqual(
          measures.accuracy(self.rank)[run, at], sum(rank == 0) / 8
        )
        found = measures.log_likelihood(self.logp)
        self.assertAlmostEqual(found[run, at], sum(logp) / 8)
        text = f'text {at}' * at
        found = measures.zlib_score(
          self.logp, [f'text {i}' * i for i in range(6)]
        )
        self.assertAlmostEqual(
          found[run, at], sum(logp) / 8 / len(zlib.compress(text.encode()))
        )

  @parameterized.parameters(0.2, 0.5, 1.0)
  def test_least_likely_tokens(self, share):
    standard = (self.logp + self.entropy) / self.sd
    kept = max(1, int(8 * share))
    for run in range(3):
      for at in range(6):
        self.assertAlmostEqual(
          measures.min_k(self.logp, share=share)[run, at],
          sum(sorted(self.logp[run, at])[:kept]) / kept,
        )
        self.assertAlmostEqual(
          measures.min_k_plus(self.logp, self.entropy, self.sd, share=share)[
            run, at
          ],
          sum(sorted(standard[run, at])[:kept]) / kept,
        )

  def test_padding_changes_nothing(self):
    length = np.array([8, 1, 5, 4, 7, 8])
    real = np.arange(8) < length[:, None]
    junk = lambda values: np.where(real, values, -np.inf)
    for measure, arrays in (
      (measures.log_likelihood, (self.logp,)),
      (measures.min_k, (self.logp,)),
      (measures.min_k_plus, (self.logp, self.entropy, self.sd)),
      (measures.accuracy, (self.rank,)),
    ):
      found = measure(*map(junk, arrays), real=real)
      for at, size in enumerate(length):
        alone = measure(*(a[:, at : at + 1, :size] for a in arrays))
        np.testing.assert_allclose(found[:, at], alone[:, 0], rtol=1e-12)

  def test_tokens_that_a_model_is_certain_of(self):
    zero = np.zeros((1, 1, 5), np.float16)
    self.assertEqual(measures.min_k_plus(zero, zero, zero), 0)
    self.assertLess(measures.min_k_plus(zero - 9, zero, zero), -1000)

  @parameterized.parameters(0.0, 1.5)
  def test_share_out_of_range(self, share):
    with self.assertRaises(ValueError):
      measures.min_k(self.logp, share=share)


if __name__ == '__main__':
  absltest.main()
