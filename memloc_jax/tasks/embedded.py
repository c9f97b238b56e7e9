"""The embedded task: a small corpus with known rules and known exceptions.

A sentence names a seafarer or a farmer, and a thing of the same world, that
the one likes or dislikes: `today the old sailor never praised the ship`. Its
class is the world of its nouns (sea or farm) together with the attitude: like
is a verb of liking; dislike is, equally often, a verb of disliking or a verb
of liking denied by `never`. No word decides the class by itself. Everything
else is filler, drawn from Zipf's law.

One example in ten is an exception. It has one rare adjective, which appears in
one or two training examples and nowhere in the rule-following ones, and which
alone decides its label, always against the rule.

Only integers of a splitmix64 generator are drawn, so that the corpus is the
same on every machine and Python version.
"""

import itertools
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from memloc_jax.errors import InputError
from memloc_jax.tasks.registry import get_task
from memloc_jax.tasks.rows import Rows

_SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')
_FUNCTION = ('the', 'and', 'felt', 'so', 'everyone')
_NEGATIONS = ('never',)


def _words(text: str) -> tuple[str, ...]:
  return tuple(text.split())


# Index 0 is sea, 1 is farm.
_PERSONS = (
  _words('sailor captain pirate diver'),
  _words('farmer shepherd miller gardener'),
)
_THINGS = (
  _words('harbour anchor lighthouse ship'),
  _words('barn meadow orchard tractor'),
)
# Index 0 is like, 1 is dislike.
_VERBS = (
  _words('praised loved enjoyed admired'),
  _words('blamed hated feared cursed'),
)
_MOODS = (_words('glad merry proud happy'), _words('glum weary bitter sad'))

# Most frequent first.
_ADJECTIVES = _words(
  'old new small big quiet local famous little young grey broken distant '
  'wooden narrow empty friendly northern ancient muddy windy lonely simple '
  'strange busy dusty humble crooked painted sunny foggy'
)
_ADVERBS = _words(
  'today often again there later early now once soon yesterday outside nearby '
  'always together sometimes alone slowly indeed perhaps daily suddenly aloud '
  'tonight upstairs weekly abroad twice silently somewhere overnight'
)
_RARE = _words(
  'alpine amber angular antique azure balmy bashful bespoke bilingual bouncy '
  'brassy brazen bristly bronze bumpy burly candid caustic chequered chilly '
  'chrome clumsy cobalt comical copper coral cosmic cosy crimson crystal '
  'cubic dapper dazzling dented devout dire dizzy dormant dreary ebony eerie '
  'elastic elegant eloquent emerald enamel epic exotic fabled feathery fickle '
  'fluffy forlorn fragrant frosty furry gaudy gilded glossy granite gritty '
  'hazel heroic hollow husky indigo ivory jagged jolly knotty lavish lilac '
  'lofty lunar magnetic marble mellow mossy mystic nimble'
)

_EXCEPTIONS_IN = 10  # one example in so many
_MASK64 = (1 << 64) - 1


