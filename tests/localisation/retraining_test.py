"""Layer retraining against a plain loop, and where one block differs."""

import dataclasses
import itertools
import types
from unittest import mock

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from memloc_jax import settings
from memloc_jax.ensemble.table import Program
from memloc_jax.errors import InputError
from memloc_jax.localisation import retraining, technique
from memloc_jax.localisation.retraining import RetrainConfig
from memloc_jax.tasks.encode import Encoded
from tests.ensemble import reference, toy

_NOISY = 8
_WINDOWS = ((0, 0), (0, 1), (1, 1))
_CONFIG = RetrainConfig(num_epochs=2, learning_rate=3e-3, batch_size=4)


def _source(engine, noisy, **changes):
  """One subject, which predicts the given labels of its noisy examples."""
  examples = toy.examples()
  given = examples.labels[0].copy()
  logits = reference.evaluate(noisy, examples)
  given[:_NOISY] = np.asarray(logits)[:_NOISY].argmax(-1)
  original = given.copy()
  original[:_NOISY] = (given[:_NOISY] + 1) % toy.NUM_CLASSES
  held = technique.Checkpoint('noisy', lambda: noisy)
  subject = technique.Subject(
    seed=1,
    noisy=held,
    clean=held,
    frozen=held,
    memorised=held,
    snapshots={},
    given=given,
    original=original,
  )
  source = technique.Source(
    name='main',
    model=engine.model,
    pretrained={k: engine.pretrained[k] for k in ('blocks', 'final')},
    examples=Encoded(examples.ids, examples.length, examples.buckets),
    label_names=('a', 'b', 'c'),
    subjects=(subject,),
    dropout=0.1,
    weight_decay=0.01,
    warmup=0.1,
    clip_norm=1.0,
    optimiser='adamw',
    moments='float32',
    engine=engine,
  )
  return dataclasses.replace(source, **changes)


def _run(source, config=_CONFIG):
  return retraining.retraining(source, config, lambda share: None)


def _noisy():
  """A model with embeddings of its own."""
  params = toy.random_like(reference.own_shapes(), seed=6, scale=0.8)
  params['heads']['main']['bias'][:] = 0
  return params | {'embeddings': toy.pretrained(seed=7)['embeddings']}


