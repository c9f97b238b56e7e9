"""Links to files that are no part of the site, and the public names."""

import re

from memloc_jax import PLACES

# A name of the package itself, on the page that documents these.
_PUBLIC = re.compile(r'^::: memloc_jax\.(\w+)$', re.MULTILINE)
# Relative links that lead out of docs/, as [text](../README.md) does.
_OUTSIDE = re.compile(r'\[([^\]]*)\]\((?:\.\./)+(?!results/)([^)#]+)[^)]*\)')


def on_page_markdown(markdown, page, **_):
  """On the site they are names of files, which it does not have."""
  if page.file.src_uri.startswith('results/'):
    # One level up is documentation still.
    outside = re.compile(r'\[([^\]]*)\]\((?:\.\./){2,}([^)#]+)[^)]*\)')
    return outside.sub(_named, markdown)
  return _PUBLIC.sub(_defined, _OUTSIDE.sub(_named, markdown))


def _named(match: re.Match[str]) -> str:
  text, path = match.groups()
  return text if path in text else f'{text} (`{path}`)'


def _defined(match: re.Match[str]) -> str:
  """Where the name is defined, under the name by which it is imported."""
  name = match[1]
  module, _, attribute = PLACES[name].partition(':')
  parts = ['memloc_jax', *filter(None, [module, attribute or name])]
  heading = f'    options:\n      heading: memloc_jax.{name}'
  return f'::: {".".join(parts)}\n{heading}'
