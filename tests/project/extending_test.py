"""What the page on extending shows is run as it stands there."""

import json
import pathlib
import re
import tempfile

import jax
import numpy as np
import pandas as pd
from absl.testing import absltest, parameterized

from memloc_jax import api
from memloc_jax.localisation import scores
from memloc_jax.models import bert, checkpoint
from memloc_jax.models import registry as models
from memloc_jax.study import stages
from memloc_jax.tasks import embedded
from memloc_jax.tasks import registry as tasks
from memloc_jax.tasks.sources import load_rows
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
    for registry in (scores.TECHNIQUES, tasks._TASKS, models.FAMILIES):
      kept = dict(registry)
      self.addCleanup(lambda r=registry, k=kept: (r.clear(), r.update(k)))
    kept = dict(stages.STAGES)
    self.addCleanup(lambda: (stages.STAGES.clear(), stages.STAGES.update(kept)))

  def test_a_technique_is_a_stage_and_part_of_the_tables(self):
    exec(_blocks()['A technique'], {})
    values = tiny.config(
      self.encoder,
      self.folder,
      map__num_runs=0,
      train__snapshots=(),
      localise__techniques=('largest_change', 'constant'),
    )
    workdir = tiny.run(values, self.folder / 'technique')
    found = pd.read_parquet(workdir / 'layers.parquet')
    self.assertIn('largest_change', set(found['technique']))
    self.assertTrue((workdir / 'stages/largest_change.json').exists())
    own = api.Result(workdir).table('changes')
    self.assertEqual(list(own), ['technique', 'source', 'seed', 'largest'])
    main = found[found['technique'] == 'largest_change']
    self.assertEqual(own.loc[0, 'largest'], main['raw'].max())

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
    rows = load_rows(f'files:{folder}', task)['train']
    self.assertEqual(rows.label_names, ('bad', 'good'))
    self.assertLen(rows, 16)
    with self.assertRaisesRegex(ValueError, 'already a task'):
      tasks.register(task)

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
      models.register('other', models.FAMILIES['gert'])
    self.assertIs(models.FAMILIES['bert'], bert.FAMILY)


class LengthTest(parameterized.TestCase):
  def test_each_is_short(self):
    found = _blocks()
    self.assertLen(found, 3)
    for heading, code in found.items():
      with self.subTest(heading):
        self.assertLess(code.count('\n'), 30)


if __name__ == '__main__':
  absltest.main()
