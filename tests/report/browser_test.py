"""The page in a real browser: it works, offline, for everyone."""

import pathlib
import shutil
import tempfile
import time

import pandas as pd
from absl.testing import absltest
from selenium import webdriver
from selenium.common import exceptions
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from memloc_jax.curate import triage
from memloc_jax.report import page
from tests.report import pages

_COUNT = 120
_BROWSER, _DRIVER = (shutil.which(x) for x in ('chromium', 'chromedriver'))
_ROOT = pathlib.Path(__file__).parents[2]
# To be looked at; git takes no notice of them.
_SCREENSHOTS = _ROOT / 'workdirs' / 'screenshots'
_MANIFEST = {
  'config': {'task': {'name': 'trec'}},
  'data': {'fingerprint': 'of these'},
}
_SECONDS = 30


def _browser(downloads: str, dark: bool) -> webdriver.Chrome:
  options = webdriver.ChromeOptions()
  options.binary_location = _BROWSER
  for argument in (
    '--headless=new',
    '--no-sandbox',
    '--window-size=1300,1500',
    '--enable-unsafe-swiftshader',
    # 0 is dark, and 1 is light.
    f'--blink-settings=preferredColorScheme={0 if dark else 1}',
  ):
    options.add_argument(argument)
  options.add_experimental_option(
    'prefs', {'download.default_directory': downloads}
  )
  options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
  service = webdriver.ChromeService(_DRIVER)
  return webdriver.Chrome(options=options, service=service)


@absltest.skipUnless(
  _BROWSER and _DRIVER, 'chromium and chromedriver are not installed'
)
class BrowserCase(absltest.TestCase):
  """One page, opened once."""

  dark = False
  manifest = _MANIFEST

  @classmethod
  def make(cls):
    """The tables of the page."""
    return pages.tables(_COUNT)

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.tables = cls.make()
    path = page.write_report(cls.folder, cls.tables, cls.manifest)
    cls.browser = _browser(str(cls.folder / 'downloads'), cls.dark)
    cls.addClassCleanup(cls.browser.quit)
    cls.browser.get(path.as_uri())
    cls.wait(
      lambda: cls.run_script('return document.documentElement.dataset.ready')
    )

  @classmethod
  def wait(cls, condition):
    # The table is drawn anew while it is looked at: a row may be gone.
    stale = [exceptions.StaleElementReferenceException]
    wait = WebDriverWait(cls.browser, _SECONDS, ignored_exceptions=stale)
    return wait.until(lambda _: condition())

  @classmethod
  def run_script(cls, script, *arguments):
    return cls.browser.execute_script(script, *arguments)

  def find(self, selector):
    return self.browser.find_element(By.CSS_SELECTOR, selector)

  def info(self):
    return self.find('.dt-info').text

  def first_row(self):
    return self.find('#examples-table tbody tr')

  def search(self, text):
    field = self.find('.dt-search input')
    field.send_keys(Keys.CONTROL, 'a')
    field.send_keys(text or Keys.DELETE)

  def top(self, element):
    return self.run_script(
      'return arguments[0].getBoundingClientRect().top', element
    )

  def look(self, view):
    path = f"//*[@id='views']/button[starts-with(., '{view}')]"
    self.browser.find_element(By.XPATH, path).click()

  def decide(self, row, word):
    rows = self.browser.find_elements(
      By.CSS_SELECTOR, '#examples-table tbody tr[data-place]'
    )
    path = f".//*[@class='decision']/button[.='{word}']"
    rows[row].find_element(By.XPATH, path).click()


