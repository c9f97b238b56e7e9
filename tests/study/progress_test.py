"""What is printed while a study runs, on a terminal and elsewhere."""

import contextlib
import io
import re
from unittest import mock

from absl.testing import absltest, parameterized
from rich.console import Console

from memloc_jax.ensemble.engine import Event, Start
from memloc_jax.study import progress
from memloc_jax.study.forecast import Work, after_training
from tests.command import terminal


def _console(columns: int = 80, is_terminal: bool = True) -> Console:
  return Console(
    file=io.StringIO(),
    width=columns,
    force_terminal=is_terminal,
    legacy_windows=False,
  )


def _screen(text: str, columns: int = 80) -> list[str]:
  """What a terminal shows in the end, which adds a \\r to each \\n."""
  return terminal.screen(text.replace('\n', '\r\n'), columns)


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
        'train: runs (100%), a few seconds left',
        # 0.3 took 30 s since the second piece of work began to report.
        'train: runs (40%), about 60 s left',
        'train: 10 min 0 s',
      ],
    )

  def test_without_progress_nothing_is_foretold(self):
    self.assertEqual(_printed((10, 0.5), (40, 0.5))[0], 'train (50%)')

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
      'map: 30 runs to train, 4 at a time on each of 2 devices, 1.50 GiB each'
    )
    self.assertEqual(out.getvalue().strip(), expected)
    self.assertEndsWith(line, expected)

  def test_a_stage_that_had_nothing_to_do_is_not_printed(self):
    out, clock = io.StringIO(), mock.Mock(return_value=0.0)
    with mock.patch.object(progress.time, 'monotonic', clock):
      shown = progress.Progress(Console(file=out, width=200))
      for name, seconds in (('variance', 0.1), ('report', 2.0)):
        with shown.stage(name):
          clock.return_value += seconds
    self.assertEqual(out.getvalue(), 'report: 2.0 s\n')


