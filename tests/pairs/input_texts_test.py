"""What is hidden, and what is left of a text."""

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.pairs import input_texts
from memloc_jax.tasks.encode import Encoded

# Two texts: [CLS] a b ##b c [SEP], and [CLS] d [SEP].
_IDS = np.array([[2, 11, 12, 13, 14, 3], [2, 15, 3, 0, 0, 0]], np.int32)
_WORD = np.array([[-1, 0, 1, 1, 2, -1], [-1, 0, -1, -1, -1, -1]])
_EXAMPLES = Encoded(_IDS, np.array([6, 3], np.int32), (4, 6))


class UnitsTest(parameterized.TestCase):
  @parameterized.parameters(
    ('token', 9, [-1, 0, 1, 2, 3, -1]),
    ('word', 9, [-1, 0, 1, 1, 2, -1]),
    ('token', 2, [-1, 0, 0, 1, 1, -1]),
    ('word', 2, [-1, 0, 0, 0, 1, -1]),
    ('token', 1, [-1, 0, 0, 0, 0, -1]),
  )
  def test_units(self, by, most, wanted):
    found = input_texts.units(_WORD, by, most)
    np.testing.assert_array_equal(found[0], wanted)
    # A short text is not cut into spans because another one is long.
    np.testing.assert_array_equal(found[1], [-1, 0, -1, -1, -1, -1])

  def test_each_unit_once(self):
    unit = input_texts.units(_WORD, 'word', 9)
    rows, hidden = input_texts.each_unit(unit)
    np.testing.assert_array_equal(rows, [0, 0, 0, 1])
    np.testing.assert_array_equal(hidden[1], [0, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(hidden.any(0), (unit >= 0).any(0))


class WithoutTest(absltest.TestCase):
  def test_masked(self):
    hidden = np.array([[0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 0, 1]], bool)
    found = input_texts.without(_EXAMPLES, np.arange(2), hidden, 9, 0)
    np.testing.assert_array_equal(
      found.ids, [[2, 11, 9, 9, 14, 3], [2, 9, 3, 0, 0, 0]]
    )
    np.testing.assert_array_equal(found.length, [6, 3])

  def test_taken_out(self):
    hidden = np.array([[0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 0, 1]], bool)
    found = input_texts.without(_EXAMPLES, np.arange(2), hidden, None, 7)
    np.testing.assert_array_equal(
      found.ids, [[2, 11, 14, 3, 7, 7], [2, 3, 7, 7, 7, 7]]
    )
    np.testing.assert_array_equal(found.length, [4, 2])
    np.testing.assert_array_equal(found.bucket(), [0, 0])

  def test_a_text_without_special_tokens_keeps_its_last_token(self):
    ids = np.array([[11, 12, 13, 0], [14, 0, 0, 0]], np.int32)
    texts = Encoded(ids, np.array([3, 1], np.int32), (4,))
    everything = ids > 0
    for hidden in (everything, np.ones_like(everything)):
      found = input_texts.without(texts, np.arange(2), hidden, None, 7)
      np.testing.assert_array_equal(found.length, [1, 1])
      np.testing.assert_array_equal(found.ids, [[13, 7, 7, 7], [14, 7, 7, 7]])
    # What is not the whole text may have its end.
    end = np.array([[0, 1, 1, 0], [0, 0, 0, 0]], bool)
    found = input_texts.without(texts, np.arange(2), end, None, 7)
    np.testing.assert_array_equal(found.ids[0], [11, 7, 7, 7])

  def test_rows_may_repeat_and_masks_be_narrow(self):
    hidden = np.array([[0, 1], [0, 0]], bool)
    found = input_texts.without(_EXAMPLES, np.array([1, 1]), hidden, 9, 0)
    np.testing.assert_array_equal(found.ids[0], [2, 9, 3, 0, 0, 0])
    np.testing.assert_array_equal(found.ids[1], _IDS[1])


if __name__ == '__main__':
  absltest.main()