class PageTest(BrowserCase):
  """Every test begins with all examples listed."""

  def setUp(self):
    super().setUp()
    self.look('All examples')

  def shown(self):
    return self.find('#detail h3').text

  def tearDown(self):
    self.search('')
    for button in self.browser.find_elements(By.ID, 'close'):
      self.run_script('arguments[0].click()', button)
    super().tearDown()

  def test_nothing_fails_and_nothing_is_fetched(self):
    severe = [
      entry['message']
      for entry in self.browser.get_log('browser')
      if entry['level'] == 'SEVERE'
    ]
    self.assertEqual(severe, [])
    fetched = self.run_script(
      "return performance.getEntriesByType('resource').map(x => x.name)"
    )
    self.assertEqual(
      [x for x in fetched if not x.startswith(('data:', 'blob:'))], []
    )
    self.assertEqual(
      self.run_script('return document.title'), 'Memorisation in trec'
    )

  def test_map_shows_every_example(self):
    count = self.run_script(
      "return document.getElementById('map').data"
      '.reduce((sum, trace) => sum + trace.x.length, 0)'
    )
    self.assertEqual(count, _COUNT)
    self.assertGreater(
      len(self.browser.find_elements(By.TAG_NAME, 'canvas')), 0
    )

  def test_begins_with_the_most_doubtful_labels(self):
    examples = self.tables['examples']
    doubtful = triage.doubtful(examples)
    self.look('Labels to check')
    self.assertIn(f'of {len(doubtful)} ', self.info())
    self.assertIn(f'{doubtful["id"].iloc[0]} ', self.first_row().text)
    self.look('All examples')
    self.assertIn(f'of {_COUNT} ', self.info())
    wanted = examples.nlargest(1, 'cm_low')['id'].item()
    self.assertIn(wanted, self.first_row().text)

  def test_contents_bar_follows_the_page(self):
    size = self.browser.get_window_size()
    self.addCleanup(self.browser.set_window_size, size['width'], size['height'])
    self.browser.set_window_size(size['width'], 600)
    links = self.browser.find_elements(By.CSS_SELECTOR, '.contents a')
    names = [link.text for link in links]
    self.assertEqual(names[:2], ['Labels to check', 'Examples'])
    self.assertEqual(names[-1], 'Methods')
    bar = self.find('.contents')
    for link in (links[1], links[-1], links[0]):
      link.click()
      target = link.get_attribute('href').partition('#')[2]
      heading = self.find(f'#{target} h2')
      # The bar stays in sight, and hides no heading.
      self.wait(lambda heading=heading: self.top(heading) >= 0)
      self.assertBetween(self.top(bar), -1, 1)
      below = self.top(heading) - bar.size['height']
      self.assertGreaterEqual(below, 0)
      if target != 'methods':  # Which is too short to reach the top.
        self.assertLess(below, 60)
        self.wait(lambda link=link: link.get_attribute('aria-current'))

  def test_detail_opens_under_its_row_and_closes(self):
    rows = self.browser.find_elements(
      By.CSS_SELECTOR, '#examples-table tbody tr[data-place]'
    )
    rows[2].click()
    detail = self.find('#detail')
    gap = self.top(detail) - (self.top(rows[2]) + rows[2].size['height'])
    self.assertBetween(gap, -1, 20)
    self.assertLess(self.top(detail), self.top(rows[3]))
    self.assertIn('shown', rows[2].get_attribute('class'))
    # There is one at a time.
    rows[4].click()
    self.assertLen(self.browser.find_elements(By.ID, 'detail'), 1)
    self.assertNotIn('shown', rows[2].get_attribute('class'))
    rows[4].click()
    self.assertEmpty(self.browser.find_elements(By.ID, 'detail'))

  def test_folded_parts_open(self):
    part = self.find('#examples details')
    line = part.find_element(By.TAG_NAME, 'p')
    self.assertFalse(line.is_displayed())
    part.find_element(By.TAG_NAME, 'summary').click()
    self.assertTrue(line.is_displayed())
    part.find_element(By.TAG_NAME, 'summary').click()

  def test_decisions_are_downloaded_as_apply_reads_them(self):
    self.look('Labels to check')
    doubtful = triage.doubtful(self.tables['examples'])
    button = self.find('#download-review')
    self.assertFalse(button.is_enabled())
    words = ('keep', 'relabel', 'drop')
    for row, word in enumerate(words):
      self.decide(row, word)
    # One that is pressed again is taken back.
    self.decide(3, 'drop')
    self.decide(3, 'drop')
    self.assertEqual(self.find('#reviewed').text, '3 decided')
    # A decision does not open the row.
    self.assertEmpty(self.browser.find_elements(By.ID, 'detail'))
    file = self.folder / 'downloads' / 'reviewed.csv'
    button.click()
    self.wait(file.exists)
    found = triage.read(file, self.tables['examples'], ['right', 'wrong'])
    found = found.set_index('id')
    self.assertEqual(
      found['decision'].to_dict(), dict(zip(doubtful['id'], words))
    )
    relabelled = found[found['decision'] == 'relabel']
    self.assertEqual(relabelled['label'].tolist(), ['right'])
    # They are there again after the page was closed.
    self.browser.refresh()
    self.wait(
      lambda: self.run_script('return document.documentElement.dataset.ready')
    )
    self.assertEqual(self.find('#reviewed').text, '3 decided')
    for row, word in enumerate(words):
      self.decide(row, word)
    self.assertFalse(self.find('#download-review').is_enabled())

  def test_headings_are_in_order(self):
    levels = self.run_script(
      "return [...document.querySelectorAll('h1,h2,h3')].map(x => x.tagName)"
    )
    self.assertEqual(levels[0], 'H1')
    self.assertEqual(levels.count('H1'), 1)
    self.assertEqual(set(levels[1:]), {'H2'})

  def test_filter_and_download_what_is_left(self):
    self.search('"row 7"')
    wanted = self.tables['examples']['id'].str.contains('row 7').sum()
    self.wait(lambda: f'of {wanted} ' in self.info())
    self.find('.dt-buttons button').click()
    file = self.folder / 'downloads' / 'examples.csv'
    self.wait(file.exists)
    table = pd.read_csv(file)
    self.assertLen(table, wanted)
    self.assertTrue(table['Id'].str.contains('row 7').all())
    self.assertTrue(table['Lower end'].is_monotonic_decreasing)
    self.assertNotIn('Decision', table)

  def test_sort(self):
    examples = self.tables['examples']
    header = "//th[.//span[text()='Generalisation']]//button"
    button = self.browser.find_element(By.XPATH, header)
    for wanted in ('nsmallest', 'nlargest'):
      button.click()
      at = getattr(examples, wanted)(1, 'generalisation')['id'].item()
      self.wait(lambda at=at: self.first_row().text.startswith(f'{at} '))

  def test_a_row_opens_by_click_and_by_key(self):
    rows = self.browser.find_elements(
      By.CSS_SELECTOR, '#examples-table tbody tr[data-place]'
    )
    for row, opening in ((rows[3], 'click'), (rows[5], 'key')):
      wanted = row.find_element(By.TAG_NAME, 'td').text
      if opening == 'click':
        row.find_element(By.CSS_SELECTOR, '.text').click()
      else:
        row.send_keys(Keys.ENTER)
      self.assertEqual(self.shown(), wanted)
    self.wait(
      lambda: (
        len(self.browser.find_elements(By.CSS_SELECTOR, '#detail .bars .point'))
        == pages.LAYERS + 1
      )
    )

  def test_next_and_previous_follow_the_table(self):
    self.first_row().click()
    first = self.shown()
    self.find('#next').click()
    second = self.browser.find_elements(
      By.CSS_SELECTOR, '#examples-table tbody tr[data-place]'
    )[1]
    self.assertIn(f'{self.shown()} ', second.text)
    self.find('#previous').click()
    self.assertEqual(self.shown(), first)

  def test_detail_of_an_example_that_is_not_listed_is_out_of_sight(self):
    self.first_row().click()
    first = self.shown()
    self.assertNotIn('row 7', first)
    self.search('"row 7"')
    self.wait(lambda: f'of {_COUNT} ' not in self.info())
    self.assertEmpty(self.browser.find_elements(By.ID, 'detail'))
    self.search('')
    self.wait(lambda: f'of {_COUNT} ' in self.info())
    self.assertEqual(self.shown(), first)

  def test_what_is_marked_in_the_map_is_listed(self):
    drag = webdriver.ActionChains(self.browser)
    area = self.find('#map .nsewdrag')
    self.run_script("arguments[0].scrollIntoView({block: 'center'})", area)
    size = area.size
    # The upper left quarter: seen well, unseen badly.
    drag.move_to_element_with_offset(
      area, -size['width'] // 2 + 2, -size['height'] // 2 + 2
    ).click_and_hold().move_by_offset(
      size['width'] // 4, size['height'] // 4
    ).move_by_offset(
      size['width'] // 4, size['height'] // 4
    ).release().perform()
    clear = self.find('#map-clear')
    self.wait(clear.is_displayed)
    examples = self.tables['examples']
    inside = (examples['generalisation'] < 0.49).sum()
    self.assertRegex(self.info(), r'of \d+ ')
    listed = int(self.info().split(' of ')[1].split()[0])
    self.assertBetween(listed, inside - 5, inside + 5)
    clear.click()
    self.wait(lambda: f'of {_COUNT} ' in self.info())

  def test_texts_are_not_markup(self):
    self.search('onerror')
    self.wait(lambda: 'of 1 ' in self.info())
    self.first_row().click()
    self.assertEqual(self.find('#detail .example').text, pages.MARKUP)
    images = self.browser.find_elements(By.CSS_SELECTOR, 'img[src="x"]')
    self.assertEqual(images, [])

  def test_accessible(self):
    found = self.browser.execute_async_script(
      f'{_axe()}\nconst done = arguments[0];'
      "axe.run({resultTypes: ['violations']}).then(done)"
    )
    serious = {
      rule['id']: [node['html'][:120] for node in rule['nodes']]
      for rule in found['violations']
      if rule['impact'] in ('serious', 'critical')
    }
    self.assertEqual(serious, {})

  def test_screenshot(self):
    _SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    self.run_script("document.querySelector('.explorer').scrollIntoView()")
    time.sleep(0.3)
    name = 'dark' if self.dark else 'light'
    path = _SCREENSHOTS / f'report_{name}.png'
    self.assertTrue(self.browser.save_screenshot(str(path)))


