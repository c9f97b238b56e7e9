"""JavaScript and style of the libraries that the page needs, from packages."""

import functools
import importlib.resources
from typing import NamedTuple

from plotly import offline


class Libraries(NamedTuple):
  """Texts to stand in the page, so that it needs no network.

  Attributes:
    plotly: plotly.js, which draws the map and profiles.
    datatables: the module of DataTables, as `itables` ships it.
    style: its style sheet.
  """

  plotly: str
  datatables: str
  style: str


@functools.cache
def libraries() -> Libraries:
  """Reads them; none can end the element that it stands in."""
  read = lambda name: (
    importlib.resources.files('itables')
    .joinpath('html', name)
    .read_text('utf-8')
  )
  # HTML takes no notice of JavaScript's strings. The backslash is none in them.
  inside = lambda text: text.replace('</script', '<\\/script').replace(
    '<!--', '<\\!--'
  )
  return Libraries(
    plotly=inside(offline.get_plotlyjs()),
    datatables=inside(read('dt_bundle.js')),
    style=read('dt_bundle.css'),
  )
