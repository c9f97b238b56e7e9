"""Perturbed texts: what changes, how much, and what stays."""

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.tasks import perturb

_TEXT = ' '.join(f'word{i:02}' for i in range(40)) + '  end'


class KindsTest(parameterized.TestCase):
  @parameterized.parameters(*perturb.KINDS)
  def test_same_seed_same_text(self, kind):
    change = lambda seed: perturb.perturb((_TEXT, 'two'), kind, 0.5, [seed])
    self.assertEqual(change(1), change(1))
    if kind not in perturb.WHOLE:
      self.assertNotEqual(change(1), change(2))
      self.assertEqual(
        perturb.perturb((_TEXT, 'two'), kind, 0.0, [1]), (_TEXT, 'two')
      )

  def test_case(self):
    self.assertEqual(perturb.perturb(('Ab C',), 'lower', 1, [1]), ('ab c',))
    self.assertEqual(perturb.perturb(('Ab c',), 'upper', 1, [1]), ('AB C',))

  @parameterized.parameters('typos', 'shuffle')
  def test_strength_is_the_share_of_changed_words(self, kind):
    changed = lambda strength: [
      a != b
      for seed in range(30)
      for a, b in zip(
        _TEXT.split(),
        perturb.perturb((_TEXT,), kind, strength, [seed])[0].split(),
      )
    ]
    for strength in (0.2, 0.6):
      found = np.mean(changed(strength))
      # Two equal letters or a word moved to its place make no change.
      self.assertBetween(found, 0.7 * strength, 1.1 * strength)

  def test_typos_are_nested_and_keep_letters(self):
    weak, strong = (
      perturb.perturb((_TEXT,), 'typos', s, [3])[0].split() for s in (0.3, 0.8)
    )
    for word, a, b in zip(_TEXT.split(), weak, strong):
      self.assertEqual(sorted(word), sorted(b))
      self.assertIn(a, (word, b))

  def test_shuffle_keeps_words_and_spaces(self):
    found = perturb.perturb((_TEXT,), 'shuffle', 0.7, [3])[0]
    self.assertEqual(sorted(found.split()), sorted(_TEXT.split()))
    self.assertEqual(found.count('  '), 1)

  def test_empty_and_short_texts(self):
    for kind in perturb.KINDS:
      self.assertEqual(perturb.perturb(('',), kind, 1, [1]), ('',))
      self.assertLen(perturb.perturb(('a',), kind, 1, [1])[0], 1)


if __name__ == '__main__':
  absltest.main()