class CheckPageTest(BrowserCase):
  """The page of `memloc check`, which offers a sample."""

  manifest = {
    'config': {'task': {'name': 'own', 'files': 'a.csv', 'noise': 0.0}},
    'data': {'fingerprint': 'of a check'},
    'check': {'by_models': 'At most 9 of 120 labels are wrong.'},
  }

  @classmethod
  def make(cls):
    examples = pages.tables(_COUNT)['examples'].drop(columns='kind')
    examples = examples.assign(noisy=False, original=examples['given'])
    sample = examples[['index', 'id', 'hash']].assign(
      offered=examples['index'] % 30 == 7
    )
    return {'examples': examples, 'sample': sample}

  def test_rows_of_the_sample_are_marked_and_counted(self):
    sample = self.tables['sample']
    offered = sample.loc[sample['offered'], 'id'].tolist()
    self.look('Sample to review')
    self.assertIn(f'of {len(offered)} ', self.info())
    ids = self.browser.find_elements(By.CSS_SELECTOR, '#examples-table td.id')
    self.assertCountEqual(
      [each.text for each in ids], [f'{id} sample' for id in offered]
    )
    self.decide(0, 'keep')
    said = self.find('#reviewed').text
    self.assertEqual(said, '1 decided, 1 of 4 of the sample')
    self.look('Most doubtful first')
    self.assertIn(f'of {_COUNT} ', self.info())
    examples = self.tables['examples']
    first = examples.sort_values('generalisation')['id'].iloc[0]
    self.assertStartsWith(self.first_row().text, first)
    self.first_row().click()
    self.assertEqual(self.find('#detail h3').text, first)

  def test_nothing_fails(self):
    severe = [
      entry['message']
      for entry in self.browser.get_log('browser')
      if entry['level'] == 'SEVERE'
    ]
    self.assertEqual(severe, [])


class DarkPageTest(PageTest):
  dark = True

  def test_is_dark(self):
    background = self.run_script(
      'return getComputedStyle(document.body).backgroundColor'
    )
    self.assertEqual(background, 'rgb(22, 27, 33)')


class SizeTest(absltest.TestCase):
  def test_sixteen_thousand_examples(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    path = page.write_report(folder, pages.tables(16_000), _MANIFEST)
    self.assertLess(path.stat().st_size, 25e6)


def _axe() -> str:
  """axe-core, as the package ships it."""
  import importlib.resources

  folder = importlib.resources.files('axe_core_python')
  return folder.joinpath('axe.min.js').read_text('utf-8')


if __name__ == '__main__':
  absltest.main()
