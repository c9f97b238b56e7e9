"""Settings that are declared with their values, checked and described."""

import dataclasses
from collections.abc import Iterator
from typing import Literal

from absl.testing import absltest, parameterized

from memloc_jax import settings
from memloc_jax.errors import InputError
from memloc_jax.settings import Check, Range, setting


@dataclasses.dataclass(frozen=True)
class Inner:
  """What is inside.

  Attributes:
    low, high: ends of a range, of which the
      first is below the second.
    names: some of them.
    how: one of two words.
  """

  low: int = setting(1, settings.at_least(0))
  high: int = setting(2, settings.at_least(0))
  names: tuple[str, ...] = setting((), settings.some_of(lambda: ('a', 'b')))
  how: Literal['up', 'down'] = setting('up', settings.one_of('up', 'down'))

  def checks(self) -> Iterator[Check]:
    """One condition on two of them."""
    yield Check('low', self.low < self.high, 'below high')


@dataclasses.dataclass(frozen=True)
class Outer:
  """A group.

  Attributes:
    rate: a share.
    on: whether it is.
  """

  rate: float = setting(0.5, settings.above(0), settings.SHARE)
  on: bool = setting(False, Range('True unless inner.high is even'))
  inner: Inner = Inner()

  def checks(self) -> Iterator[Check]:
    """A condition on two groups."""
    yield Check('on', self.on or self.inner.high % 2 == 0)
    yield Check('inner.names', len(self.inner.names) < 2)


def built(**values):
  group = settings.build(Outer, values, '--config')
  settings.check(group, '--config')
  return group


class CheckTest(parameterized.TestCase):
  @parameterized.parameters(
    ({'rate': 0.0}, '--config.rate=0.0: must be above 0.'),
    ({'rate': 1}, r'--config.rate=1.0: must be in \[0, 1\).'),
    ({'rate': True}, '--config.rate=True: must be of type float.'),
    ({'on': 1}, '--config.on=1: must be of type bool.'),
    ({'inner': 3}, '--config.inner=3: must be a group of settings.'),
    ({'inner': {'mid': 3}}, '--config.inner.mid: there is no such setting'),
    ({'inner': {'low': -1}}, '--config.inner.low=-1: must be at least 0.'),
    ({'inner': {'low': 2}}, '--config.inner.low=2: must be below high.'),
    (
      {'inner': {'high': 3}},
      '--config.on=False: must be True unless inner.high is even.',
    ),
    (
      {'inner': {'names': ('c',)}},
      r"--config.inner.names=\('c',\): must be some of a, b, each once.",
    ),
    (
      {'inner': {'names': ('a', 'b')}},
      r"--config.inner.names=\('a', 'b'\): must be some of a, b, each once.",
    ),
    ({'inner': {'how': 'left'}}, '--config.inner.how=.left.: must be up or'),
    ({'inner': {'how': 1}}, '--config.inner.how=1: must be of type str.'),
  )
  def test_one_sentence(self, values, message):
    with self.assertRaisesRegex(InputError, message):
      built(**values)

  def test_what_is_left_out_has_its_default(self):
    self.assertEqual(built(), Outer())
    found = built(rate=0.25, inner={'names': ['b'], 'how': 'down'})
    self.assertEqual(found, Outer(0.25, inner=Inner(names=('b',), how='down')))


class DescribedTest(parameterized.TestCase):
  def test_every_setting(self):
    ends = 'ends of a range, of which the first is below the second.'
    self.assertEqual(
      list(settings.described(Outer())),
      [
        ('rate', 0.5, 'above 0; in [0, 1)', 'a share.'),
        ('on', False, 'True unless inner.high is even', 'whether it is.'),
        ('inner.low', 1, 'at least 0', ends),
        ('inner.high', 2, 'at least 0', ends),
        ('inner.names', (), 'some of a, b, each once', 'some of them.'),
        ('inner.how', 'up', 'up or down', 'one of two words.'),
      ],
    )

  @parameterized.parameters(
    (settings.between(1, 3), 'from 1 to 3', (1, 3), (0, 4)),
    (settings.one_of('a', 'b'), 'a or b', ('a',), ('', 'c')),
    (settings.one_of('a', 'b', 'c'), 'one of a, b, c', ('c',), ('d',)),
    (
      settings.different('even numbers', lambda n: n % 2 == 0),
      'different even numbers',
      ((), (2, 4)),
      ((1,), (2, 2)),
    ),
    (settings.SEED, 'an integer from 0 to 2**31 - 1', (0,), (-1, 2**31)),
    (settings.PATH, 'a path or name that there can be', ('a' * 255,),
     ('ü' * 128,)),
  )  # fmt: skip
  def test_ranges_hold_what_they_say(self, one, text, inside, outside):
    self.assertEqual(str(one), text)
    for value in inside:
      self.assertTrue(one.holds(value))
    for value in outside:
      self.assertFalse(one.holds(value))


if __name__ == '__main__':
  absltest.main()
