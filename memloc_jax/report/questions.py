"""The questions of the page: one section each, with its answer first.

A question has an answer in a sentence, then the figures and tables that it is
read from; what only specialists look at is folded. Questions that the study
has nothing on are left out.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from memloc_jax.report import (
  caveats,
  conclusions,
  content,
  findings,
  gallery,
  sections,
)
from memloc_jax.report.content import Tables
from memloc_jax.schema import Section

# What the page shows of a figure: `source`, `caption` and `width` in pixels.
Image = Mapping[str, Any]
Images = Mapping[tuple[str, str], Sequence[Image]]


@dataclasses.dataclass(frozen=True)
class Folded:
  """A part of a question that opens on a click.

  Attributes:
    title: what is in it.
    lines: sentences.
    figures: see `Image`.
    tables: those that have rows.
  """

  title: str
  lines: Sequence[str] = ()
  figures: Sequence[Image] = ()
  tables: Sequence[Section] = ()

  @property
  def empty(self) -> bool:
    """Whether there is nothing in it."""
    return not (self.lines or self.figures or any(t.rows for t in self.tables))


@dataclasses.dataclass(frozen=True)
class Question:
  """One section of the page.

  Attributes:
    id: of its element, for links.
    short: its name in the bar of contents.
    title: its heading.
    answer: one sentence, or few.
    lines: more sentences.
    figures: see `Image`.
    tables: those that have rows.
    folded: parts that open on a click.
  """

  id: str
  short: str
  title: str
  answer: str = ''
  lines: Sequence[str] = ()
  figures: Sequence[Image] = ()
  tables: Sequence[Section] = ()
  folded: Sequence[Folded] = ()

  @property
  def empty(self) -> bool:
    """Whether there is nothing to show."""
    return not (
      self.lines
      or self.figures
      or any(table.rows for table in self.tables)
      or any(not part.empty for part in self.folded)
    )


def of_examples(
  tables: Tables, manifest: Mapping[str, Any], explored: bool
) -> Iterator[Question]:
  """Those that the page's list and map belong to.

  Args:
    tables: of the study.
    manifest: of the study.
    explored: whether there are a list and a map.
  """
  if not explored:
    return
  examples = tables['examples']
  if 'check' in manifest:
    yield Question(
      'labels',
      'Labels to check',
      'Which labels should be checked?',
      f'All {len(examples):,} rows are listed, the most doubtful label first.',
    )
    return
  yield Question(
    'labels',
    'Labels to check',
    'Which labels should be checked?',
    findings.to_check(tables),
  )
  yield Question(
    'examples',
    'Examples',
    'Which examples are memorised?',
    findings.concentration(tables),
    lines=(
      *caveats.flagged(manifest),
      *caveats.unfitted(examples),
      findings.reliability(tables),
    ),
    folded=_kept(
      Folded(
        'How many runs are enough?',
        (
          *content.forecast(tables['forecast']),
          *(f'{name}: {value}.' for name, value in content.fit(examples)),
          *(
            f'{name}: {value}.'
            for name, value in caveats.variance(tables['variance_summary'])
          ),
        ),
      )
    ),
  )


def others(
  tables: Tables,
  manifest: Mapping[str, Any],
  images: Images,
  own: Sequence[Section],
) -> list[Question]:
  """The questions below the map, in order; those without anything are left out.

  Args:
    tables: of the study.
    manifest: of the study.
    images: by their place, see `gallery`.
    own: sections that tables bring.
  """
  known = [
    _layers(tables, images),
    _words(tables, images),
    *(_of_section(section) for section in own),
    _more(tables, images),
  ]
  if not findings.nothing_planted(tables):
    known.insert(2, _control(tables, images))
    if len(tables['detection']):
      known.insert(0, _planted(tables, manifest))
  return [question for question in known if not question.empty]


def _planted(tables: Tables, manifest: Mapping[str, Any]) -> Question:
  kind = findings.kind_of_wrong(manifest)
  _, name = findings.detected(tables, kind)
  return Question(
    'planted',
    name.capitalize(),
    f'Are the {name} found?',
    findings.detection(tables, kind),
    tables=_kept_tables(sections.detection_in_short(tables)),
    folded=_kept(
      Folded(
        'All comparisons, with their baselines',
        tables=(sections.detection(tables),),
      )
    ),
  )


def _layers(tables: Tables, images: Images) -> Question:
  return Question(
    'layers',
    'Layers',
    'Which layers hold what is memorised?',
    findings.layers(tables),
    figures=images.get(gallery.LAYERS, ()),
    tables=_kept_tables(sections.mcog(tables)),
    folded=_kept(
      Folded(gallery.CENTRES[1], (), images.get(gallery.CENTRES, ())),
      Folded(
        gallery.WINDOWS[1],
        content.sanity(gallery.headline(tables['windows'])),
        images.get(gallery.WINDOWS, ()),
      ),
      Folded(gallery.INSIDE[1], (), images.get(gallery.INSIDE, ())),
      Folded(gallery.SINGLE[1], (), images.get(gallery.SINGLE, ())),
      Folded(
        gallery.AGREEMENT[1],
        conclusions.answers(tables, 'correlations', 'layer_agreement'),
        images.get(gallery.AGREEMENT, ()),
        (sections.layer_agreement(tables),),
      ),
    ),
  )


def _words(tables: Tables, images: Images) -> Question:
  answer = findings.words(tables)
  found = conclusions.answers(tables, 'injection word')
  return Question(
    'words',
    'Words',
    'Which words does memorisation depend on?',
    answer or ' '.join(found),
    lines=found if answer else (),
    figures=images.get(gallery.TEXTS, ()),
    tables=_kept_tables(sections.injection(tables, 'word')),
  )


def _control(tables: Tables, images: Images) -> Question:
  first, *more = conclusions.answers(tables, 'control_summary') or ['']
  default = sections.control(tables)
  every = sections.control(tables, every=True)
  return Question(
    'control',
    'Control',
    'Do techniques find planted memorisation?',
    first,
    lines=(*more, *conclusions.answers(tables, 'control_pairs')),
    figures=images.get(gallery.CONTROL, ()),
    tables=_kept_tables(default),
    folded=_kept(
      Folded(gallery.PLANTED[1], (), images.get(gallery.PLANTED, ())),
      Folded(
        'Shares in control models', tables=(sections.control_pairs(tables),)
      ),
      Folded(
        'All variants, and recall of all planted layers',
        conclusions.answers(tables, 'injection layers'),
        tables=(
          *([every] if len(every.rows) > len(default.rows) else []),
          sections.injection(tables, 'layers'),
        ),
      ),
    ),
  )


def _of_section(section: Section) -> Question:
  return Question(
    _id(section.title),
    section.title.rstrip('?'),
    section.title,
    section.answer,
    tables=_kept_tables(section),
  )


def _more(tables: Tables, images: Images) -> Question:
  attack = findings.privacy(tables)
  parts = _kept(
    Folded(gallery.DYNAMICS[1], (), images.get(gallery.DYNAMICS, ())),
    Folded(
      gallery.PRIVACY[1],
      (attack,) if attack else (),
      images.get(gallery.PRIVACY, ()),
      (sections.privacy(tables),),
    ),
    Folded('Length and rare n-grams', tables=(sections.covariates(tables),)),
    Folded(
      'Prediction from a single run', content.one_run(tables['single_run'])
    ),
  )
  names = [f'{part.title[0].lower()}{part.title[1:]}' for part in parts]
  return Question(
    'more',
    'More',
    'Further analyses',
    f'Folded, for specialists: {"; ".join(names)}.' if parts else '',
    folded=parts,
  )


def _kept(*parts: Folded) -> tuple[Folded, ...]:
  return tuple(part for part in parts if not part.empty)


def _kept_tables(*tables: Section) -> tuple[Section, ...]:
  return tuple(table for table in tables if table.rows)


def _id(title: str) -> str:
  """A title as the name of an element."""
  return ''.join(c if c.isalnum() else '-' for c in title.lower()).strip('-')
