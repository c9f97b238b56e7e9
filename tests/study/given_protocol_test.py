"""The paper's protocol for models that were fine-tuned elsewhere."""

import io

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from memloc_jax import stages
from memloc_jax.errors import InputError
from memloc_jax.localisation import gradients, retraining
from memloc_jax.study import actions, chosen, planning, subjects
from memloc_jax.study.view import View
from tests.study.wide import WideCase, run_noted


class ProtocolTest(WideCase):
  """Two seeds: final and first fitted models, and references of each seed."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.models, cls.folders = {}, {}
    for number, role in enumerate(
      ('noisy', 'clean', 'noisy_memorised', 'clean_memorised', 'frozen')
    ):
      labels = cls.data.labels[int(not role.startswith('clean'))]
      found = []
      for seed in (1, 2):
        params, _ = cls.fitted(10 * number + seed, labels, False)
        cls.models[role, seed] = params
        found.append(cls.write(f'{role}_{seed}', params))
      cls.folders[f'model__{role}'] = tuple(found)

  @classmethod
  def config(cls, **changes):
    return super().config(**{'train__seeds': (1, 2)} | changes)

  def opened(self, where, **changes):
    values = self.config(**changes)
    run_noted(values, where, io.StringIO())
    return self.enterContext(actions.opened(values, where))

  def sources(self, study, technique):
    return subjects.sources(View(study, stages.declared(study, technique)))

  def same(self, found, role, seed):
    jax.tree.map(
      np.testing.assert_array_equal, found.load(), self.models[role, seed]
    )

  def test_gradients_see_the_first_fitted_model_and_its_reference(self):
    study = self.opened(
      self.folder / 'all_given',
      localise__techniques=('gradients',),
      **self.folders,
    )
    [source] = self.sources(study, 'gradients')
    for subject in source.subjects:
      for name, role in (
        ('noisy', 'noisy'),
        ('clean', 'clean'),
        ('memorised', 'noisy_memorised'),
        ('clean_memorised', 'clean_memorised'),
        ('frozen', 'frozen'),
      ):
        self.same(getattr(subject, name), role, subject.seed)
    # Nothing is trained, and the profile is that of these models.
    [need] = planning.needs(study)
    self.assertEqual((need.runs, need.pending), (6, 0))
    layers = study.context.workdir.read_table('layers')
    chosen_rows = layers[layers['variant'] == '']
    for subject in source.subjects:
      size, reference = (
        np.asarray(
          gradients.norms(
            *gradients.group_gradients(
              source, one, subject, gradients.label_logit, 16
            )
          )
        )[0, 0]
        for one in (subject.memorised, subject.frozen)
      )
      found = chosen_rows.loc[chosen_rows['seed'] == subject.seed, 'weight']
      ratio = size / reference
      np.testing.assert_allclose(found, ratio / ratio.sum(), rtol=1e-3)

  def test_identity_covers_the_first_fitted_model(self):
    noisy = {k: self.folders[k] for k in ('model__noisy', 'model__clean')}
    hashes = lambda **changes: self.study(**changes).hashes['main']
    early = self.folders['model__noisy_memorised']
    plain = hashes(**noisy)
    found = hashes(**noisy, model__noisy_memorised=early)
    swapped = hashes(**noisy, model__noisy_memorised=early[::-1])
    for row in (0, 1):
      self.assertLen({plain[row], found[row], swapped[row]}, 3)
    self.assertEqual(plain[2:], found[2:])

  def test_one_reference_is_that_of_all_seeds(self):
    folders = dict(self.folders)
    folders['model__frozen'] = folders['model__frozen'][1:]
    table = self.study(**folders).tables['main']
    self.assertEqual(table.runs.purpose[4:], ('frozen',))
    self.assertEqual(sorted(table.given), [0, 1, 2, 3, 4])

  @parameterized.parameters(
    (('swapping', 'difference_norm'), 0),
    (('swapping', 'gradients'), 1),
    (('probing',), 1),
    ((), 1),
  )
  def test_a_reference_is_trained_where_it_is_looked_at(self, names, trained):
    study = self.study(
      model__noisy=self.folders['model__noisy'],
      model__clean=self.folders['model__clean'],
      localise__techniques=names,
    )
    [need] = planning.needs(study)
    self.assertEqual((need.runs, need.pending), (4 + trained, trained))
    # The others are the same runs with and without it.
    everything = self.study().hashes['main']
    self.assertEqual(
      self.study(localise__techniques=names).hashes['main'], everything
    )

  def test_without_a_reference(self):
    folders = {k: self.folders[k][:1] for k in ('model__noisy', 'model__clean')}
    study = self.opened(
      self.folder / 'no_reference',
      train__seeds=(1,),
      localise__techniques=('difference_norm',),
      **folders,
    )
    runs = study.context.workdir.read_table('runs')
    self.assertEqual(runs['purpose'].tolist(), ['noisy', 'clean'])
    [source] = self.sources(study, 'difference_norm')
    with self.assertRaisesRegex(ValueError, 'frozen=True'):
      source.subjects[0].frozen.load()

  @parameterized.parameters(
    ({'model__noisy_memorised': ('a', 'b')}, 'model.noisy_memorised'),
    ({'model__clean_memorised': ('a', 'b')}, 'model.clean_memorised'),
    ({'model__frozen': ('a',)}, 'model.frozen.*model.noisy'),
    (
      {'model__noisy': ('a', 'b'), 'model__frozen': ('a', 'b', 'c')},
      'model.frozen.*one for each',
    ),
    (
      {'model__noisy': ('a', 'b'), 'model__noisy_memorised': ('a',)},
      'model.noisy_memorised.*as many',
    ),
    ({'localise__gradient__clean': ('a', 'b', 'c')}, 'localise.gradient.clean'),
    (
      {'localise__retrain__held_out': 'a', 'task__noise': 0.0},
      'localise.retrain.held_out',
    ),
  )
  def test_settings_that_do_not_go_together(self, changes, words):
    with self.assertRaisesRegex(InputError, rf'--config\.{words}'):
      self.config(**changes)


class ChosenTest(WideCase):
  """Files that name the examples to be held out or compared with."""

  def file(self, name, lines):
    path = self.folder / name
    path.write_text('\n'.join(map(str, lines)) + '\n', 'utf-8')
    return str(path)

  def setUp(self):
    super().setUp()
    self.noisy = np.flatnonzero(self.data.noisy[1])
    self.clean = np.flatnonzero(~self.data.noisy[1])

  def test_they_take_the_place_of_what_is_drawn(self):
    wanted = self.clean[[5, 3, 20, 11]]
    first, second = self.clean[:6], self.clean[-6:]
    study = self.study(
      train__seeds=(1, 2),
      localise__retrain__held_out=self.file('held', ['', *wanted, '']),
      localise__gradient__clean=(
        self.file('first', first),
        self.file('second', second),
      ),
    )
    chosen.check(study.context)
    config, mislabelled = study.context.config.localise, self.data.noisy[1]
    named = chosen.held_out(config.retrain.held_out, mislabelled)
    self.assertEqual(named.tolist(), wanted.tolist())
    train, held_out = retraining.split(mislabelled, 42, named)
    self.assertEqual(held_out.tolist(), wanted.tolist())
    self.assertEqual(sorted([*train, *held_out]), self.clean.tolist())
    for model, group in enumerate((first, second)):
      named = chosen.clean_group(config.gradient.clean, model, mislabelled)
      noisy, clean = gradients.groups(mislabelled, 1 + model, named)
      self.assertEqual(noisy.tolist(), self.noisy.tolist())
      self.assertEqual(clean.tolist(), group.tolist())

  @pytest.mark.full
  def test_a_file_of_what_would_be_drawn_changes_nothing(self):
    mislabelled = self.data.noisy[1]
    _, held_out = retraining.split(mislabelled, 42)
    _, clean = gradients.groups(mislabelled, 1)
    names = {'localise__techniques': ('gradients', 'retraining')}
    plain = self.config(**names)
    named = self.config(
      **names,
      localise__retrain__held_out=self.file('as_drawn', held_out),
      localise__gradient__clean=(self.file('group', clean),),
    )
    found = []
    for name, values in (('drawn', plain), ('named', named)):
      found.append(self.folder / name)
      run_noted(values, found[-1], io.StringIO())
    self.same_tables(*found)
    marks = lambda: {
      path.stem: path.read_text()
      for path in (found[-1] / 'stages').glob('*.json')
    }
    before = marks()
    self.file('group', clean[1:])
    run_noted(named, found[-1], io.StringIO())
    ran = {name for name, mark in marks().items() if mark != before[name]}
    self.assertIn('gradients', ran)
    self.assertNoCommonElements({'train', 'score', 'retraining'}, ran)

  @parameterized.named_parameters(
    ('word', ['1', 'two'], "line 2 is 'two'"),
    ('negative', ['-1'], "line 1 is '-1'"),
    ('fraction', ['1.0'], "line 1 is '1.0'"),
    ('another_digit', ['²'], 'line 1 is'),
    ('long', ['9' * 5000], 'line 1 is'),
    ('beyond', ['80'], 'line 1 is 80.* 0 to 79'),
    ('empty', [''], 'names no example'),
  )
  def test_bad_entries(self, lines, words):
    path = self.file('bad', lines)
    for setting in ('retrain__held_out', 'gradient__clean'):
      value = path if setting.startswith('retrain') else (path,)
      study = self.study(**{f'localise__{setting}': value})
      name = setting.replace('__', '.')
      with self.assertRaisesRegex(InputError, rf'{name}: .*bad.* {words}'):
        chosen.check(study.context)

  def test_examples_that_cannot_be_chosen(self):
    clean, noisy = self.clean, self.noisy
    for lines, words in (
      ([clean[0], noisy[3]], f'line 2: example {noisy[3]} has a wrong label'),
      ([clean[4], clean[1], clean[4]], 'line 3: .* already in line 1'),
      (clean, 'names every clean example'),
    ):
      path = self.file('unsuited', lines)
      with self.assertRaisesRegex(InputError, words):
        chosen.check(self.study(localise__retrain__held_out=path).context)

  def test_no_file(self):
    for path in (self.folder / 'nowhere.txt', self.folder):
      study = self.study(localise__retrain__held_out=str(path))
      with self.assertRaisesRegex(InputError, 'cannot be read'):
        chosen.check(study.context)


if __name__ == '__main__':
  absltest.main()
