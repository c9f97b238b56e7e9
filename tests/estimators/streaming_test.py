"""Blocks of logits cover the examples, and bad input is named."""

from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.estimators import predictions, streaming

_LOGITS = np.arange(24.0).reshape(2, 4, 3)


def _changed(where, value):
  logits = _LOGITS.copy()
  logits[where] = value
  return logits


class LogitBlocksTest(parameterized.TestCase):
  @parameterized.parameters(np.float16, np.float32, np.float64)
  def test_blocks_cover_the_examples_and_are_the_callers(self, dtype):
    logits = _LOGITS.astype(dtype)
    seen = np.full(_LOGITS.shape, np.nan)
    with mock.patch.object(predictions, 'BLOCK', 3):
      for block, values in streaming.logit_blocks(logits, np.arange(4) % 3):
        self.assertEqual(values.dtype, np.float64)
        seen[:, block] = values
        values[:] = -1
    np.testing.assert_array_equal(seen, _LOGITS)
    np.testing.assert_array_equal(logits, _LOGITS)

  @parameterized.named_parameters(
    ('rank', _LOGITS[0], np.zeros(4, int), r'\(4, 3\).*\(4,\)'),
    ('labels', _LOGITS, np.zeros(3, int), r'\(2, 4, 3\).*\(3,\)'),
    ('one_class', _LOGITS[..., :1], np.zeros(4, int), r'\(2, 4, 1\)'),
    ('too_large', _LOGITS, np.array([0, 1, 3, 2]), 'Label 3 of example 2'),
    ('negative', _LOGITS, np.array([0, -1, 2, 2]), 'Label -1 of example 1'),
    ('nan', _changed((1, 3, 0), np.nan), np.zeros(4, int), 'Run 1.*example 3'),
    ('inf', _changed((0, 2, 1), np.inf), np.zeros(4, int), 'Run 0.*example 2'),
  )
  def test_refuses(self, logits, labels, message):
    with (
      mock.patch.object(predictions, 'BLOCK', 2),
      self.assertRaisesRegex(ValueError, message),
    ):
      list(streaming.logit_blocks(logits, labels))


if __name__ == '__main__':
  absltest.main()
