"""How long the rest of a study takes, of studies whose times are known."""

from absl.testing import absltest, parameterized

from memloc_jax.study import forecast
from memloc_jax.study.forecast import Forecast, Work

_TABLES = {'main': 1000.0, 'map': 4000.0}
_COMPILATION = {'main': 20.0, 'map': 20.0}


def _trained(found: Forecast, rate: float, epochs: int = 10):
  """Trains both tables; yields the time and the seconds that training has."""
  now, whole = 0.0, sum(_TABLES.values()) / rate + sum(_COMPILATION.values())
  found.begin('train', now)
  for table, examples in _TABLES.items():
    found.compiling(table, now)
    now += _COMPILATION[table]
    found.start(table, now)
    for epoch in range(epochs):
      now += examples / rate / epochs
      found.update((epoch + 1) / epochs, now)
      yield now, whole - now
  found.end(now)


class ForecastTest(parameterized.TestCase):
  @parameterized.parameters(1.0, 20.0, 500.0)
  def test_training_is_foretold_from_its_first_epoch_on(self, rate):
    found = Forecast(Work(_TABLES, _COMPILATION, ()))
    found.begin('train', 0.0)
    self.assertIsNone(found.left(1.0))
    found = Forecast(Work(_TABLES, _COMPILATION, ()))
    for now, left in _trained(found, rate):
      self.assertAlmostEqual(found.left(now), left, delta=0.01 * left + 0.01)

  def test_later_stages_have_their_share_and_then_what_is_measured(self):
    stages = ('score', 'ablation', 'report')
    found = Forecast(Work(_TABLES, _COMPILATION, stages))
    for now, left in _trained(found, 20.0):
      rest = found.left(now) - left
    whole = 290.0
    self.assertAlmostEqual(
      rest, forecast.after_training(stages, whole), delta=0.01 * whole
    )
    # Ablation takes ten times what it should, which its progress shows.
    begun = now
    found.begin('ablation', begun)
    for done in range(1, 80):
      now = begun + 600 * done / 100
      found.update(done / 100, now)
      left = found.left(now)
    self.assertBetween(left, 600 - (now - begun), 600 - (now - begun) + 120)
    found.end(now)
    found.begin('report', now)
    # Slow so far: the report is expected to be, too.
    share = forecast.after_training(['report'], whole)
    self.assertGreater(found.left(now + 1000), share)

  def test_an_estimate_moves_slowly(self):
    found = Forecast(Work({'map': 1000.0}, {'map': 0.0}, ()))
    found.begin('train', 0.0)
    found.start('map', 0.0)
    found.update(0.1, 10.0)
    self.assertAlmostEqual(found.left(10.0), 90.0)
    # All runs but one have stopped: half of the work goes at once.
    found.update(0.6, 11.0)
    self.assertAlmostEqual(found.left(11.0), 89.0, delta=5.0)
    self.assertLess(found.left(60.0), 45.0)

  def test_a_table_that_goes_on_is_not_faster_than_others(self):
    found = Forecast(Work({'map': 1000.0}, {'map': 0.0}, ()))
    found.begin('train', 0.0)
    found.start('map', 0.0)
    found.update(0.5, 10.0, step=0.1)
    self.assertAlmostEqual(found.left(10.0), 50.0)
    found.update(0.6, 20.0, step=0.1)
    self.assertAlmostEqual(found.left(20.0), 40.0)

  def test_time_passes_between_reports(self):
    found = Forecast(Work({'map': 1000.0}, {'map': 0.0}, ()))
    found.begin('train', 0.0)
    found.start('map', 0.0)
    found.update(0.25, 60.0)
    for now in range(60, 120):
      self.assertAlmostEqual(found.left(now), 240 - now)
    # What is late is not overdue.
    self.assertAlmostEqual(found.left(1000.0), 120.0)

  def test_what_a_first_report_waits_for_is_no_measure(self):
    found = Forecast(Work({'map': 1000.0}, {'map': 0.0}, ()))
    found.begin('train', 0.0)
    found.start('map', 0.0)
    found.update(0.01, 2.0)
    self.assertAlmostEqual(found.left(2.0), 198.0)
    for epoch in range(1, 100):
      found.update(0.01 + epoch / 100, 2.0 + 0.2 * epoch)
      left = found.left(2.0 + 0.2 * epoch)
      self.assertAlmostEqual(left, 0.2 * (99 - epoch))

  def test_one_study_after_the_other(self):
    """The second one is foretold from its beginning, without compiling."""
    first = Forecast(Work({'map': 1000.0}, {'map': 20.0}, (), later=500.0))
    first.begin('train', 0.0)
    first.compiling('map', 0.0)
    first.start('map', 20.0)
    for epoch in range(1, 11):
      first.update(epoch / 10, 20.0 + 10.0 * epoch)
      left = first.left(20.0 + 10.0 * epoch)
    first.end(120.0)
    self.assertAlmostEqual(left, 50.0)
    second = Forecast(Work({'more': 500.0}, {'more': 20.0}, ()), first)
    second.begin('train', 120.0)
    self.assertEqual(second.compiling('more', 120.0), 0.0)
    self.assertAlmostEqual(second.left(120.0), 50.0)
    second.start('more', 120.0)
    for epoch in range(1, 11):
      second.update(epoch / 10, 120.0 + 5 * epoch)
      self.assertAlmostEqual(second.left(120.0 + 5 * epoch), 50 - 5 * epoch)

  def test_a_study_that_goes_on_has_been_measured_before(self):
    nothing = dict.fromkeys(_TABLES, 0.0)
    found = Forecast(Work(nothing, _COMPILATION, ('report',), spent=1000.0))
    found.begin('report', 5.0)
    self.assertEqual(found.compiling('map', 5.0), 0.0)
    share = forecast.after_training(['report'], 1000.0)
    self.assertAlmostEqual(found.left(5.0), share)
    # It is never over before it is.
    self.assertGreater(found.left(5.0 + 3 * share), 0.0)

  def test_what_a_technique_trains_is_not_training_of_the_study(self):
    found = Forecast(Work(_TABLES, _COMPILATION, ('retraining',)))
    *_, (now, _) = _trained(found, 20.0)
    found.begin('retraining', now)
    left = found.left(now)
    found.compiling('retrain', now)
    self.assertAlmostEqual(found.left(now), left)


class WordsTest(parameterized.TestCase):
  @parameterized.parameters(
    (3, 'a few seconds'),
    (34, 'about 30 s'),
    (94, 'about 90 s'),
    (100, 'about 2 min'),
    (3600, 'about 60 min'),
    (9000, 'about 2 h'),
  )
  def test_durations_are_round(self, seconds, words):
    self.assertEqual(forecast.about(seconds), words)

  @parameterized.parameters(
    (360, 600, 'about 6 to 10 min'),
    (50, 200, 'about 50 s to 3 min'),
    (3, 5, 'a few seconds'),
    (3, 40, 'a few seconds to 40 s'),
  )
  def test_ranges_have_one_unit_where_they_can(self, low, high, words):
    self.assertEqual(forecast.between(low, high), words)


if __name__ == '__main__':
  absltest.main()
