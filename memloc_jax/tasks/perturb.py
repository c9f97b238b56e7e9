"""Texts changed a little: case, typing errors, order of words."""

import re
from collections.abc import Callable

import numpy as np

_WORD = re.compile(r'\S+')


def lower(text: str, strength: float, rng: np.random.Generator) -> str:
  """All letters small, whatever the strength."""
  del strength, rng
  return text.lower()


def upper(text: str, strength: float, rng: np.random.Generator) -> str:
  """All letters capitals, whatever the strength."""
  del strength, rng
  return text.upper()


def typos(text: str, strength: float, rng: np.random.Generator) -> str:
  """Two neighbouring characters change places in a share of the words."""

  def change(found: re.Match) -> str:
    word = found.group()
    drawn, at = rng.random(2)
    if len(word) < 2 or drawn >= strength:
      return word
    at = int(at * (len(word) - 1))
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]

  return _WORD.sub(change, text)


def shuffle(text: str, strength: float, rng: np.random.Generator) -> str:
  """A share of the words change places among themselves."""
  words = _WORD.findall(text)
  drawn, order = rng.random((2, len(words)))
  chosen = np.flatnonzero(drawn < strength)
  moved = list(words)
  for to, source in zip(chosen, chosen[np.argsort(order[chosen])]):
    moved[to] = words[source]
  after = iter(moved)
  return _WORD.sub(lambda _: next(after), text)


# Text, strength from 0 to 1, generator -> text. What a strength changes, a
# larger one changes too, from the same generator.
KINDS: dict[str, Callable[[str, float, np.random.Generator], str]] = {
  'lower': lower,
  'upper': upper,
  'typos': typos,
  'shuffle': shuffle,
}
# Those of which the strength says nothing.
WHOLE = ('lower', 'upper')


def perturb(
  segments: tuple[str, ...], kind: str, strength: float, seed: list[int]
) -> tuple[str, ...]:
  """An example's fields, each changed.

  Args:
    segments: the fields.
    kind: one of `KINDS`.
    strength: share of the words, from 0 to 1.
    seed: of the draw; equal ones are changed in the same places.

  Returns:
    The fields; with strength 0 the same, but for `WHOLE` kinds.
  """
  rng = np.random.default_rng(seed)
  return tuple(KINDS[kind](text, strength, rng) for text in segments)
