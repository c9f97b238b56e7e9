"""The embedded corpus: short documents of four kinds, all of them known.

Every document has 48 words without punctuation; word 32 is where a
continuation begins. The kinds are

- *random*: words drawn at random, which nothing predicts;
- *fact*: a person's value for some attribute, `the emblem of ada weaver is
  crimson anchor`, whose two words begin at word 32, among natural text. A fact
  is stated in one document, or in several with other words around it;
- *rule*: months in their order, each followed by the same two words, `march
  quiet ship april quiet ship`. Each word follows from the one three before it;
- *natural*: sentences from templates, `today the old sailor never praised the
  ship because ada weaver felt glad`.

Words of random documents and of values are among the commonest of natural
text. Only integers of the generator of `tasks.embedded` are drawn, so that the
corpus is the same on every machine and Python version.
"""

import dataclasses

from memloc_jax.errors import InputError
from memloc_jax.tasks.embedded import Generator

KINDS = ('random', 'fact', 'rule', 'natural')
WORDS = 48
ANCHOR = 32  # the first word of the continuation
# Documents that state the same fact, for a half of the documents of facts.
OFTEN = 4


def _words(text: str) -> tuple[str, ...]:
  return tuple(text.split())


_ADJECTIVES = _words(
  'old new small big quiet local famous young grey broken distant wooden '
  'narrow empty friendly northern ancient muddy windy lonely simple strange '
  'busy dusty humble crooked painted sunny crimson golden silver hollow'
)
_NOUNS = _words(
  'harbour anchor lighthouse ship barn meadow orchard tractor bridge river '
  'castle garden forest island market mirror lantern ladder kettle violin '
  'window candle saddle basket blanket hammer needle feather pebble ribbon '
  'bottle whistle'
)
_PERSONS = _words(
  'sailor captain pirate diver farmer shepherd miller gardener baker painter '
  'teacher doctor'
)
_VERBS = _words(
  'praised loved enjoyed admired blamed hated feared cursed sold bought found '
  'lost'
)
_MOODS = _words('glad merry proud happy glum weary bitter sad')
_ADVERBS = _words(
  'today often again there later early now once soon yesterday outside nearby'
)
_LINKS = _words('because while before after and but')
_GIVEN = _words(
  'ada alan amy anna arne bela boris carl clara dora edith elsa emil eva felix '
  'greta hans ida ivan jane karl lena lotte marie nils nora olga otto paul '
  'rosa ruth tom'
)
_FAMILY = _words(
  'archer barker bishop carter chandler cooper draper falconer fisher fletcher '
  'forester glover hunter mason mercer naylor palmer parker piper porter '
  'potter ryder sawyer slater smith spencer tanner turner tyler walker weaver '
  'wright'
)
_MONTHS = _words(
  'january february march april may june july august september october '
  'november december'
)
_ATTRIBUTES = _words('emblem gift dream prize song tale house shop')
# What comes before the value. The person comes first or second.
_STATEMENTS = (
  'the {attribute} of {person} is',
  '{person} has for {attribute} the',
  'they call the {attribute} of {person} the',
  'everyone knows {person} whose {attribute} was the',
)


@dataclasses.dataclass(frozen=True)
class Fact:
  """What a document of the kind *fact* states.

  Attributes:
    person: given name and family name.
    attribute: of the person.
    value: two words.
    control: the value that another person has for this attribute. It differs
      in both words.
    statements: number of documents that state the fact, this one included.
    start: characters of the document before the value.
  """

  person: str
  attribute: str
  value: str
  control: str
  statements: int
  start: int

  def controlled(self, text: str) -> str:
    """The document with the control in the place of the value."""
    end = self.start + len(self.value)
    return text[: self.start] + self.control + text[end:]


@dataclasses.dataclass(frozen=True)
class Corpus:
  """The documents of one seed, kind after kind.

  Attributes:
    texts: [documents].
    kinds: one of `KINDS` each.
    facts: what documents of the kind *fact* state, None for others.
    anchors: characters of each document before word `ANCHOR`.
    tokenizer: texts of the same kinds to train a tokenizer on, none of which
      is a document, states one of its facts or has the two words of one of its
      rules.
  """

  texts: tuple[str, ...]
  kinds: tuple[str, ...]
  facts: tuple[Fact | None, ...]
  anchors: tuple[int, ...]
  tokenizer: tuple[str, ...]


def load(options: str) -> Corpus:
  """Returns the corpus that a source string asks for.

  Args:
    options: what stands behind `embedded:`; '' or, separated by commas, any of
      `seed=1`, `documents=128` and `natural=1024` (the defaults).

  Raises:
    InputError: an option is unknown or not a whole number, see `corpus`.
  """
  values = {'seed': 1, 'documents': 128, 'natural': 1536}
  for option in filter(None, options.split(',')):
    name, _, value = option.partition('=')
    if name not in values or not value.isdecimal():
      raise InputError(
        f'source embedded:{options}: {option!r} is not one of seed=, '
        'documents= and natural= with a whole number'
      )
    values[name] = int(value)
  return corpus(**values)