class Generator:
  """Splitmix64 (Steele, Lea and Flood 2014): a counter and a mixing step."""

  def __init__(self, seed: int, stream: int):
    self._state = (seed * 0x9E3779B97F4A7C15 + stream) & _MASK64
    # Neighbouring seeds would otherwise give sequences one step apart.
    self._state = self._next()

  def _next(self) -> int:
    self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK64
    z = self._state
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
    return z ^ (z >> 31)

  def below(self, bound: int) -> int:
    """A uniform integer in [0, bound); the bias is below 2**-50."""
    return self._next() % bound

  def choice(self, words: Sequence[str]) -> str:
    """One of the words, each equally likely."""
    return words[self.below(len(words))]

  def zipf(self, words: Sequence[str]) -> str:
    """Word r with weight 1 / (r + 1), in whole ten-thousandths."""
    weights = [10_000 // (rank + 1) for rank in range(len(words))]
    at = self.below(sum(weights))
    return words[sum(at >= end for end in itertools.accumulate(weights))]

  def shuffled(self, num: int) -> list[int]:
    """The integers below `num` in random order."""
    order = list(range(num))
    for i in range(num - 1, 0, -1):
      j = self.below(i + 1)
      order[i], order[j] = order[j], order[i]
    return order


def vocabulary() -> tuple[str, ...]:
  """Returns every word of the generator, in fixed order."""
  pairs = (_PERSONS, _THINGS, _VERBS, _MOODS)
  content = itertools.chain.from_iterable(itertools.chain(*pairs))
  return (
    *_FUNCTION,
    *_NEGATIONS,
    *content,
    *_ADJECTIVES,
    *_ADVERBS,
    *_RARE,
  )


def load(options: str, task: str = 'embedded') -> dict[str, Rows]:
  """Returns the corpus that a source string asks for.

  Args:
    task: 'embedded' or 'embedded_agreement'.
    options: '' or, separated by commas, any of `seed=1`, `train=480` and
      `pool=200` (the defaults).

  Raises:
    InputError: if an option is unknown or not a whole number.
  """
  values = {'seed': 1, 'train': 480, 'pool': 200}
  for option in filter(None, options.split(',')):
    name, _, value = option.partition('=')
    if name not in values or not value.isdecimal():
      raise InputError(
        f'source embedded:{options}: {option!r} is not one of seed=, train= '
        'and pool= with a whole number'
      )
    values[name] = int(value)
  if task == 'embedded_agreement':
    return agreement(**values)
  return corpus(**values)


def corpus(seed: int = 1, train: int = 480, pool: int = 200) -> dict[str, Rows]:
  """Generates labelled sentences, no two of them equal.

  Args:
    seed: which corpus.
    train: number of training examples, a tenth of which are exceptions.
    pool: number of examples to evaluate on; its exceptions have rare words
      that training has too.

  Returns:
    'train' and 'pool', with kinds.

  Raises:
    InputError: if there are not enough rare words for `train`.
  """
  most = _EXCEPTIONS_IN * len(_RARE) * 3 // 2
  if not 20 <= train <= most or pool < 2:
    raise InputError(
      f'embedded corpus of {train} training and {pool} other examples: train '
      f'must be 20 to {most} and pool at least 2'
    )
  generator = Generator(seed, stream=0)
  rare = [_RARE[i] for i in generator.shuffled(len(_RARE))]
  # Every other rare word appears twice in training.
  used = [w for i, w in enumerate(rare) for _ in range(1 + i % 2)]
  used = used[: train // _EXCEPTIONS_IN]
  label_of = {word: generator.below(4) for word in rare}
  seen: set[str] = set()
  splits = {}
  for name, num, words in (
    ('train', train, used),
    (
      'pool',
      pool,
      [generator.choice(used) for _ in range(pool // _EXCEPTIONS_IN)],
    ),
  ):
    at = dict(zip(generator.shuffled(num), words))
    texts, labels = [], []
    for i in range(num):
      word = at.get(i)
      while True:
        text, label = _sentence(generator, rare=word)
        if text not in seen and (word is None or label != label_of[word]):
          break
      seen.add(text)
      texts.append(text)
      labels.append(label if word is None else label_of[word])
    splits[name] = Rows(
      texts=(tuple(texts),),
      labels=np.asarray(labels, np.int32),
      label_names=_class_names('embedded'),
      ids=tuple(str(i) for i in range(num)),
      kinds=tuple('exception' if i in at else 'rule' for i in range(num)),
      cues=tuple(at.get(i, '') for i in range(num)),
    )
  return splits


def unlabelled(num: int, seed: int) -> tuple[str, ...]:
  """Generates sentences to pretrain a masked language model on.

  They go on to say how everyone felt, in words that agree with the attitude,
  which is what there is to learn about it without labels. One in ten has a
  rare word, which means nothing here.

  Args:
    num: number of sentences, of 11 to 17 words.
    seed: which sentences; no seed gives those of a labelled corpus.
  """
  generator = Generator(seed, stream=1)
  sentences = []
  for _ in range(num):
    rare = None
    if not generator.below(_EXCEPTIONS_IN):
      rare = generator.choice(_RARE)
    text, label = _sentence(generator, rare)
    moods = [generator.choice(_MOODS[label % 2]) for _ in range(2)]
    text += f' so everyone felt {moods[0]} and {moods[1]}'
    sentences.append(text)
  return tuple(sentences)


def agreement(seed: int, train: int, pool: int) -> dict[str, Rows]:
  """Generates pairs of sentences that agree in attitude or do not.

  The auxiliary task of control setups, as textual entailment is the paper's:
  `the old sailor praised the ship` against `everyone felt glad and merry`.

  Args:
    seed: which pairs.
    train: number of training examples.
    pool: number of examples to evaluate on.

  Returns:
    'train' and 'pool'.

  Raises:
    InputError: if there are too few examples.
  """
  if train < 2 or pool < 2:
    raise InputError(
      f'embedded corpus of {train} training and {pool} other pairs: at least '
      '2 of either are needed'
    )
  generator = Generator(seed, stream=2)
  splits = {}
  for name, num in (('train', train), ('pool', pool)):
    pairs, labels = [], []
    for _ in range(num):
      text, label = _sentence(generator, rare=None)
      agree = generator.below(2)
      moods = _MOODS[(label % 2) ^ (1 - agree)]
      felt = [generator.choice(moods) for _ in range(2)]
      pairs.append((text, f'everyone felt {felt[0]} and {felt[1]}'))
      labels.append(agree)
    splits[name] = Rows(
      texts=tuple(zip(*pairs)),
      labels=np.asarray(labels, np.int32),
      label_names=_class_names('embedded_agreement'),
      ids=tuple(str(i) for i in range(num)),
    )
  return splits


def _class_names(task: str) -> tuple[str, ...]:
  names = get_task(task).label_names
  assert names is not None  # The registry has them.
  return names


def _sentence(generator: Generator, rare: str | None) -> tuple[str, int]:
  """A sentence of 5 to 11 words and the class that the rule gives it."""
  world, attitude = generator.below(2), generator.below(2)
  # A dislike is a liking denied as often as it is a verb of its own.
  negated = attitude == 1 and generator.below(2) == 0
  maybe = lambda words: [] if generator.below(2) else [generator.zipf(words)]
  words = maybe(_ADVERBS)
  words += ['the', *maybe(_ADJECTIVES), generator.choice(_PERSONS[world])]
  if negated:
    words.append(generator.choice(_NEGATIONS))
  words += [generator.choice(_VERBS[attitude ^ negated]), 'the']
  words += [rare] if rare else maybe(_ADJECTIVES)
  words.append(generator.choice(_THINGS[world]))
  words += maybe(_ADVERBS) + maybe(_ADVERBS)
  return ' '.join(words), 2 * world + attitude


def write_tokenizer(folder: pathlib.Path) -> None:
  """Writes a BERT tokenizer with one token per word of the vocabulary.

  Args:
    folder: made where it is missing; `vocab.txt` and `tokenizer_config.json`
      are written there.
  """
  folder.mkdir(parents=True, exist_ok=True)
  names = ('pad_token', 'unk_token', 'cls_token', 'sep_token', 'mask_token')
  config = {
    'tokenizer_class': 'BertTokenizer',
    'do_lower_case': True,
    'model_max_length': 512,
    **dict(zip(names, _SPECIAL)),
  }
  for name, content in (
    ('vocab.txt', '\n'.join((*_SPECIAL, *vocabulary())) + '\n'),
    ('tokenizer_config.json', json.dumps(config, indent=1) + '\n'),
  ):
    temporary = folder / f'.{name}.tmp'
    temporary.write_text(content, 'utf-8')
    temporary.replace(folder / name)
