"""How models that were fine-tuned elsewhere are read out."""

import io
import json
import unittest

import jax
import numpy as np
import pytest
import safetensors.numpy
from absl.testing import absltest, parameterized

from memloc_jax import stages
from memloc_jax.errors import InputError
from memloc_jax.localisation.all import TECHNIQUES
from memloc_jax.models import checkpoint
from memloc_jax.study import actions, given_runs, read_out
from memloc_jax.study.context import Context
from memloc_jax.study.progress import Progress
from memloc_jax.study.runs import Runs
from memloc_jax.study.workdir import Workdir
from tests.study import tiny
from tests.study.wide import WideCase, run_noted

try:
  import torch
  import transformers
except ImportError:
  torch = None


def _logits(hits, labels, classes):
  """Predicts the label where `hits`, and the next one elsewhere."""
  predicted = np.where(hits, labels, (labels + 1) % classes)
  return np.eye(classes, dtype=np.float32)[predicted]


class MeasureTest(parameterized.TestCase):
  def test_deviation_is_that_of_shuffled_labels(self):
    """A model fits where its hits are beyond what shuffles give."""
    rng = np.random.default_rng(0)
    labels = rng.choice(3, 60, p=[0.6, 0.3, 0.1])
    predicted = rng.choice(3, 60, p=[0.5, 0.25, 0.25])
    shuffled = [
      (predicted == rng.permutation(labels)).mean() for _ in range(4000)
    ]
    found = read_out.measure(np.eye(3)[predicted], labels)
    self.assertAlmostEqual(found.chance, np.mean(shuffled), places=2)

  @parameterized.parameters((12, 1.0, True), (80, 0.45, True), (80, 0.3, False))
  def test_what_fits(self, count, share, fits):
    labels = np.arange(count) % 4
    hits = np.arange(count) < share * count
    found = read_out.measure(_logits(hits, labels, 4), labels)
    self.assertAlmostEqual(found.accuracy, hits.mean())
    self.assertEqual(found.fits, fits)

  @parameterized.parameters(12, 40, 256)
  def test_guesses_do_not(self, count):
    rng = np.random.default_rng(count)
    labels = rng.choice(3, count, p=[0.7, 0.2, 0.1])
    majority = np.zeros(count, int)
    self.assertFalse(read_out.measure(np.eye(3)[majority], labels).fits)
    fitted = [
      read_out.measure(np.eye(3)[rng.permutation(labels)], labels).fits
      for _ in range(500)
    ]
    self.assertLess(np.mean(fitted), 0.02)


class DecideTest(parameterized.TestCase):
  """Made-up models: share of 100 examples that each read-out predicts."""

  def scored(self, role='noisy', must_fit=True, **shares):
    labels = np.arange(100) % 5
    rng = np.random.default_rng(0)
    fits = {}
    for name, share in shares.items():
      hits = rng.permutation(100) < 100 * share
      fits[name] = read_out.measure(_logits(hits, labels, 5), labels)
    return read_out.Scored(role, 1, f'--{role}: folder', must_fit, fits)

  @parameterized.parameters(
    # What transformers computes comes first.
    ((0.2, 1.0), (0.25, 1.0), 'first_token'),
    ((1.0, 0.2), (0.9, 0.3), 'pooler'),
    ((0.9, 0.91), (0.88, 0.9), 'pooler'),
    # One tells, and the other does not contradict it.
    ((0.2, 0.9), (0.85, 0.9), 'first_token'),
  )
  def test_what_fits_clearly_better(self, noisy, clean, wanted):
    names = ('pooler', 'first_token')
    found = read_out.decide(
      [
        self.scored(**dict(zip(names, noisy))),
        self.scored('clean', **dict(zip(names, clean))),
      ]
    )
    self.assertEqual(found.name, wanted)
    self.assertIn(wanted, found.why)
    self.assertLen(found.scores, 4)

  def test_models_that_disagree(self):
    with self.assertRaisesRegex(
      InputError, r'--noisy: .* and --clean: .*1\.00 by pooler.*1\.00 by first'
    ):
      read_out.decide(
        [
          self.scored(pooler=1.0, first_token=0.2),
          self.scored('clean', pooler=0.2, first_token=1.0),
        ]
      )

  def test_a_checkpoint_that_allows_one_way_only(self):
    plain = self.scored('clean', first_token=1.0)
    both = self.scored(pooler=0.2, first_token=1.0)
    self.assertEqual(read_out.decide([both, plain]).name, 'first_token')
    other = self.scored(pooler=1.0, first_token=0.2)
    for order in ([other, plain], [plain, other]):
      with self.assertRaisesRegex(InputError, 'not read out in the same way'):
        read_out.decide(order)

  def test_none_fits(self):
    models = [
      self.scored(pooler=1.0, first_token=0.2),
      self.scored('clean', pooler=0.2, first_token=0.25),
    ]
    with self.assertRaisesRegex(InputError, r'--clean: .*by pooler.*by first'):
      read_out.decide(models)
    # Whoever names it takes it as it is.
    self.assertEqual(read_out.decide(models, 'pooler').name, 'pooler')
    [unfit] = read_out.unfit(models, 'pooler')
    self.assertEqual(unfit.role, 'clean')

  def test_the_reference_need_not_fit(self):
    models = [
      self.scored(pooler=0.2, first_token=1.0),
      self.scored('frozen', False, pooler=0.2, first_token=0.2),
    ]
    self.assertEqual(read_out.decide(models).name, 'first_token')
    models[1] = self.scored('frozen', False, pooler=0.8, first_token=0.2)
    with self.assertRaisesRegex(InputError, '--frozen'):
      read_out.decide(models)


