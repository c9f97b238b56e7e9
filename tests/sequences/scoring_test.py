"""The teacher-forced table equals what NumPy makes of the same logits."""

from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized
from scipy import special

from memloc_jax.models import interface
from memloc_jax.models.interface import Tokens
from memloc_jax.sequences import scoring
from memloc_jax.tasks.encode import Encoded
from tests.models import small

_FIRST, _K = 3, 5


def _sequences(model, seed=0):
  rng = np.random.default_rng(seed)
  length = np.array([9, 4, 12, 3, 12, 7], np.int32)
  ids = rng.integers(0, model.vocab_size, (6, 12), dtype=np.int32)
  return Encoded(ids, length, (6, 12))


def _naive(model, params, ids, first, top_k):
  """One sequence without padding: `TOKEN` [positions]."""
  tokens = Tokens(ids[None], np.array([len(ids)], np.int32))
  hidden = interface.encode(model, params, tokens, None)
  logits = np.asarray(model.token_logits(params, hidden))[0].astype(np.float64)
  found = np.zeros(len(ids) - first, scoring.TOKEN)
  for at in range(first, len(ids)):
    row, target = logits[at - 1], int(ids[at])
    logp = special.log_softmax(row)
    p = np.exp(logp)
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))
    entropy = -(p * logp).sum()
    inside = target in order[:top_k]
    found[at - first] = (
      logp[target],
      row[target] - special.logsumexp(row[order[:top_k]])
      if inside
      else -np.inf,
      entropy,
      np.sqrt((p * (logp + entropy) ** 2).sum()),
      order.index(target),
      (row == row[target]).sum() > 1,
    )
  return found


class ScoreTest(parameterized.TestCase):
  @parameterized.parameters('gpt_neox', 'opt', 'gpt_neo', 'llama')
  def test_it_equals_a_naive_computation(self, name):
    model = small.model(name)
    params = [model.init(jax.random.key(seed)) for seed in (0, 1, 2)]
    sequences = _sequences(model)
    found = scoring.score(model, params, sequences, _FIRST, _K)
    self.assertEqual(found.shape, (3, 6, 12 - _FIRST))
    for run, tree in enumerate(params):
      for row, length in enumerate(sequences.length):
        ids = sequences.ids[row, :length]
        expected = _naive(model, tree, ids, _FIRST, _K)
        real = found[run, row, : length - _FIRST]
        for column in scoring.TOKEN.names:
          tolerance = 2e-3 if column in ('entropy', 'logp_sd') else 2e-5
          np.testing.assert_allclose(
            real[column].astype(float),
            expected[column].astype(float),
            rtol=0,
            atol=tolerance,
          )
        padding = found[run, row, max(length - _FIRST, 0) :]
        self.assertTrue(np.isnan(padding['logp']).all())
        self.assertTrue((padding['rank'] == model.vocab_size).all())

  def test_of_equal_logits_the_first_one_is_likeliest(self):
    model = small.model('gpt_neox')
    params = model.init(jax.random.key(0))
    # All logits are 0.
    params['embeddings'] = jax.tree.map(np.zeros_like, params['embeddings'])
    sequences = _sequences(model)
    [found] = scoring.score(model, [params], sequences, 1, _K)
    ids = sequences.ids[2, 1:12]
    np.testing.assert_array_equal(found[2]['rank'], ids)
    self.assertTrue(found[2]['tied'].all())
    np.testing.assert_allclose(
      found[2]['logp_k'], np.where(ids < _K, -np.log(_K), -np.inf), rtol=1e-6
    )
    np.testing.assert_allclose(
      found[2]['logp'], -np.log(model.vocab_size), rtol=1e-6
    )

  def test_small_chunks_change_nothing(self):
    model = small.model('gpt_neox')
    params = [model.init(jax.random.key(0))]
    sequences = _sequences(model)
    whole = scoring.score(model, params, sequences)
    with self.subTest('one sequence at a time'):
      with mock.patch.object(scoring, '_LOGITS', 1):
        chunks = scoring.score(model, params, sequences)
      np.testing.assert_allclose(chunks['logp'], whole['logp'], atol=1e-5)

  def test_an_encoder_is_refused(self):
    model = small.model('bert')
    with self.assertRaisesRegex(ValueError, 'predicts no next token'):
      scoring.score(model, [], _sequences(model))


if __name__ == '__main__':
  absltest.main()
