"""Which classifiers can be given, and what is made of their classes."""

import dataclasses
import pathlib
import unittest

import jax
import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.models import checkpoint
from memloc_jax.study import given, given_runs, training
from tests.study import tiny
from tests.study.given_case import GivenCase, change_config

try:
  import torch
  import transformers
except ImportError:
  torch = None


class ClassesTest(GivenCase):
  def record(self, folder, read_out='first_token'):
    """What the study would keep of a noisy model, which fits nothing."""
    study = self.study(model__noisy=(folder,), model__read_out=read_out)
    [told] = [
      one['classes']
      for one in given.summary(
        study.context.given, study.context.data.label_names
      )
    ]
    return given_runs.record(study, 0).logits, told

  @parameterized.parameters(False, True)
  def test_another_order_is_undone(self, pooled):
    params = self.params(1, pooled)
    order = np.roll(np.arange(len(self.label_names)), 1)
    head = params['heads']['main']
    last = {key: head[key][..., order] for key in ('kernel', 'bias')}
    folder = self.write(
      f'permuted_{pooled}',
      params | {'heads': {'main': head | last}},
      [self.label_names[i] for i in order],
    )
    read_out = 'pooler' if pooled else 'first_token'
    logits, told = self.record(folder, read_out)
    np.testing.assert_allclose(logits, self.predicted(params), atol=1e-4)
    self.assertIn('put in the order', told)

  @parameterized.parameters(True, False)
  def test_classes_without_names_are_taken_in_their_order(self, written):
    params = self.params(1)
    folder = self.write(f'nameless_{written}', params)
    names = {str(i): f'LABEL_{i}' for i in range(len(self.label_names))}
    change_config(folder, id2label=names if written else None, label2id=None)
    logits, told = self.record(folder)
    np.testing.assert_allclose(logits, self.predicted(params), atol=1e-4)
    self.assertIn(', '.join(self.label_names), told)

  def test_a_task_whose_classes_are_called_as_those_without_names(self):
    # In the order of the alphabet, as labels of plain files are.
    wanted = tuple(sorted(f'LABEL_{i}' for i in range(12)))
    self.assertEqual(wanted[2], 'LABEL_10')
    folder = pathlib.Path(self.write('numbered', self.params(1)))
    names = {str(i): f'LABEL_{i}' for i in range(12)}
    change_config(folder, id2label=names, label2id=None)
    one = given.Given('noisy', folder, '')
    order, told = given.order_of_classes(one, wanted)
    self.assertEqual(tuple(names[str(i)] for i in order), wanted)
    self.assertIn('put in the order', told)


class BadInputTest(GivenCase):
  def refused(self, *words, **changes):
    workdir = self.folder / 'refused'
    with self.assertRaises(InputError) as caught:
      tiny.run(self.config(**changes), workdir)
    message = str(caught.exception)
    for word in words:
      self.assertIn(word, message)
    self.assertNotIn('\n', message)
    self.assertFalse(workdir.exists())

  def test_another_number_of_models_than_seeds(self):
    for role in ('noisy', 'clean'):
      with self.assertRaisesRegex(
        InputError, rf'--config\.model\.{role}=.*2 folders, .* train\.seeds'
      ):
        self.config(**{f'model__{role}': ('one',), 'train__seeds': (1, 2)})

  def test_a_study_without_wrong_labels(self):
    with self.assertRaisesRegex(InputError, 'wrong labels'):
      self.config(model__noisy=('one',), task__noise=0.0)

  def test_no_such_folder(self):
    self.refused('/nowhere', model__noisy=('/nowhere',))

  def test_other_sizes(self):
    model = dataclasses.replace(self.model, num_layers=3)
    params = self.params(1)
    grow = lambda x: np.concatenate([x, x[:1]])
    params['blocks'] = jax.tree.map(grow, params['blocks'])
    folder = self.folder / 'deeper'
    checkpoint.export(folder, model, params, self.encoder, self.label_names)
    self.refused(
      '--config.model.clean', 'num_layers 3', ' 2', model__clean=(str(folder),)
    )

  def test_another_architecture(self):
    folder = self.write('roberta', self.params(1))
    change_config(folder, model_type='roberta')
    self.refused('Roberta', 'Bert', model__noisy=(folder,))

  def test_no_head(self):
    self.refused('no classification head', model__noisy=(str(self.encoder),))

  def test_another_number_of_classes(self):
    params = self.params(1)
    head = params['heads']['main']
    fewer = {key: head[key][..., :3] for key in ('kernel', 'bias')}
    names = [f'LABEL_{i}' for i in range(3)]
    params['heads'] = {'main': fewer}
    folder = self.write('fewer', params, names)
    self.refused(
      '3 classes', str(len(self.label_names)), model__noisy=(folder,)
    )

  def test_classes_of_other_names(self):
    names = [*self.label_names[1:], 'gossip']
    folder = self.write('gossip', self.params(1), names)
    self.refused(
      ', '.join(names), ', '.join(self.label_names), model__noisy=(folder,)
    )

  def test_names_that_are_none(self):
    folder = self.write('unnamed', self.params(1))
    for names in (['a', 'b'], {'first': 'a'}):
      change_config(folder, id2label=names)
      self.refused('id2label', 'from 0', model__noisy=(folder,))


@unittest.skipIf(torch is None, 'torch is not installed')
class TransformersTest(GivenCase):
  """Classifiers as `transformers` saves them."""

  def _check(self, network, folder, atol=1e-4):
    network.eval().save_pretrained(folder)
    # It was not trained, and fits nothing.
    study = self.study(model__noisy=(str(folder),), model__read_out='pooler')
    training.check_given(study.context)
    found = given_runs.record(study, 0)
    tokens = study.context.data.train
    mask = np.arange(tokens.ids.shape[1]) < tokens.length[:, None]
    with torch.no_grad():
      expected = network(
        input_ids=torch.from_numpy(tokens.ids).long(),
        attention_mask=torch.from_numpy(mask).long(),
      ).logits.numpy()
    np.testing.assert_allclose(found.logits, expected, rtol=0, atol=atol)
    self.assertGreater(np.ptp(expected, axis=0).min(), 100 * atol)

  def test_predictions_are_those_of_transformers(self):
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(
      self.encoder,
      id2label=dict(enumerate(self.label_names)),
      label2id={name: i for i, name in enumerate(self.label_names)},
    )
    config.initializer_range = 0.5
    network = transformers.BertForSequenceClassification(config)
    self._check(network, self.folder / 'from_transformers')


if __name__ == '__main__':
  absltest.main()