class ReferenceTest(toy.TestCase):
  @parameterized.product(train_head=(True, False), programs=(1, 2))
  @pytest.mark.full
  def test_equals_one_window_after_the_other(self, train_head, programs):
    noisy = _noisy()
    engine = toy.engine(self.folder())
    source = _source(engine, noisy)
    retrain = dataclasses.replace(
      _CONFIG, train_head=train_head, programs=programs
    )
    found = _run(source, retrain)
    subject = source.subjects[0]
    _, held_out = retraining.split(subject.mislabelled, retrain.seed)
    pretrained = toy.pretrained()
    accuracy = {}
    first_layers = retraining.groups(2, steps=1, programs=programs)
    self.assertLen(first_layers, programs)
    tables = retraining.tables(source, subject, noisy, retrain, first_layers)
    rows = [(table, row) for table in tables for row in range(len(table.runs))]
    for (table, row), (first, last), measured in zip(
      rows, _WINDOWS, found.tables['windows'], strict=True
    ):
      inside = np.isin(np.arange(2), range(first, last + 1))
      reset = lambda own, old, inside=inside: np.where(
        inside.reshape(-1, *[1] * (own.ndim - 1)), old, own
      )
      start = noisy | {
        'blocks': jax.tree.map(reset, noisy['blocks'], pretrained['blocks']),
      }
      like = lambda tree, value: jax.tree.map(
        lambda x: np.full(x.shape, value, np.float64), tree
      )
      trains = {
        'blocks': jax.tree.map(
          reset, like(noisy['blocks'], 0.0), like(noisy['blocks'], 1.0)
        ),
        'final': like(noisy['final'], float(train_head)),
        'heads': like(noisy['heads'], float(train_head)),
      }
      alone = np.asarray(reference.train_alone(table, row, start, trains))
      (hash,) = [table.hashes(engine.identity())[row]]
      record = engine.store.read(table.name, row, hash)
      # Only what is scored afterwards is predicted.
      scored = subject.mislabelled.copy()
      scored[held_out] = True
      np.testing.assert_allclose(
        record.logits[scored], alone[scored], rtol=0, atol=1e-4
      )
      self.assertTrue(np.isnan(record.logits[~scored]).all())
      self.assertTrue(np.isnan(record.accuracy).all())
      guess = alone.argmax(-1)
      hit = lambda labels, who, guess=guess: float(
        (guess[who] == labels[who]).mean()
      )
      everyone = slice(0, _NOISY)
      accuracy[first, last] = hit(subject.given, everyone)
      expected = {
        'first': first + 1,
        'last': last + 1,
        'noisy_accuracy': accuracy[first, last],
        'noisy_original_accuracy': hit(subject.original, everyone),
        'clean_accuracy': hit(subject.given, held_out),
      }
      for name, value in expected.items():
        self.assertAlmostEqual(measured[name], value, places=6, msg=name)
    # Some windows lose labels and not all lose the same, or nothing is tested.
    self.assertGreater(len(set(accuracy.values())), 1)
    everything = accuracy[0, 1]
    error = {
      window: 1 - (a - everything) / (1 - everything)
      for window, a in accuracy.items()
    }
    # A layer is in its own window and in that of both layers.
    profile = [
      (error[0, 0] + error[0, 1]) / 2,
      (error[1, 1] + error[0, 1]) / 2,
    ]
    np.testing.assert_allclose(found.scores[''].weights[0], profile, atol=1e-6)

  @pytest.mark.full
  def test_heads_of_several_kinds_keep_their_own(self):
    """Models of one study; a published head has a pooler, or no bias."""
    engine = toy.engine(self.folder())
    width = toy.MODEL.width
    square = jax.eval_shape(
      lambda: toy.MODEL.init_head(jax.random.key(0), width)
    )
    kernel = _noisy()['heads']['main']['kernel']
    heads = {
      'plain': _noisy()['heads']['main'],
      'pooled': {'kernel': kernel, 'pooler': toy.random_like(square)},
      'unbiased': {'kernel': kernel},
    }
    for name, head in heads.items():
      noisy = _noisy() | {'heads': {'main': head}}
      source = _source(engine, noisy, name=name)
      table = retraining.tables(
        source, source.subjects[0], noisy, _CONFIG, [[1]]
      )[0]
      found = toy.logits(retraining._engine(source, noisy), table)
      start = noisy | {
        'blocks': jax.tree.map(
          lambda own, old: np.concatenate([own[:1], old[1:]]),
          noisy['blocks'],
          toy.pretrained()['blocks'],
        )
      }
      like = lambda tree, value: jax.tree.map(
        lambda x: np.full(x.shape, value, np.float64), tree
      )
      second = lambda x: np.concatenate([x[:1], x[1:] + 1])
      trains = {
        'blocks': jax.tree.map(second, like(noisy['blocks'], 0.0)),
        'final': {},
        'heads': like(noisy['heads'], 1.0),
      }
      alone = np.asarray(reference.train_alone(table, 0, start, trains))
      np.testing.assert_allclose(
        found[0, table.predict], alone[table.predict], rtol=0, atol=1e-4
      )

  @pytest.mark.full
  def test_labels_of_noisy_examples_are_never_trained_on(self):
    noisy = _noisy()
    records = []
    for shift in (0, 1):
      engine = toy.engine(self.folder())
      source = _source(engine, noisy)
      subject = source.subjects[0]
      given = subject.given.copy()
      original = subject.original.copy()
      given[:_NOISY] = (given[:_NOISY] + shift) % toy.NUM_CLASSES
      original[:_NOISY] = (given[:_NOISY] + 1) % toy.NUM_CLASSES
      subject = dataclasses.replace(subject, given=given, original=original)
      (table,) = retraining.tables(source, subject, noisy, _CONFIG, [[1]])
      records.append(toy.logits(engine, table))
    np.testing.assert_array_equal(*records)


class GroupsTest(parameterized.TestCase):
  def test_long_runs_share_all_they_can_and_short_ones_compile_once(self):
    # The last window alone would run five blocks forward to train one.
    alone = [range(layer, layer + 1) for layer in range(4)]
    self.assertEqual(retraining.groups(6, steps=10**6), [*alone, range(4, 6)])
    self.assertEqual(retraining.groups(6, steps=1), [range(6)])

  def test_more_steps_never_mean_fewer_programs(self):
    counts = [len(retraining.groups(12, steps)) for steps in range(0, 9000, 50)]
    self.assertEqual(counts, sorted(counts))
    self.assertGreater(len(set(counts)), 3)

  @parameterized.parameters(1, 2, 3, 4, 5, 9)
  def test_no_division_into_as_many_parts_does_less(self, programs):
    layers, parts = 5, min(programs, 5)
    # Blocks of a step: each run's from the group's first layer up, forward and
    # backward, and once those below it, forward.
    work = lambda starts: sum(
      (layers - a) * sum(layers - l for l in range(a, b)) + a / 3
      for a, b in itertools.pairwise([*starts, layers])
    )
    cheapest = min(
      work((0, *rest))
      for rest in itertools.combinations(range(1, layers), parts - 1)
    )
    found = retraining.groups(layers, 100, programs)
    self.assertEqual([l for part in found for l in part], [*range(layers)])
    self.assertLen(found, parts)
    self.assertAlmostEqual(work([part[0] for part in found]), cheapest)

  def test_a_negative_number_is_refused_before_any_work(self):
    config = RetrainConfig(programs=-1)
    with self.assertRaisesRegex(InputError, r'retrain\.programs=-1: must be'):
      settings.check(config, 'retrain')