class StudyTest(parameterized.TestCase):
  """A study whose work is known, on a terminal and elsewhere."""

  def shown(self, is_terminal: bool, columns: int = 80) -> str:
    """What is seen of 40 epochs of 90 s of training, and of what follows."""
    console = _console(columns, is_terminal)
    clock = mock.Mock(return_value=0.0)
    work = Work({'map': 100.0}, {'map': 40.0}, ('report', 'retraining'))
    with mock.patch.object(progress.time, 'monotonic', clock):
      shown = progress.Progress(console)
      shown.expect(work)
      with shown.stage('train'):
        shown.compiling('map')
        self.draw(shown)
        clock.return_value = 30.0
        shown.start(Start('map', 30, 30, 1, 1, 2**30))
        for epoch in range(1, 41):
          clock.return_value += 90.0
          shown.epoch(Event('map', 0, 1, epoch, 40, 30, 0.5, 100))
          self.draw(shown)
      with shown.stage('retraining'):
        # Of one of many tables: not the study's, and not worth a line.
        shown.start(Start('retrain', 3, 3, 1, 1, 2**30))
        clock.return_value += 30.0
        shown.epoch(Event('retrain', 0, 1, 1, 1, 3, 0.5, 100))
        self.draw(shown)
        shown.update(0.2, 'main, a description that does not fit ' * 3)
        self.draw(shown)
    return console.file.getvalue()

  def test_in_the_end_there_are_the_stages_that_took_time(self):
    self.assertEqual(
      _screen(self.shown(True)),
      [
        'map: 30 runs to train, 30 at a time, 1.00 GiB',
        'train: 60 min 30 s',
        'retraining: 30.0 s',
      ],
    )

  def test_nothing_stays_of_a_bar_after_ctrl_c(self):
    console = _console()
    shown = progress.Progress(console)
    with shown.stage('train'):
      shown.update(0.5, 'a description that does not fit ' * 3)
      self.draw(shown)
      console.file.write('^C')  # As the terminal does.
      shown.message('saving')
      self.draw(shown)
    self.assertEqual(_screen(console.file.getvalue()), ['saving'])

  def test_a_terminal_shows_whole_words(self):
    console = _console(40)
    text = 'what does not fit is continued in the next line: [/b] ' * 2
    progress.Progress(console).message(text.strip())
    self.assertEqual(
      _screen(console.file.getvalue(), 40),
      [
        'what does not fit is continued in the',
        '  next line: [/b] what does not fit is',
        '  continued in the next line: [/b]',
      ],
    )

  def test_a_table_that_trains_no_longer_compiles(self):
    console = _console()
    shown = progress.Progress(console)
    shown.expect(Work({'map': 100.0}, {'map': 40.0}, ()))
    with shown.stage('train'):
      shown.compiling('map')
      self.draw(shown)
      self.assertStartsWith(
        _screen(console.file.getvalue())[-1], 'train: compiling map'
      )
      shown.start(Start('map', 30, 30, 1, 1, 2**30))
      self.draw(shown)
      self.assertStartsWith(
        _screen(console.file.getvalue())[-1], 'train: map  '
      )

  @parameterized.parameters(True, False)
  def test_studies_that_extend_each_other_are_one(self, is_terminal):
    """One clock and one estimate, and no lines of every study's stages."""
    console, clock = _console(80, is_terminal), mock.Mock(return_value=0.0)
    seen = []
    with mock.patch.object(progress.time, 'monotonic', clock):
      shown = progress.Progress(console)
      with shown.as_one():
        for name, later in (('map', 100.0), ('map-1', 0.0)):
          shown.expect(Work({name: 100.0}, {name: 40.0}, (), later=later))
          with shown.stage('train'):
            shown.compiling(name)
            seen.append(shown.times())
            shown.start(Start(name, 30, 30, 1, 1, 2**30))
            for epoch in range(1, 11):
              clock.return_value += 10.0
              shown.epoch(Event(name, 0, 1, epoch, 10, 30, 0.5, 100))
              seen.append(shown.times())
          shown.expect(None)
          shown.message(f'{name}, after {shown.passed()}')
    self.assertEqual(
      seen[:2] + seen[10:13] + seen[-1:],
      [
        '0:00',
        '0:10, about 3 min left',
        '1:40, about 2 min left',
        '1:40, about 2 min left',
        '1:50, about 90 s left',
        '3:20, a few seconds left',
      ],
    )
    lines = _screen(console.file.getvalue())
    said = [line for line in lines if not line.startswith('train: ')]
    self.assertEqual(said, ['map, after 1 min 40 s', 'map-1, after 3 min 20 s'])
    if is_terminal:
      self.assertEqual(lines, said)

  def draw(self, shown: progress.Progress) -> None:
    shown._bar[0].refresh()

  @parameterized.parameters(60, 80, 120)
  def test_times_are_never_cut(self, columns):
    text = re.sub('\x1b[^a-zA-Z]*[a-zA-Z]', '', self.shown(True, columns))
    lines = [line.rstrip() for line in re.split('[\r\n]', text)]
    bars = [line for line in lines if re.search(r' \d+:\d\d', line)]
    self.assertGreater(len(bars), 42)
    for line in bars:
      self.assertRegex(line, r' \d+:\d\d(:\d\d)?(, (about|a few) .* left)?$')
      self.assertLessEqual(len(line), columns)
    self.assertContainsInOrder(
      ['train: compiling map,', 'train: map, epoch 39', 'retraining: '],
      text,
    )
    self.assertIn('…', bars[-1])

  def test_one_estimate_of_the_whole_study(self):
    lines = self.shown(False).splitlines()
    self.assertEqual(lines[0], 'train: compiling map, about 40 s')
    self.assertEqual(lines[1], 'map: 30 runs to train, 30 at a time, 1.00 GiB')
    left = []
    for line in lines[2:42]:
      self.assertRegex(line, r'^train: map, epoch \d+ of 40 \(\d+%\), about ')
      number, unit = re.findall(r'about (\d+) (\w+) of the study left', line)[0]
      left.append(int(number) * {'min': 60, 'h': 3600}[unit])
    # An hour of training, and a share of it for what follows.
    rest = after_training(['report', 'retraining'], 3640)
    self.assertAlmostEqual(left[0], 3510 + rest, delta=1800)
    self.assertEqual(left, sorted(left, reverse=True))
    self.assertAlmostEqual(left[-1], rest, delta=100)
    self.assertNotIn('retrain:', '\n'.join(lines))


if __name__ == '__main__':
  absltest.main()
