"""What the page on extending shows is run as it stands there."""

import contextlib
import json
import pathlib
import re
import sqlite3
import tempfile
from unittest import mock

import jax
import numpy as np
import pandas as pd
import pytest
from absl import flags
from absl.testing import absltest
from ml_collections import config_flags

from memloc_jax import api
from memloc_jax.ensemble import optimiser
from memloc_jax.errors import InputError
from memloc_jax.localisation import probes, technique
from memloc_jax.models import bert, checkpoint
from memloc_jax.models import registry as models
from memloc_jax.study import config as study_config
from memloc_jax.tasks import embedded, sources
from memloc_jax.tasks import registry as tasks
from tests.localisation import built
from tests.models import small
from tests.study import tiny

_PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'extending.md'


def _blocks() -> dict[str, str]:
  """Code of the page by heading."""
  sections = re.split(r'\n## ', _PAGE.read_text('utf-8'))[1:]
  return {
    section.splitlines()[0]: re.search(
      r'```python\n(.*?)```', section, re.DOTALL
    ).group(1)
    for section in sections
  }


class ExtendingTest(tiny.EncoderCase):
  def setUp(self):
    super().setUp()
    for registry in (
      technique.TECHNIQUES,
      tasks._TASKS,
      sources.READERS,
      models.FAMILIES,
      optimiser.OPTIMISERS,
    ):
      kept = dict(registry)
      self.addCleanup(lambda r=registry, k=kept: (r.clear(), r.update(k)))

  def test_a_technique_is_a_stage_and_part_of_the_tables(self):
    exec(_blocks()['A technique'], {})
    values = tiny.config(
      self.encoder,
      self.folder,
      map__num_runs=0,
      train__snapshots=(),
      localise__techniques=('largest_change', 'constant'),
      localise__largest_change__power=2.0,
    )
    workdir = tiny.run(values, self.folder / 'technique')
    stored = json.loads((workdir / 'config.json').read_text('utf-8'))
    self.assertEqual(stored['localise']['largest_change'], {'power': 2.0})
    found = pd.read_parquet(workdir / 'layers.parquet')
    self.assertIn('largest_change', set(found['technique']))
    self.assertTrue((workdir / 'stages/largest_change.json').exists())
    own = api.Result(workdir).table('changes')
    self.assertEqual(list(own), ['technique', 'source', 'seed', 'largest'])
    main = found[found['technique'] == 'largest_change']
    np.testing.assert_allclose(own.loc[0, 'largest'] ** 2, main['raw'].max())
    page = (workdir / 'report.html').read_text('utf-8')
    self.assertIn('How far did parameters move?', page)
    self.assertIn(f'>{own.loc[0, "largest"]:.3f}', page)

  @pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')
  def test_settings_of_a_technique(self):
    file = self.folder / 'config.py'
    file.write_text(
      _blocks()['A technique']
      + 'from memloc_jax.study import config\n\nget_config = config.default\n'
    )

    def parsed(value):
      values = flags.FlagValues()
      words = ['', f'--config={file}']
      words += [f'--config.localise.largest_change.power={value}']
      technique.TECHNIQUES.pop('largest_change', None)
      config_flags.DEFINE_config_file('config', flag_values=values)
      with mock.patch('sys.argv', words):
        values(words)
      return study_config.from_config_dict(values.config)

    config = parsed('3')
    largest = technique.TECHNIQUES['largest_change']
    found = largest.settings_in(config.localise)
    self.assertEqual(found, largest.settings(power=3.0))
    with self.assertRaisesRegex(
      InputError,
      r'^--config.localise.largest_change.power=-1.0: must be above 0\.$',
    ):
      parsed('-1')
    described = {one.name: one for one in study_config.described()}
    self.assertEqual(
      described['localise.largest_change.power'][1:],
      (1.0, 'above 0', 'of the change of a parameter.'),
    )
    # The function gets them.
    source = built.source(*[built.params(seed) for seed in range(4)])
    run = lambda power: largest.run(
      source, largest.settings(power), lambda share: None
    )
    np.testing.assert_allclose(
      run(3.0).scores[''].weights, run(1.0).scores[''].weights ** 3
    )

  def test_groups_of_settings_have_names_of_their_own(self):
    register = lambda **kinds: technique.register_technique('mine', **kinds)(
      print
    )
    with self.assertRaisesRegex(ValueError, 'already a group of settings'):
      register(settings=probes.ProbeConfig, group='probe')
    with self.assertRaisesRegex(ValueError, 'not a dataclass'):
      register(settings=dict)
    register(settings=probes.ProbeConfig, group='units')
    with self.assertRaisesRegex(InputError, "group='units'"):
      study_config.default()

  def test_a_task_is_read(self):
    exec(_blocks()['A task'], {})
    task = tasks.get_task('tweets')
    self.assertIn('tweets', tasks.task_names())
    folder = self.folder / 'tweets'
    folder.mkdir()
    for split in ('train', 'validation'):
      rows = [
        {'tweet': f'the {word} ship {i}', 'mood': mood}
        for i in range(8)
        for word, mood in (('old', 'bad'), ('new', 'good'))
      ]
      (folder / f'{split}.jsonl').write_text(
        '\n'.join(map(json.dumps, rows)), 'utf-8'
      )
    rows = sources.load_rows(f'files:{folder}', task)['train']
    self.assertEqual(rows.label_names, ('bad', 'good'))
    self.assertLen(rows, 16)
    with self.assertRaisesRegex(ValueError, 'already a task'):
      tasks.register_task(task)

  def test_a_source_is_read(self):
    exec(_blocks()['A source'], {})
    place = self.folder / 'reviews.db'
    with contextlib.closing(sqlite3.connect(place)) as database:
      for split in ('train', 'validation'):
        frame = pd.DataFrame({'review': ['old', 'new', '?'], 'mood': [0, 1, 0]})
        frame.to_sql(split, database, index=False)
    rows = sources.load_rows(
      f'sqlite:{place}', tasks.own_task('review', 'mood')
    )
    self.assertEqual(rows['train'].segments, (('old',), ('new',), ('?',)))
    self.assertEqual(rows['pool'].labels.tolist(), [0, 1, 0])
    with self.assertRaisesRegex(
      InputError, r"sqlite:.*db \(train\): no column 'text'"
    ):
      sources.load_rows(f'sqlite:{place}', tasks.own_task('text', 'mood'))
    with self.assertRaisesRegex(InputError, 'no such file'):
      sources.load_rows('sqlite:elsewhere', tasks.own_task('review', 'mood'))
    config = study_config.default()
    config.task.source = f'sqlite:{place}'
    study_config.from_config_dict(config)
    config.task.source = 'postgres:x'
    with self.assertRaisesRegex(InputError, 'task.source'):
      study_config.from_config_dict(config)
    for taken in ('sqlite', 'hub', 'embedded', 'a b'):
      with self.assertRaisesRegex(ValueError, 'already a source'):
        sources.register_source(taken, dict)
    sources.register_source('empty', lambda place: {})
    with self.assertRaisesRegex(InputError, 'no split train'):
      sources.load_rows('empty:', tasks.own_task('review', 'mood'))

  def test_a_family_is_written_and_read(self):
    scope = {'__name__': 'page'}
    exec(_blocks()['A family'], scope)
    plain = small.model('bert')
    model = scope['Gert'](
      **{name: getattr(plain, name) for name in plain.__dataclass_fields__}
    )
    params = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    embedded.write_tokenizer(folder / 'tokenizer')
    checkpoint.export(folder / 'model', model, params, folder / 'tokenizer', ())
    config = json.loads((folder / 'model/config.json').read_text('utf-8'))
    self.assertEqual(config['model_type'], 'gert')
    again = checkpoint.load_model(folder / 'model')
    read = checkpoint.load_params(folder / 'model', again)
    self.assertIsInstance(again, scope['Gert'])
    jax.tree.map(np.testing.assert_array_equal, read, params)
    with self.assertRaisesRegex(ValueError, 'already a family'):
      models.register_family('other', models.FAMILIES['gert'])
    self.assertIs(models.FAMILIES['bert'], bert.FAMILY)

  def test_an_optimiser_is_chosen_by_name(self):
    exec(_blocks()['An optimiser'], {})
    config = study_config.default()
    config.train.optimiser = 'rmsprop'
    study_config.from_config_dict(config)
    found = optimiser.OPTIMISERS['rmsprop']()
    params = {'w': np.ones(2, np.float32)}
    step = lambda accept: found.step(
      {'w': np.array([1.0, -2.0], np.float32)},
      found.init(params),
      params,
      rate=0.1,
      factors={'w': 1.0},
      weight_decay=0.0,
      accept=accept,
    )[0]['w']
    # Of any gradient the first step is 1 / sqrt(0.1) long.
    np.testing.assert_allclose(
      step(True), 1 + np.array([-1, 1]) * 0.1 / np.sqrt(0.1), rtol=1e-5
    )
    np.testing.assert_array_equal(step(False), params['w'])


if __name__ == '__main__':
  absltest.main()