class PairsTest(WideCase):
  """Pairs that hold a pooler: of one it is used, of the other it is not."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.raw = cls.pair('raw', dense=False)
    cls.bare = cls.pair('bare', dense=False, stored=False)
    cls.pooled = cls.pair('pooled', dense=True)

  def manifest(self, workdir):
    return json.loads((workdir / 'manifest.json').read_text('utf-8'))['model']

  @pytest.mark.full
  def test_an_unused_pooler_changes_nothing(self):
    found, said = [], []
    for name, pair in (('raw', self.raw), ('bare', self.bare)):
      output = io.StringIO()
      where = self.folder / f'study_{name}'
      run_noted(self.config(**pair), where, output)
      found.append(where)
      said.append(' '.join(output.getvalue().split()))
    self.same_tables(*found)
    for where in found:
      self.assertGreater(self.macro_f1(where)[['noisy', 'clean']].min(), 0.95)
    self.assertIn('read out at first_token, which fits clearly better', said[0])
    told = self.manifest(found[0])['read_out']
    self.assertEqual(told['name'], 'first_token')
    wrong = [s for s in told['scores'] if s['read_out'] == 'pooler']
    self.assertLen(wrong, 2)
    for score in wrong:
      self.assertFalse(score['fits'])
      self.assertLess(score['macro_f1'], 0.5)

    # Nothing is read again, or done twice, when it is opened again.
    output = io.StringIO()
    before = tiny.files(found[0])
    run_noted(self.config(**self.raw), found[0], output)
    self.assertEqual(tiny.files(found[0]), before)
    self.assertNotIn('read out', output.getvalue())

  @pytest.mark.full
  def test_a_used_pooler_is_used(self):
    where = self.folder / 'study_pooled'
    values = self.config(
      model__noisy=self.pooled['model__noisy'],
      localise__techniques=('gradients',),
    )
    run_noted(values, where, io.StringIO())
    self.assertEqual(self.manifest(where)['read_out']['name'], 'pooler')
    self.assertGreater(self.macro_f1(where)['noisy'], 0.95)
    # So the twin and the reference that are trained here have one.
    study = self.enterContext(actions.opened(values, where))
    _, begun = study.tables['main'].finished
    for at, row in enumerate((1, 2)):
      kept = study.weights('main', row)
      head = kept['heads']['main']
      self.assertEqual(set(head), {'kernel', 'bias', 'pooler'})
      change = head['pooler']['kernel'] - np.asarray(
        begun['heads']['main']['pooler']['kernel'][at]
      )
      self.assertBetween(np.abs(change).max(), 1e-4, 0.1)
      record = study.store.read('main', row, study.hashes['main'][row])
      self.assertEqual(record.status, 'done')
      np.testing.assert_allclose(
        record.logits, self.logits(kept), rtol=0, atol=1e-3
      )
    jax.tree.map(
      np.testing.assert_array_equal,
      kept['blocks'],
      study.context.pretrained['blocks'],
    )

  def test_the_dense_layer_of_the_checkpoint_is_where_references_begin(self):
    width = self.model.width
    file = self.folder / 'with_pooler'
    file.mkdir()
    for path in self.encoder.iterdir():
      (file / path.name).write_bytes(path.read_bytes())
    stored = safetensors.numpy.load_file(file / checkpoint.WEIGHTS)
    kernel = np.arange(width**2, dtype=np.float32).reshape(width, width)
    stored['bert.pooler.dense.weight'] = kernel / width**2
    stored['bert.pooler.dense.bias'] = np.ones(width, np.float32)
    safetensors.numpy.save_file(stored, file / checkpoint.WEIGHTS)
    values = self.config(**self.pooled, model__source=str(file))
    study = Runs(Context(values, Workdir(self.folder / 'nowhere'), Progress()))
    (name,), params = study.tables['main'].finished
    head = params['heads']['main']
    self.assertEqual(name, 'pooler')
    np.testing.assert_array_equal(
      head['pooler']['kernel'][0], kernel.T / width**2
    )
    np.testing.assert_array_equal(head['pooler']['bias'][0], 1)
    self.assertEqual(study.tables['main'].runs.head_start.tolist(), [0, 0, 2])

  def test_identity(self):
    hashes = lambda **changes: self.study(**changes).hashes['main']
    auto = hashes(**self.raw)
    plain = hashes(**self.raw, model__read_out='first_token')
    pooled = hashes(**self.raw, model__read_out='pooler')
    self.assertEqual(auto, plain)
    for row in range(3):
      self.assertNotEqual(auto[row], pooled[row])
    # What is not given is what it is without given models.
    alone = self.study().hashes['main']
    self.assertEqual(alone[2], auto[2])
    self.assertEqual(
      alone, self.study(model__read_out='first_token').hashes['main']
    )

  def test_models_that_disagree(self):
    with self.assertRaisesRegex(InputError, 'not read out in the same way'):
      self.tables(
        model__noisy=self.raw['model__noisy'],
        model__clean=self.pooled['model__clean'],
      )

  def test_a_read_out_is_refused_by_name(self):
    for name, words in (
      ('mean', "'mean'.* Bert, .*first_token or pooler; or auto"),
      ('pooler', 'for models that are given.*read out at first_token'),
    ):
      with self.assertRaisesRegex(InputError, words):
        self.tables(model__read_out=name)
    with self.assertRaisesRegex(InputError, "'pooler'.*at first_token"):
      self.tables(model__read_out='pooler', **self.bare)

  @parameterized.named_parameters(
    ('plan', stages.plan_study), ('run', tiny.run)
  )
  def test_models_that_fit_nothing(self, action):
    folders = {}
    name = action.__name__
    for seed, role in enumerate(('noisy', 'clean')):
      labels = np.random.default_rng(seed).permutation(self.data.labels[0])
      params, layer = self.fitted(seed, labels, False)
      folder = self.write(f'unfit_{role}_{name}', params, layer)
      folders[f'model__{role}'] = (folder,)
    where = self.folder / f'unfit_{name}'
    with self.assertRaisesRegex(
      InputError,
      r'model\.noisy: .* does not fit .*macro-F1 0\.\d\d by pooler, 0\.\d\d by '
      r'first_token \(accuracy 0\.\d\d, by chance 0\.\d\d\)',
    ):
      action(self.config(**folders), where)
    self.assertFalse(where.exists())


class _FamilyCase(WideCase):
  """How pairs of another family are read out."""

  def decided(self, pair):
    """The read-out, and macro-F1 on training labels of both models."""
    study = self.study(**pair)
    records = [given_runs.record(study, row) for row in (0, 1)]
    return study.context.read_out.name, [float(r.macro_f1[0]) for r in records]

  def check(self, pair, wanted):
    name, macro_f1 = self.decided(pair)
    self.assertEqual(name, wanted)
    self.assertGreater(min(macro_f1), 0.95)


class DistilBertTest(_FamilyCase):
  FAMILY = 'distilbert'

  def test_read_outs(self):
    self.check(self.pair('dense', True), 'pre_classifier')
    self.check(self.pair('raw', False), 'first_token')


class RobertaTest(_FamilyCase):
  FAMILY = 'roberta'

  def test_read_outs(self):
    self.check(self.pair('dense', True), 'dense')
    self.check(self.pair('raw', False), 'first_token')

  @parameterized.parameters((True, 'pooler'), (False, 'first_token'))
  def test_a_pooler_that_transformers_does_not_read(self, dense, wanted):
    folders = {}
    for seed, role in enumerate(('noisy', 'clean')):
      labels = self.data.labels[int(role == 'noisy')]
      params, layer = self.fitted(seed, labels, dense)
      folder = self.write(f'{wanted}_{role}', params)
      file = f'{folder}/{checkpoint.WEIGHTS}'
      stored = safetensors.numpy.load_file(file) | {
        'roberta.pooler.dense.weight': layer['kernel'].T.copy(),
        'roberta.pooler.dense.bias': layer['bias'],
      }
      safetensors.numpy.save_file(stored, file)
      folders[f'model__{role}'] = (folder,)
    self.check(folders, wanted)


class DecoderTest(_FamilyCase):
  FAMILY = 'gpt_neo'

  def test_there_is_one_way(self):
    pair = self.pair('plain', False, stored=False)
    self.assertIn('the only way', self.study(**pair).context.read_out.why)
    self.check(pair, 'last_token')
    with self.assertRaisesRegex(InputError, "'first_token'.* at last_token"):
      self.tables(model__read_out='first_token', **pair)


@unittest.skipIf(torch is None, 'torch is not installed')
class TransformersTest(WideCase):
  """Pairs as `transformers` saves them."""

  @parameterized.parameters('pooler', 'first_token')
  def test_parity(self, wanted):
    tokens, count = self.data.train, len(self.data.label_names)
    inputs = {
      'input_ids': torch.from_numpy(tokens.ids).long(),
      'attention_mask': torch.from_numpy(
        np.arange(tokens.ids.shape[1]) < tokens.length[:, None]
      ).long(),
    }
    folders, expected = {}, []
    for seed, role in enumerate(('noisy', 'clean')):
      torch.manual_seed(seed)
      config = transformers.AutoConfig.from_pretrained(
        self.encoder,
        id2label=dict(enumerate(self.data.label_names)),
        label2id={name: i for i, name in enumerate(self.data.label_names)},
      )
      config.initializer_range = 0.3
      network = transformers.BertForSequenceClassification(config).eval()
      labels = self.data.labels[int(role == 'noisy')]
      with torch.no_grad():
        found = network.bert(**inputs)
        x = found.pooler_output
        if wanted == 'first_token':
          x = found.last_hidden_state[:, 0]
        last = torch.nn.functional.one_hot(torch.from_numpy(labels).long())
        design = torch.cat([x, torch.ones(len(x), 1)], 1).double()
        solved = torch.linalg.lstsq(
          design, 4.0 * last.double(), rcond=1e-5, driver='gelsd'
        ).solution.float()
        self.assertEqual(solved.shape[1], count)
        network.classifier.weight.copy_(solved[:-1].T)
        network.classifier.bias.copy_(solved[-1])
        logits = network.classifier(x)
        if wanted == 'pooler':
          logits = network(**inputs).logits
      expected.append(logits.numpy())
      folder = self.folder / f'{wanted}_{role}'
      network.save_pretrained(folder)
      folders[f'model__{role}'] = (str(folder),)
    study = self.study(**folders)
    self.assertEqual(study.context.read_out.name, wanted)
    for row, logits in enumerate(expected):
      found = given_runs.record(study, row)
      np.testing.assert_allclose(found.logits, logits, rtol=0, atol=1e-3)
      self.assertGreater(np.ptp(logits, axis=0).min(), 1)
      self.assertGreater(float(found.macro_f1[0]), 0.95)


class EveryTechniqueTest(WideCase):
  @pytest.mark.full
  def test_an_unused_pooler_changes_no_technique(self):
    found = []
    for name, stored in (('raw', True), ('bare', False)):
      pair = self.pair(name, dense=False, stored=stored)
      values = self.config(
        **pair,
        localise__techniques=tuple(t for t in TECHNIQUES if t != 'probing'),
      )
      found.append(tiny.run(values, self.folder / f'every_{name}'))
    self.same_tables(*found)


if __name__ == '__main__':
  absltest.main()