class SettingsTest(toy.TestCase):
  def _table(self, **changes):
    noisy = _noisy()
    source = _source(toy.engine(self.folder()), noisy, **changes)
    (table,) = retraining.tables(
      source, source.subjects[0], noisy, _CONFIG, [[0, 1]]
    )
    return table

  def test_are_those_that_the_models_were_trained_with(self):
    table = self._table(
      weight_decay=0.25, warmup=0.5, clip_norm=2.0, moments='bfloat16'
    )
    program = table.program
    self.assertEqual(
      (program.warmup, program.clip_norm, program.moments),
      (0.5, 2.0, 'bfloat16'),
    )
    np.testing.assert_array_equal(table.runs.weight_decay, np.full(3, 0.25))

  def test_defaults_are_those_of_programs_and_tables(self):
    """So that the hashes of runs are what they were."""
    table = self._table()
    same = Program(
      objectives=table.program.objectives,
      num_epochs=2,
      batch_size=4,
      evaluate_every=0,
      layers=(0, 2),
    )
    self.assertEqual(table.program, same)
    np.testing.assert_array_equal(
      table.runs.weight_decay, np.float32([0.01] * 3)
    )


@dataclasses.dataclass(frozen=True)
class _Finished:
  """An engine whose runs are there: logits and status of each window."""

  logits: list[np.ndarray]
  status: list[str]
  pretrained: dict
  model = toy.MODEL

  @property
  def store(self):
    return self

  def read(self, name, row, hash):
    return types.SimpleNamespace(
      logits=self.logits[row], status=self.status[row]
    )


class NotesTest(parameterized.TestCase):
  def _run(self, keeps, diverged=()):
    """Notes and profile where windows keep so many of the noisy labels."""
    noisy = _noisy()
    start = toy.pretrained()
    source = _source(_Finished([], [], start), noisy)
    given = source.subjects[0].given
    logits = []
    for count in keeps:
      predicted = np.where(np.arange(len(given)) < _NOISY, given + 1, given)
      predicted[:count] = given[:count]
      logits.append(np.eye(toy.NUM_CLASSES)[predicted % toy.NUM_CLASSES])
    status = ['diverged' if at in diverged else 'done' for at in range(3)]
    engine = _Finished(logits, status, start)
    config = dataclasses.replace(_CONFIG, programs=1)
    # They are trained already.
    hashes = lambda engine, table: [table.name] * len(table.runs)
    with mock.patch.object(retraining, 'train', hashes):
      found = _run(dataclasses.replace(source, engine=engine), config)
    return found.notes, found.scores[''].weights[0]

  def test_none_where_there_is_an_error(self):
    notes, profile = self._run((8, 4, 6))
    self.assertEmpty(notes)
    np.testing.assert_allclose(profile, [0.5, 0.75])

  def test_every_label_left_in_place(self):
    notes, profile = self._run((8, 8, 8))
    self.assertLen(notes, 1)
    self.assertIn('left every noisy label in place', notes[0])
    self.assertTrue(np.isnan(profile).all())

  @parameterized.parameters(((0,), 1), ((1,), 1), ((0, 1), 2))
  def test_diverged_windows_are_counted(self, diverged, count):
    """Window 1 is that of all layers, of which nothing else is said then."""
    notes, profile = self._run((8, 4, 6), diverged)
    self.assertLen(notes, 1)
    self.assertIn(f'{count} of 3 windows diverged', notes[0])
    self.assertIn('lower localise.retrain.learning_rate', notes[0])
    self.assertTrue(np.isnan(profile).all())

  def test_both(self):
    notes, _ = self._run((8, 8, 8), (2,))
    self.assertLen(notes, 2)


class OneLayerTest(toy.TestCase):
  @parameterized.parameters(0, 1)
  @pytest.mark.full
  def test_only_the_block_that_changed_loses_labels(self, layer):
    """At a rate of almost nothing, retraining is resetting."""
    pretrained = toy.pretrained()
    noisy = _noisy() | {'embeddings': pretrained['embeddings']}
    blocks = jax.tree.map(
      lambda own, old: np.where(
        (np.arange(2) == layer).reshape(-1, *[1] * (own.ndim - 1)), own, old
      ),
      noisy['blocks'],
      pretrained['blocks'],
    )
    source = _source(toy.engine(self.folder()), noisy | {'blocks': blocks})
    retrain = dataclasses.replace(_CONFIG, learning_rate=1e-12)
    found = _run(source, retrain)
    single = {
      row['first'] - 1: row['noisy_accuracy']
      for row in found.tables['windows']
      if row['first'] == row['last']
    }
    self.assertLess(single[layer], 1)
    self.assertEqual(single[1 - layer], 1)
    # E of the layer is 1 and of the other (0 + 1) / 2.
    weights = found.scores[''].weights[0]
    np.testing.assert_allclose(weights, np.where(np.arange(2) == layer, 1, 0.5))
    self.assertEmpty(found.notes)


if __name__ == '__main__':
  absltest.main()
