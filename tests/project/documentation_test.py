"""README, docs and citation say what is there."""

import functools
import operator
import pathlib
import re
import tomllib

import yaml
from absl.testing import absltest

from memloc_jax import stages
from memloc_jax.curate import triage
from memloc_jax.study import config
from memloc_jax.tasks import files, registry

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]


def section(page: str, heading: str) -> str:
  """The text below a second-level heading, up to the next."""
  return page.partition(f'\n## {heading}\n')[2].partition('\n## ')[0]


def code_names(text: str) -> set[str]:
  """Every word in backticks."""
  return set(re.findall(r'`([^`\s]+)`', text))


class LinksTest(absltest.TestCase):
  def test_relative_links_exist(self):
    checked = 0
    for page in PAGES:
      for target in re.findall(r'\]\(([^)#]+)[^)]*\)', page.read_text('utf-8')):
        if '://' not in target:
          checked += 1
          with self.subTest(f'{page.name}: {target}'):
            self.assertTrue((page.parent / target).exists())
    self.assertGreater(checked, 8)

  def test_named_files_exist(self):
    """Scripts and configs that commands of the pages name."""
    named = {
      name
      for page in PAGES
      for name in re.findall(
        r'\b(?:experiments|launch|benchmarks)/[\w/]+\.\w+',
        page.read_text('utf-8'),
      )
    }
    self.assertIn('experiments/run.py', named)
    for name in sorted(named):
      with self.subTest(name):
        self.assertTrue((ROOT / name).is_file())

  def test_every_page_is_in_the_index(self):
    index = (ROOT / 'docs/README.md').read_text('utf-8')
    for page in (ROOT / 'docs').glob('*.md'):
      if page.name != 'README.md':
        self.assertIn(f']({page.name})', index)


class SettingsTest(absltest.TestCase):
  def test_named_settings_exist(self):
    settings = config.default()
    pages = [*PAGES, *(ROOT / 'launch').iterdir()]
    named = {
      name
      for page in pages
      for name in re.findall(r'--config\.([\w.]*\w)', page.read_text('utf-8'))
    }
    self.assertIn('train.num_epochs', named)
    for name in sorted(named):
      with self.subTest(name):
        *groups, setting = name.split('.')
        group = functools.reduce(operator.getitem, groups, settings)
        self.assertIn(setting, group)

  def test_each_is_set_by_a_preset_or_named_on_a_page(self):
    folders = ('experiments/configs', 'memloc_jax/presets')
    presets = [path for name in folders for path in (ROOT / name).glob('*.py')]
    pages = [page for page in PAGES if 'decisions' not in str(page)]
    text = ''.join(path.read_text('utf-8') for path in (*pages, *presets))
    named = set(re.findall(r'\b[a-z_]+(?:\.[a-z_0-9]+)+\b', text))
    named |= {name.removeprefix('config.') for name in named}
    settings = [one.name for one in config.described()]
    self.assertEmpty([name for name in settings if name not in named])


class PagesTest(absltest.TestCase):
  def test_every_column_of_the_list_to_check_is_documented(self):
    page = (ROOT / 'docs/tables.md').read_text('utf-8')
    named = code_names(section(page, '`triage.csv`'))
    self.assertEmpty(set(triage.COLUMNS) - named)

  def test_every_table_is_in_the_readme(self):
    page = (ROOT / 'README.md').read_text('utf-8')
    named = code_names(section(page, 'What comes out'))
    self.assertEmpty(set(stages.known_tables()) - named)

  def test_sources_page_is_complete(self):
    page = (ROOT / 'docs/sources.md').read_text('utf-8')
    aliases = [name for names in registry.ALIASES.values() for name in names]
    wanted = {*registry.task_names(), *files.SUFFIXES, *aliases}
    self.assertEmpty(wanted - code_names(page))

  def test_tasks_named_for_tfds_are_those_there(self):
    page = (ROOT / 'docs/sources.md').read_text('utf-8')
    listed = section(page, '`tfds:`').partition('Available for')[2]
    there = {
      name
      for name in registry.task_names()
      if registry.get_task(name).tfds and not registry.get_task(name).binary
    }
    self.assertEqual(
      code_names(listed.partition('TensorFlow Datasets shuffles')[0]), there
    )


class CitationTest(absltest.TestCase):
  def test_citation_names_software_and_paper(self):
    text = (ROOT / 'CITATION.cff').read_text('utf-8')
    citation = yaml.safe_load(text)
    self.assertEqual(citation['cff-version'], '1.2.0')
    for key in ('message', 'title', 'authors', 'version', 'license'):
      self.assertTrue(citation[key], key)
    (paper,) = citation['references']
    names = [author['family-names'] for author in paper['authors']]
    self.assertEqual(names, ['Dankers', 'Titov'])
    self.assertEqual(paper['year'], 2024)
    self.assertIn('2408.04965', paper['url'])

  def test_versions_and_licences_agree(self):
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text('utf-8'))
    text = (ROOT / 'pyproject.toml').read_text('utf-8')
    project = tomllib.loads(text)['project']
    self.assertEqual(citation['title'], project['name'])
    self.assertEqual(citation['version'], project['version'])
    self.assertEqual(citation['license'], project['license'])
    licence = (ROOT / 'LICENSE').read_text('utf-8')
    self.assertIn('Apache License', licence)
    self.assertIn('END OF TERMS AND CONDITIONS', licence)


if __name__ == '__main__':
  absltest.main()