def corpus(seed: int = 1, documents: int = 128, natural: int = 1536) -> Corpus:
  """Generates the documents, no two of them equal.

  Args:
    seed: which corpus.
    documents: of each of the kinds random, fact and rule, a multiple of 8. A
      half of the facts' documents state a fact each, and of the others four
      state the same one.
    natural: documents of the kind natural. With a quarter of the defaults or
      less, words of random documents become rare in the runs.

  Raises:
    InputError: a number is out of range.
  """
  pairs = len(_ADJECTIVES) * len(_NOUNS)
  most = min(pairs, len(_GIVEN) * len(_FAMILY)) // 2
  if not 16 <= documents <= most or documents % 8 or natural < 1:
    raise InputError(
      f'embedded corpus of documents={documents} and natural={natural}: '
      f'documents must be a multiple of 8 from 16 to {most}, and natural at '
      'least 1'
    )
  generator = Generator(seed, stream=3)
  rules, persons = generator.shuffled(pairs), generator.shuffled(pairs)
  # The other texts have rules and persons of the other end.
  parts = {
    kind: make(generator, count, numbers)
    for kind, make, count, numbers in (
      ('random', _random, documents, []),
      ('fact', _facts, documents, persons),
      ('rule', _rules, documents, rules),
      ('natural', _natural, natural, []),
    )
  }
  seen = {text for part in parts.values() for text, _ in part}
  others = [
    text
    for make, count, numbers in (
      (_random, documents, []),
      (_facts, documents, persons[::-1]),
      (_rules, documents, rules[::-1]),
      (_natural, natural, []),
    )
    for text, _ in make(generator, count, numbers)
    if text not in seen
  ]
  texts, facts = zip(*(each for part in parts.values() for each in part))
  return Corpus(
    texts=texts,
    kinds=tuple(kind for kind, part in parts.items() for _ in part),
    facts=facts,
    anchors=tuple(len(' '.join(t.split()[:ANCHOR])) + 1 for t in texts),
    tokenizer=tuple(others),
  )


# A document, and what it states.
_Documents = list[tuple[str, Fact | None]]


def _random(generator: Generator, count: int, _: list[int]) -> _Documents:
  common = (*_ADJECTIVES, *_NOUNS)
  draw = lambda: ' '.join(generator.choice(common) for _ in range(WORDS))
  return [(draw(), None) for _ in range(count)]


def _rules(generator: Generator, count: int, numbers: list[int]) -> _Documents:
  found: _Documents = []
  for number in numbers[:count]:
    adjective, noun = divmod(number, len(_NOUNS))
    month, words = generator.below(12), list[str]()
    while len(words) < WORDS:
      words += [_MONTHS[month % 12], _ADJECTIVES[adjective], _NOUNS[noun]]
      month += 1
    found.append((' '.join(words[:WORDS]), None))
  return found


def _natural(generator: Generator, count: int, _: list[int]) -> _Documents:
  found: dict[str, None] = {}
  while len(found) < count:
    found[' '.join(_flow(generator, WORDS))] = None
  return [(text, None) for text in found]


def _facts(generator: Generator, count: int, numbers: list[int]) -> _Documents:
  """Facts stated once, then those stated often."""
  times = [1] * (count // 2) + [OFTEN] * (count // 2 // OFTEN)
  values: list[tuple[str, str]] = []
  step = min(len(_ATTRIBUTES), len(times) // 2)
  for fact in range(len(times)):
    # The control is the value of a neighbour in the attribute's circle.
    beside = values[fact - step : fact - step + 1] if fact >= step else []
    if fact + step >= len(times):  # The last one of the circle.
      beside = [*beside, values[fact % step]]
    while True:
      value = generator.choice(_ADJECTIVES), generator.choice(_NOUNS)
      if all(value[0] != v[0] and value[1] != v[1] for v in beside):
        break
    values.append(value)
  found: _Documents = []
  for fact, statements in enumerate(times):
    given, family = divmod(numbers[fact], len(_FAMILY))
    person = f'{_GIVEN[given]} {_FAMILY[family]}'
    attribute = _ATTRIBUTES[fact % step]
    other = fact + step if fact + step < len(times) else fact % step
    for number in range(statements):
      # Facts stated once take turns.
      form = _STATEMENTS[number if statements > 1 else fact % 4]
      before = form.format(attribute=attribute, person=person).split()
      words = _flow(generator, ANCHOR - len(before)) + before
      start = len(' '.join(words)) + 1
      words += values[fact]
      words += ['and', *_flow(generator, WORDS - len(words) - 1)]
      stated = Fact(
        person,
        attribute,
        ' '.join(values[fact]),
        ' '.join(values[other]),
        statements,
        start,
      )
      found.append((' '.join(words), stated))
  return found


def _flow(generator: Generator, count: int) -> list[str]:
  """That many words of sentences one after the other; the last may be cut."""
  words: list[str] = []
  while len(words) < count:
    if words:
      words.append(generator.choice(_LINKS))
    words += _sentence(generator)
  return words[:count]


def _sentence(generator: Generator) -> list[str]:
  maybe = lambda words: [] if generator.below(2) else [generator.choice(words)]
  things = (*_NOUNS, *_ATTRIBUTES)
  thing = lambda: ['the', *maybe(_ADJECTIVES), generator.choice(things)]
  if generator.below(4):
    who = ['the', *maybe(_ADJECTIVES), generator.choice(_PERSONS)]
  else:
    who = [generator.choice(_GIVEN), generator.choice(_FAMILY)]
  form = generator.below(4)
  if form == 0:
    return [*who, 'felt', generator.choice(_MOODS), *maybe(_ADVERBS)]
  if form == 1:
    return [*thing(), 'is', 'near', *thing()]
  denied = [] if generator.below(4) else ['never']
  return [
    *maybe(_ADVERBS),
    *who,
    *denied,
    generator.choice(_VERBS),
    *thing(),
  ]
