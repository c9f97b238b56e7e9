"""What is printed where the output is no terminal."""

import contextlib
import io
from unittest import mock

from absl.testing import absltest
from rich.console import Console

from memloc_jax.ensemble.engine import Start
from memloc_jax.study import progress


def _printed(*updates, label=''):
  """Lines of a stage of 600 s with updates at (second, share)."""
  out, clock = io.StringIO(), mock.Mock(return_value=0.0)
  with mock.patch.object(progress.time, 'monotonic', clock):
    shown = progress.Progress(Console(file=out, width=200))
    with shown.stage('train'):
      for second, done in updates:
        clock.return_value = second
        shown.update(done, label)
      clock.return_value = 600
  return out.getvalue().splitlines()


class ProgressTest(absltest.TestCase):
  def test_remaining_time_is_that_of_the_work_at_hand(self):
    lines = _printed(
      (100, 0.02), (130, 1.0), (500, 0.1), (530, 0.4), label='runs'
    )
    self.assertEqual(
      lines,
      [
        'train runs: 100%, about 0 s left',
        # 0.3 took 30 s since the second piece of work began to report.
        'train runs: 40%, about 60 s left',
        'train: done in 600.0 s',
      ],
    )

  def test_without_progress_nothing_is_foretold(self):
    self.assertEqual(_printed((10, 0.5), (40, 0.5))[0], 'train: 50%')

  def test_quiet_says_warnings_alone_and_on_standard_error(self):
    for given in ({'quiet': True}, {'console': Console(quiet=True)}):
      error, out = io.StringIO(), io.StringIO()
      with (
        contextlib.redirect_stderr(error),
        contextlib.redirect_stdout(out),
      ):
        shown = progress.Progress(**given)
        with shown.stage('train'):
          shown.message('All is well.')
          shown.warn('Two runs diverged.')
      self.assertEqual(error.getvalue(), 'Two runs diverged.\n')
      self.assertEqual(out.getvalue(), '')

  def test_what_looks_like_markup_is_printed_as_it_is(self):
    text = "x.csv: 'a[b]' (3), '[/b]' (2), ':smile:' (1) " + 'and ' * 40
    out = io.StringIO()
    shown = progress.Progress(Console(file=out, width=80))
    shown.warn(text)
    shown.message(text)
    self.assertEqual(out.getvalue(), f'{text}\n{text}\n')

  def test_warnings_are_where_the_rest_is(self):
    out = io.StringIO()
    shown = progress.Progress(Console(file=out, width=200))
    shown.warn('Two runs diverged.')
    self.assertEqual(out.getvalue(), 'Two runs diverged.\n')

  def test_says_how_a_table_will_be_trained_before_it_is(self):
    out = io.StringIO()
    shown = progress.Progress(Console(file=out, width=200))
    line = shown.start(Start('map', 30, 4, 2, 4, 3 * 2**29))
    expected = (
      'map: 30 runs to train, 4 at once on each of 2 device(s), in 4 chunk(s); '
      '1.50 GiB of each device'
    )
    self.assertEqual(out.getvalue().strip(), expected)
    self.assertEndsWith(line, expected)


if __name__ == '__main__':
  absltest.main()
