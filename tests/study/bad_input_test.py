"""Bad input: one clear sentence, and nothing written."""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pandas as pd
import pytest
from absl.testing import absltest, parameterized
from safetensors import numpy as safetensors

from memloc_jax.errors import InputError
from memloc_jax.study import config as study_config
from memloc_jax.study import identity
from tests.study import tiny

_ROOT = pathlib.Path(__file__).parents[2]
_ROWS = [
  {'text': f'the {word} ship', 'coarse_label': label}
  for word in ('old', 'new', 'big', 'calm', 'small', 'grey', 'young', 'local')
  for label in ('LOC', 'HUM', 'NUM', 'ENTY', 'DESC', 'ABBR')
]


class BadInputTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.good_encoder = tiny.write_encoder(cls.root)

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.encoder = self.folder / 'encoder'
    shutil.copytree(self.good_encoder, self.encoder)
    self.workdir = self.folder / 'workdir'

  def write_rows(self, rows):
    path = self.folder / 'train.jsonl'
    lines = [json.dumps(row) for row in rows]
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return f'files:{path}'

  def refused(self, *words, **changes):
    """Runs the study and checks the one sentence it is refused with."""
    with self.assertRaises(InputError) as caught:
      tiny.run(tiny.config(self.encoder, self.folder, **changes), self.workdir)
    message = str(caught.exception)
    for word in words:
      self.assertIn(word, message)
    self.assertNotIn('\n', message)
    self.assertFalse(self.workdir.exists())

  def test_good_rows_are_not_refused_for_themselves(self):
    # The other tests change one thing in rows that are otherwise good.
    source = self.write_rows(_ROWS)
    self.refused(
      'lanes', task__name='trec', task__source=source, engine__lanes=10**9
    )

  def test_missing_column(self):
    rows = [{'words': r['text'], 'label': 'LOC'} for r in _ROWS]
    self.refused(
      'train.jsonl',
      'words',
      task__name='trec',
      task__source=self.write_rows(rows),
    )

  def test_unknown_label(self):
    rows = [*_ROWS, {'text': 'the ship', 'coarse_label': 'WHAT'}]
    self.refused(
      'train.jsonl',
      'row 49',
      'WHAT',
      task__name='trec',
      task__source=self.write_rows(rows),
    )

  def test_empty_text(self):
    rows = [*_ROWS, {'text': ' ', 'coarse_label': 'LOC'}]
    self.refused(
      'train.jsonl',
      'row 49',
      task__name='trec',
      task__source=self.write_rows(rows),
    )

  def test_one_class_only(self):
    rows = [row | {'coarse_label': 'LOC'} for row in _ROWS]
    self.refused(
      'only the class', task__name='trec', task__source=self.write_rows(rows)
    )

  def test_too_few_examples_for_the_noise(self):
    self.refused(
      'noise',
      task__name='trec',
      task__noise=0.01,
      task__source=self.write_rows(_ROWS),
    )

  def test_no_such_file(self):
    self.refused('nowhere', task__name='trec', task__source='files:/nowhere')

  def test_unreachable_hub(self):
    self.refused('files:', task__name='trec', task__source='hub:')

  def test_unknown_task(self):
    self.refused('gossip', 'trec', task__name='gossip')

  def test_wrong_architecture(self):
    path = self.encoder / 'config.json'
    values = json.loads(path.read_text('utf-8'))
    path.write_text(json.dumps(values | {'model_type': 'mamba'}), 'utf-8')
    self.refused('config.json', 'mamba', 'bert')

  def test_truncated_safetensors(self):
    path = self.encoder / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:-100])
    self.refused('model.safetensors')

  def test_missing_tensor(self):
    path = self.encoder / 'model.safetensors'
    tensors = safetensors.load_file(path)
    name = next(key for key in tensors if 'layer.1.output.dense' in key)
    del tensors[name]
    safetensors.save_file(tensors, path)
    self.refused('model.safetensors', name.removeprefix('bert.'))

  def test_wrong_checksum(self):
    self.refused('sha256', model__sha256='0' * 64)
    single = self.encoder / 'model.safetensors'
    single.rename(self.encoder / 'model-00001-of-00001.safetensors')
    self.refused('sha256', 'several files', model__sha256='0' * 64)

  def test_checkpoint_of_another_architecture(self):
    path = self.encoder / 'config.json'
    content = json.loads(path.read_text('utf-8'))
    path.write_text(json.dumps(content | {'model_type': 'gpt2'}), 'utf-8')
    self.refused('gpt2', 'config.json')

  def test_checkpoint_of_other_sizes(self):
    path = self.encoder / 'config.json'
    content = json.loads(path.read_text('utf-8'))
    path.write_text(json.dumps(content | {'hidden_size': 24}), 'utf-8')
    self.refused('model.safetensors', 'embeddings')

  def test_control_layers_that_the_model_does_not_have(self):
    self.refused(
      '--config.control.pairs',
      '(2, 3)',
      'layers 1 to 2',
      control__seeds=(1,),
      control__pairs=((2, 3),),
    )

  def test_too_few_noisy_examples_for_the_splits_of_probing(self):
    self.refused(
      'Probing',
      'noisy examples',
      localise__techniques=('probing',),
      task__name='embedded_agreement',
      task__source='embedded:train=40,pool=20',
      task__noise=0.05,  # Two examples for three parts.
    )

  @pytest.mark.full
  def test_diverged_models_are_named_and_nothing_is_half_written(self):
    values = tiny.config(
      self.encoder,
      self.folder,
      train__learning_rate=1e30,
      train__snapshots=(),
      localise__techniques=('swapping',),
    )
    with self.assertRaisesRegex(
      InputError, 'The noisy run with seed 1 diverged.*train.learning_rate'
    ) as caught:
      tiny.run(values, self.workdir)
    self.assertNotIn('\n', str(caught.exception))
    runs = pd.read_parquet(self.workdir / 'runs.parquet')
    self.assertIn('diverged', set(runs['status']))
    for name in ('layers.parquet', 'mcog.parquet', 'report.html'):
      self.assertFalse((self.workdir / name).exists())

  def test_more_tokens_than_positions(self):
    rows = [row | {'text': 'the ship ' * 40} for row in _ROWS]
    self.refused(
      'max_length', task__name='trec', task__source=self.write_rows(rows)
    )

  def test_more_runs_than_memory(self):
    self.refused('lanes=1000000', 'GiB', engine__lanes=10**6)

  def test_workdir_of_another_study(self):
    config = tiny.config(self.encoder, self.folder)
    self.workdir.mkdir()
    found = identity.of(config)
    found['map']['num_runs'] = 7
    (self.workdir / 'config.json').write_text(json.dumps(found))
    before = tiny.files(self.folder)
    with self.assertRaisesRegex(InputError, r'map\.num_runs is 7 there and 4'):
      tiny.run(config, self.workdir)
    after = tiny.files(self.folder)
    self.assertEqual(after | before, after)
    self.assertEqual([p.name for p in self.workdir.iterdir()], ['config.json'])

  def test_workdir_of_something_else(self):
    config = tiny.config(self.encoder, self.folder)
    self.workdir.mkdir()
    (self.workdir / 'thesis.tex').write_text('Chapter 1')
    with self.assertRaisesRegex(InputError, 'workdir'):
      tiny.run(config, self.workdir)
    self.assertEqual([p.name for p in self.workdir.iterdir()], ['thesis.tex'])

  @parameterized.parameters(
    ('map', 'ratio', 1.5),
    ('map', 'design', 'unbalanced'),
    ('map', 'small_class', -1),
    ('map', 'pairs', 1),
    ('control', 'map_pairs', 4),  # Without seeds of controls.
    ('map', 'small_class_ratio', 1.0),
    ('train', 'num_epochs', 0),
    ('train', 'seeds', (1, 1)),
    ('control', 'seeds', (4, 4)),
    ('control', 'graded_seeds', (2, 3, 2)),
    ('control', 'graded_seeds', (-1,)),
    ('engine', 'unroll', 'sometimes'),
    ('task', 'noise_draws', 0),
  )
  def test_setting_out_of_range(self, group, field, value):
    values = study_config.default()
    values.task.noise = 0.15
    values[group][field] = value
    with self.assertRaisesRegex(InputError, f'--config.{group}.{field}='):
      study_config.from_config_dict(values)

  @parameterized.parameters(
    ('layerwise', 'span', 0),
    ('layerwise', 'exact', 17),
    ('inputs', 'unit', 'letter'),
    ('inputs', 'replace', 'blank'),
    ('inputs', 'strengths', (0.5, 0.2)),
    ('inputs', 'deleted', (0,)),
    ('retrain', 'num_epochs', 0),
    ('retrain', 'batch_size', 0),
    ('retrain', 'learning_rate', 0.0),
    ('probe', 'seeds', 0),
    ('probe', 'num_epochs', 0),
    ('probe', 'hidden', 0),
    ('probe', 'layers', 0),
    ('probe', 'first_epoch', 0),
    ('probe', 'first_epoch', 101),  # Of 100.
    ('probe', 'learning_rate', -1e-3),
  )
  def test_setting_of_a_technique_out_of_range(self, group, field, value):
    values = study_config.default()
    values.localise[group][field] = value
    with self.assertRaisesRegex(
      InputError, f'--config.localise.{group}.{field}='
    ):
      study_config.from_config_dict(values)

  def test_no_draws_of_no_noise(self):
    values = study_config.default()
    values.task.noise = 0.0
    values.task.noise_draws = 0
    study_config.from_config_dict(values)

  @parameterized.parameters(
    ('clusters', True, 'map.design', 'independent'),
    ('clusters', True, 'task.near_duplicates', None),
    ('small_class', 5, 'map.design', 'independent'),
    ('pairs', 4, 'map.ratio', 0.7),
    ('pairs', 4, 'map.small_class', 5),
    # 0.9 of 8 runs may be all of them.
    ('small_class_ratio', 0.9, 'map.num_runs', 8),
  )
  def test_settings_that_do_not_go_together(self, field, value, other, to):
    values = study_config.default()
    values.map[field] = value
    if field == 'small_class_ratio':
      values.map.small_class = 5
    study_config.from_config_dict(values)  # Good by itself.
    group, name = other.split('.')
    values[group][name] = to
    with self.assertRaisesRegex(InputError, f'--config.map.{field}='):
      study_config.from_config_dict(values)

  def test_setting_that_does_not_exist(self):
    values = study_config.default()
    with values.unlocked():
      values.train.patience = 3
    with self.assertRaisesRegex(InputError, '--config.train.patience'):
      study_config.from_config_dict(values)

  def test_defaults_survive_the_round_trip(self):
    self.assertEqual(
      study_config.from_config_dict(study_config.default()),
      study_config.StudyConfig(),
    )

  def test_every_config_file_is_valid(self):
    files = sorted((_ROOT / 'experiments' / 'configs').glob('*.py'))
    self.assertNotEmpty(files)
    for path in files:
      scope = {}
      exec(path.read_text('utf-8'), scope)  # As config_flags does.
      study_config.from_config_dict(scope['get_config']())

  @parameterized.parameters('run', 'plan', 'validate')
  def test_entrypoint_says_one_sentence_and_exits_with_2(self, action):
    rows = [*_ROWS, {'text': 'the ship', 'coarse_label': 'WHAT'}]
    finished = subprocess.run(
      [
        sys.executable,
        _ROOT / 'experiments' / 'run.py',
        action,
        f'--config={_ROOT}/experiments/configs/quickstart.py',
        f'--workdir={self.workdir}',
        '--config.task.name=trec',
        f'--config.task.source={self.write_rows(rows)}',
        f'--config.model.source={self.encoder}',
        f'--config.engine.cache={self.folder}/cache',
      ],
      capture_output=True,
      text=True,
      check=False,
    )
    self.assertEqual(finished.returncode, 2, finished.stderr)
    last = finished.stderr.strip().splitlines()[-1]
    self.assertStartsWith(last, 'memloc: ')
    self.assertIn('row 49', last)
    self.assertNotIn('Traceback', finished.stderr)
    self.assertFalse(self.workdir.exists())


if __name__ == '__main__':
  absltest.main()
