"""Links of the documentation to files that are not part of it."""

import re

# Relative links that lead out of docs/, as [text](../README.md) does.
_OUTSIDE = re.compile(r'\[([^\]]*)\]\((?:\.\./)+(?!results/)([^)#]+)[^)]*\)')


def on_page_markdown(markdown, page, **_):
  """On the site they are names of files, which it does not have."""
  if page.file.src_uri.startswith('results/'):
    # One level up is documentation still.
    outside = re.compile(r'\[([^\]]*)\]\((?:\.\./){2,}([^)#]+)[^)]*\)')
    return outside.sub(_named, markdown)
  return _OUTSIDE.sub(_named, markdown)


def _named(match: re.Match[str]) -> str:
  text, path = match.groups()
  return text if path in text else f'{text} (`{path}`)'
