"""Public functions say what shapes they take, and what they raise."""

import ast
import pathlib
import re
from collections.abc import Iterator

from absl.testing import absltest, parameterized

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / 'memloc_jax'
_ARRAYS = re.compile(r'\b(np\.ndarray|jax\.Array)\b')
# '[n, classes]', or a word for what has no axes or any.
_SHAPE = re.compile(
  r'\[[^\]]*\]|\bscalar|\bkeys?\b|\bany shape|\balike\b|\bsame shape'
)


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
  """Public functions, and public methods of public classes."""
  for node in tree.body:
    if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
      yield from (n for n in node.body if _is_public(n))
    elif _is_public(node):
      yield node


def _is_public(node: ast.AST) -> bool:
  return isinstance(node, ast.FunctionDef) and not node.name.startswith('_')


def faults(node: ast.FunctionDef) -> list[str]:
  """What its docstring lacks."""
  text = ast.get_docstring(node) or ''
  found = []
  inherits = 'see the base class' in text.lower()
  arrays = [
    arg.arg
    for arg in (*node.args.args, *node.args.kwonlyargs)
    if arg.annotation and _ARRAYS.search(ast.unparse(arg.annotation))
  ]
  returns = node.returns and _ARRAYS.search(ast.unparse(node.returns))
  if (arrays or returns) and not _SHAPE.search(text) and not inherits:
    found.append('has arrays, and no shape')
  named = [a.arg for a in node.args.args if a.arg not in ('self', 'cls')]
  if 'Args:' in text:
    section = text.partition('Args:')[2]
    missing = [
      name for name in named if not re.search(rf'\b{name}\b.*:', section)
    ]
    if missing:
      found.append(f'Args lacks {missing[0]}')
  raised = {
    ast.unparse(n.exc.func if isinstance(n.exc, ast.Call) else n.exc)
    for n in _own(node)
    if isinstance(n, ast.Raise) and n.exc is not None
  }
  for name in sorted(raised):
    # Others are made by functions, or are raised again.
    if re.fullmatch(r'[A-Z]\w*', name) and name not in text:
      found.append(f'raises {name}')
  return found


def _own(node: ast.AST) -> Iterator[ast.AST]:
  """Nodes of a function, but for functions within it and what it catches."""
  for child in ast.iter_child_nodes(node):
    if not isinstance(child, ast.FunctionDef | ast.Lambda | ast.Try):
      yield child
      yield from _own(child)


class DocstringsTest(parameterized.TestCase):
  def test_every_public_function(self):
    checked = 0
    for path in sorted(PACKAGE.rglob('*.py')):
      for node in functions(ast.parse(path.read_text('utf-8'))):
        checked += 1
        place = f'{path.relative_to(PACKAGE)}:{node.lineno} {node.name}'
        with self.subTest(place):
          self.assertEqual(faults(node), [])
    self.assertGreater(checked, 200)

  @parameterized.parameters(
    ('def f(x: np.ndarray):\n  "Does it."', 'has arrays, and no shape'),
    ('def f(x) -> jax.Array:\n  "Does it."', 'has arrays, and no shape'),
    ('def f(a, b):\n  """Do.\n\n  Args:\n    a: one.\n  """', 'Args lacks b'),
    ('def f():\n  "Does it."\n  raise InputError("no")', 'raises InputError'),
  )
  def test_faults_are_found(self, source, fault):
    (node,) = functions(ast.parse(source))
    self.assertEqual(faults(node), [fault])


if __name__ == '__main__':
  absltest.main()
