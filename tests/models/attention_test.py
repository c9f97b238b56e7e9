"""Which positions of a sequence may look at which, and where they are."""

import dataclasses
import functools

import chex
import jax
import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.models import encoder, gpt_neo, interface
from tests.models.stored import NAMES, load, run

ENCODERS = [n for n in NAMES if isinstance(load(n)[0], encoder.Encoder)]
CAUSAL = sorted(set(NAMES) - set(ENCODERS))
# Row of the position table that the first token takes.
FIRST_ROW = {
  'bert_three_layers': 0,
  'distilbert_three_layers': 0,
  'gpt_neo_four_layers': 0,
  'opt_post_norm': 2,
  'opt_three_layers': 2,
  'roberta_three_layers': 2,  # Its padding token's id is 1.
}
AT = 4


def with_other_token(model, tokens, at=AT):
  """The same batch with another token at this position of the first row."""
  other = tokens._replace(ids=tokens.ids.copy())
  other.ids[0, at] = (other.ids[0, at] + 1) % model.vocab_size
  return other


class LookingTest(parameterized.TestCase):
  def change(self, name):
    """How much every position changes with one token, [layer + 1, length]."""
    model, params, tokens = load(name)
    other = with_other_token(model, tokens)
    before, after = (run(model, params, t).hidden for t in (tokens, other))
    return np.abs(before - after)[:, 0].max(axis=-1)

  @parameterized.parameters(*CAUSAL)
  def test_causal_models_do_not_look_ahead(self, name):
    change = self.change(name)
    np.testing.assert_array_equal(change[:, :AT], 0)
    np.testing.assert_array_less(1e-3, change[:, AT])
    np.testing.assert_array_equal(change[0, AT + 1 :], 0)
    np.testing.assert_array_less(1e-4, change[-1, AT + 1 :])

  @parameterized.parameters(*ENCODERS)
  def test_encoders_look_both_ways(self, name):
    change = self.change(name)
    np.testing.assert_array_less(1e-3, change[1:])
    np.testing.assert_array_equal(np.delete(change[0], AT), 0)

  @parameterized.parameters(2, 3, 5)
  def test_local_layers_look_as_far_as_the_window(self, window):
    model, params, tokens = load('gpt_neo_four_layers')
    other = with_other_token(model, tokens, at=1)
    blocks = jax.tree.map(lambda x: x[:1], params['blocks'])
    for kind, reach in (('local', window), ('global', 8)):
      model = dataclasses.replace(
        model, num_layers=1, attention=(kind,), window=window
      )
      before, after = (
        run(model, params | {'blocks': blocks}, t).hidden[1, 0]
        for t in (tokens, other)
      )
      change = np.abs(before - after).max(axis=-1)
      np.testing.assert_array_less(1e-4, change[1 : 1 + reach])
      np.testing.assert_array_equal(change[1 + reach :], 0)

  def test_layers_that_look_at_a_window(self):
    model, _, _ = load('gpt_neo_four_layers')
    self.assertEqual(model.attention, ('global', 'local') * 2)
    self.assertEqual(
      model.constants()['local'].tolist(), [False, True, False, True]
    )
    # A window as long as the sequence is none.
    _, params, tokens = load('gpt_neo_four_layers')
    longer = dataclasses.replace(model, window=9)
    everywhere = dataclasses.replace(model, attention=('global',) * 4)
    self.assertIsInstance(model, gpt_neo.GptNeo)
    chex.assert_trees_all_close(
      run(longer, params, tokens),
      run(everywhere, params, tokens),
      rtol=0,
      atol=1e-5,
    )
    narrow = run(model, params, tokens).logits
    wide = run(everywhere, params, tokens).logits
    self.assertGreater(np.abs(narrow - wide).max(), 1e-2)


class PositionTest(parameterized.TestCase):
  @parameterized.parameters(*FIRST_ROW.items())
  def test_tokens_take_consecutive_rows(self, name, first):
    model, params, tokens = load(name)
    embeddings = params['embeddings']
    table = embeddings['position']
    plain = model.embed(embeddings, tokens, None)
    real = np.asarray(interface.real_tokens(tokens))
    for row in range(len(table)):
      changed = table.copy()
      # Not by a constant, which a layer norm would take away.
      changed[row] += np.linspace(-1, 1, model.width)
      other = model.embed(embeddings | {'position': changed}, tokens, None)
      change = np.abs(other - plain).max(axis=-1)
      at = np.arange(9)[None] == row - first
      np.testing.assert_array_equal((change > 1e-4)[real], (at & real)[real])

  @parameterized.parameters(*FIRST_ROW.items())
  def test_longest_sequence_takes_the_last_row(self, name, first):
    model, params, _ = load(name)
    rows = len(params['embeddings']['position'])
    self.assertEqual(model.max_length, rows - first)

  def test_roberta_counts_from_its_padding_token(self):
    model, params, tokens = load('roberta_three_layers')
    embeddings = params['embeddings']
    for pad_id in (0, 1, 5):
      other = dataclasses.replace(model, pad_id=pad_id)
      self.assertEqual(other.max_length, 18 - pad_id - 1)
      rolled = np.roll(embeddings['position'], 1 - pad_id, axis=0)
      np.testing.assert_array_equal(
        other.embed(embeddings, tokens, None),
        model.embed(embeddings | {'position': rolled}, tokens, None),
      )

  def test_opt_gives_padding_one_row(self):
    model, params, tokens = load('opt_three_layers')
    embeddings = params['embeddings']
    real = np.asarray(interface.real_tokens(tokens))
    plain = model.embed(embeddings, tokens, None)
    changed = embeddings['position'].copy()
    changed[1] += 1
    other = model.embed(embeddings | {'position': changed}, tokens, None)
    expected = np.where(real, 0, 1)[..., None]
    np.testing.assert_allclose(
      other - plain, np.broadcast_to(expected, plain.shape), rtol=0, atol=1e-5
    )

  @parameterized.product(
    case=(
      ('gpt_neox_three_layers', 1e-5),
      ('gpt_neox_serial', 1e-5),
      ('llama_three_layers', 3e-5),  # Its gates multiply what is rounded.
    ),
    shift=(1, 4),
  )
  def test_rotary_scores_depend_on_the_distance_only(self, case, shift):
    name, atol = case
    model, params, tokens = load(name)
    # No position is in the stream, all is in the scores.
    h = model.embed(params['embeddings'], tokens, None)
    apply = functools.partial(
      interface.apply_blocks, model, params['blocks'], collect=True
    )
    _, plain = apply(h, np.ones((4, 9), bool))
    before = ((0, 0), (shift, 0), (0, 0))
    seen = np.arange(9 + shift)[None] >= shift
    seen = np.broadcast_to(seen, (4, 9 + shift))
    _, shifted = apply(np.pad(h, before), seen)
    chex.assert_trees_all_close(shifted[:, :, shift:], plain, rtol=0, atol=atol)
    # Further apart is not the same.
    gap = np.insert(np.ones((4, 9), bool), [AT] * shift, False, axis=1)
    _, apart = apply(np.insert(h, [AT] * shift, 0, axis=1), gap)
    change = np.abs(apart[:, :, gap[0]] - plain).max(axis=(0, 1, 3))
    # The stream's largest elements are 11 to 24; rounding goes by them.
    rounding = 1e-6 * np.abs(plain).max()
    np.testing.assert_array_less(change[:AT], rounding)
    np.testing.assert_array_less(1e-3, change[AT:])


if __name__ == '__main__':
  absltest.main()
