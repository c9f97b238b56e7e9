"""The registry is complete and says so when asked for something else."""

from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.tasks import registry

_PAPER = (
  'wic rte mrpc cola boolq sst2 sst5 emotion implicithate stormfront reuters '
  'trec'
)
_BINARY = 'trecv2 reutersv2 sst5v2 emotionv2 implicithatev2'


class RegistryTest(parameterized.TestCase):
  def test_names(self):
    expected = [
      *_PAPER.split(),
      *_BINARY.split(),
      'embedded',
      'embedded_agreement',
    ]
    self.assertCountEqual(registry.task_names(), expected)

  @parameterized.parameters(*registry.task_names())
  def test_every_row_is_consistent(self, name):
    task = registry.get_task(name)
    self.assertEqual(task.name, name)
    self.assertIn(task.group, ('nlu', 'sentiment', 'hate', 'topic'))
    self.assertIn(task.pool, ('validation', 'test', None))
    self.assertEqual(task.binary, name.endswith('v2'))
    self.assertEqual(task.hub is None, name.startswith('embedded'))
    # Where the names are not given, something else must bound the classes.
    self.assertEqual(task.label_names is None, task.top_labels > 0)

  def test_groups_as_in_the_paper(self):
    groups = {}
    for name in _PAPER.split():
      groups.setdefault(registry.get_task(name).group, set()).add(name)
    self.assertEqual(
      groups,
      {
        'nlu': {'wic', 'rte', 'mrpc', 'cola', 'boolq'},
        'hate': {'implicithate', 'stormfront'},
        'sentiment': {'sst2', 'sst5', 'emotion'},
        'topic': {'trec', 'reuters'},
      },
    )

  @parameterized.parameters('imdb', 'colav2', 'embeddedv2', '')
  def test_unknown_name_lists_the_names(self, name):
    with self.assertRaisesRegex(InputError, f'unknown task {name!r}.*trec.*v2'):
      registry.get_task(name)


if __name__ == '__main__':
  absltest.main()
