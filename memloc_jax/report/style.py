"""The look of every figure, and how figures become files."""

import base64
import io
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib.artist import Artist
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

# Okabe & Ito's palette, told apart under every common colour blindness.
BLUE = '#0072B2'
VERMILION = '#D55E00'
GREY = '#6B6B6B'
# For lines that must be told apart without an order.
SERIES = (BLUE, VERMILION, '#009E73', '#CC79A7', '#56B4E9', '#E69F00')
# Of marks that have no other colour.
INK = '#222222'
# Of text on light and on dark cells, whatever the page.
ON_LIGHT, ON_DARK = '#111111', 'white'
# One hue, light for little and dark for much, so that it survives greyscale.
SEQUENTIAL = LinearSegmentedColormap.from_list(
  'memloc_blues', ('#D9E5EE', '#6FA6CC', '#0A3566')
)
DIVERGING = LinearSegmentedColormap.from_list(
  'memloc_diverging',
  ('#0A3566', '#6FA6CC', '#F4F4F4', '#E79A5B', '#9C4400'),
)

# Of marks, lines and text on a dark page, by that on a light one.
_DARK = {
  BLUE: '#5fb0e5',
  VERMILION: '#f5935a',
  GREY: '#a9b4bf',
  '#0A3566': '#e3f2ff',
  '#CC79A7': '#e3a3c6',
  '#000000': '#e4e9ee',
  '#222222': '#e4e9ee',
  '#444444': '#8a95a1',
  '#DDDDDD': '#36404b',
  '#E3E7EB': '#36404b',
  '#E8E8E8': '#2c343d',
  '#B8BFC6': '#6d7883',
}
# Of the page and its figures alike. Figures are measured in DejaVu Sans, which
# is wider than any of these, so that their letters have room.
FONT = (
  "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', "
  'sans-serif'
)
_MEASURED = "'DejaVu Sans', sans-serif"
# Pixels of the page per point of a figure, so that all letters are alike, and
# how wide a figure can be without being made smaller, in inches.
_SCALE = 1.25
WIDEST = 12.8

_PARAMETERS = {
  'font.family': 'sans-serif',
  'font.sans-serif': ['DejaVu Sans'],
  'font.size': 10,
  'axes.titlesize': 11,
  'axes.titleweight': 'bold',
  'axes.titlelocation': 'left',
  'axes.titlepad': 10,
  'axes.labelsize': 10,
  'axes.facecolor': 'none',
  'axes.edgecolor': '#444444',
  'axes.linewidth': 0.8,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'xtick.labelsize': 9,
  'ytick.labelsize': 9,
  'legend.fontsize': 9,
  'legend.frameon': False,
  'figure.dpi': 100,
  'savefig.dpi': 200,
  # As text, which can be searched and edited.
  'svg.fonttype': 'none',
  'pdf.fonttype': 42,
  # Random ids would make two files of the same figure differ.
  'svg.hashsalt': 'memloc_jax',
}


def series() -> Iterator[tuple[str, str]]:
  """Line style and colour of one line after the other, without an end."""
  return itertools.cycle(itertools.product(('-', '--', ':', '-.'), SERIES))


@contextmanager
def styled() -> Iterator[None]:
  """Draws and saves with the house style, and leaves no trace of it."""
  with matplotlib.rc_context(_PARAMETERS):
    yield


def legend_below(figure: Figure, columns: int = 3, title: str = '') -> None:
  """One legend for all panels, below them, where it hides no data."""
  handles: dict[str, Artist] = {}
  for axes in figure.axes:
    for handle, name in zip(*axes.get_legend_handles_labels()):
      handles.setdefault(name, handle)
  if handles:
    figure.legend(
      handles.values(),
      handles,
      loc='outside lower center',
      ncols=min(columns, len(handles)),
      title=title or None,
    )


def render(figure: Figure) -> dict[str, bytes]:
  """The figure as bytes of an SVG, a PDF and a PNG file.

  Rendering the same data again gives the same bytes. The figure is laid out
  and measured once, for all formats.

  Args:
    figure: drawn inside `styled`.

  Returns:
    File contents by suffix, 'svg', 'pdf' and 'png'.
  """
  metadata = {
    'svg': {'Date': None},
    'pdf': {'CreationDate': None},
    'png': {},
  }
  contents = {}
  with styled():
    figure.draw_without_rendering()
    # No engine, not even 'none': with any, saving draws once more.
    figure.set_layout_engine(None)
    pad = matplotlib.rcParams['savefig.pad_inches']
    extent = figure.get_tightbbox().padded(pad)
    for suffix, values in metadata.items():
      buffer = io.BytesIO()
      figure.savefig(buffer, format=suffix, metadata=values, bbox_inches=extent)
      contents[suffix] = buffer.getvalue()
  return contents


def width(svg: bytes) -> int:
  """How wide a figure is on the page, in pixels: all have one scale."""
  points = re.search(rb'<svg[^>]*?\bwidth="([0-9.]+)pt"', svg)
  if points is None:
    raise ValueError('The SVG has no width in points.')
  return round(_SCALE * float(points[1]))


def adaptive(svg: bytes) -> bytes:
  """The SVG in the page's font and in colours of its light or dark setting.

  Marks keep their hue and get lighter, lines and text turn light, and the
  background is the page's.
  """
  rules = ['svg{fill:#e4e9ee}']
  rules += [
    f'[style*="{what}: {light.lower()}"]{{{what}:{dark}!important}}'
    for light, dark in _DARK.items()
    for what in ('fill', 'stroke')
  ]
  text = '#patch_1 path{fill:none!important}'
  text += '@media (prefers-color-scheme:dark){' + ''.join(rules) + '}'
  svg = svg.replace(_MEASURED.encode(), FONT.encode())
  return svg.replace(b'<defs>', f'<style>{text}</style><defs>'.encode(), 1)


def data_uri(svg: bytes) -> str:
  """An SVG file as the source of an image that needs no other file."""
  return 'data:image/svg+xml;base64,' + base64.b64encode(svg).decode()
