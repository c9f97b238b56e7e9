"""The tables are what docs/tables.md says, and techniques can bring more."""

import pathlib

import pandas as pd
from absl.testing import absltest

from memloc_jax import stages
from memloc_jax.localisation import technique
from memloc_jax.schema import COUNT, INT, PROBABILITY, Table, TableError
from memloc_jax.study import tables

_PAGE = pathlib.Path(__file__).parents[2] / 'docs/tables.md'


class PageTest(absltest.TestCase):
  def test_the_page_is_what_is_generated(self):
    text = _PAGE.read_text('utf-8')
    self.assertEqual(
      text,
      tables.page(text, stages.known_tables().values()),
      'docs/tables.md is not up to date: run python -m memloc_jax.stages',
    )

  def test_what_stands_around_the_tables_stays(self):
    text = _PAGE.read_text('utf-8')
    spoilt = text.replace('One row per fine-tuning.', 'One row.')
    self.assertNotEqual(spoilt, text)
    first, last = 'At the top.\n', 'At the end.\n'
    made = lambda text: tables.page(text, stages.known_tables().values())
    self.assertEqual(made(first + spoilt + last), first + made(text) + last)

  def test_every_meaning_is_one_line(self):
    for table in stages.known_tables().values():
      for names, column in table.columns.items():
        with self.subTest(f'{table.name} {names}'):
          self.assertNotEmpty(column.meaning)
          self.assertNotIn('\n', column.meaning)
          self.assertNotIn('|', column.meaning)


class KnownTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    kept = dict(technique.TECHNIQUES)
    self.addCleanup(
      lambda: (technique.TECHNIQUES.clear(), technique.TECHNIQUES.update(kept))
    )

  def test_techniques_bring_tables(self):
    own = Table(
      'mine', 'seed', {'seed': INT('of it'), 'share': PROBABILITY('of it')}
    )
    self.assertNotIn('mine', tables.of_techniques())
    for name in ('first', 'second'):  # Which share it.
      technique.register_technique(name, tables=[own])(
        lambda *_: technique.Findings({})
      )
    frame = pd.DataFrame({'seed': [1], 'share': [0.5]})
    frame = frame.assign(technique='first', source='main')
    found = stages.known_tables()['mine']
    self.assertEqual(found.names, ('technique', 'source', 'seed', 'share'))
    found.check(found.ordered(frame))
    with self.assertRaisesRegex(TableError, 'mine, column share, row 0: 2.0'):
      found.check(found.ordered(frame.assign(share=2.0)))

  def test_names_are_taken_once(self):
    for name in ('windows', 'examples'):
      with self.subTest(name):
        own = Table(name, 'seed', {'seed': COUNT('of it')})
        technique.register_technique(name, tables=[own])(
          lambda *_: technique.Findings({})
        )
        with self.assertRaisesRegex(TableError, f'tables? {name}'):
          stages.known_tables()
        del technique.TECHNIQUES[name]


if __name__ == '__main__':
  absltest.main()
