"""What the terms of the report mean, shown where a pointer rests on them."""

import re

import markupsafe

# Lower case, longest first where one is part of another. The same terms stand
# in tables, figures and sentences.
TERMS = {
  'counterfactual memorisation': 'Training memorisation minus generalisation: '
  'how much more probable the given label is to runs that trained on the '
  'example.',
  'training memorisation': 'Mean probability of the given label over the runs '
  'that trained on the example.',
  'generalisation': 'Mean probability of the given label over the runs that '
  'did not train on the example. Low means that the label is doubtful.',
  'layer-wise memorisation': 'How much of the memorisation of an example each '
  'layer brings, from pairs of runs.',
  'average precision': 'Mean, over the examples looked for, of the share of '
  'them among all that rank at least as high; 1 is best.',
  'auroc': 'Probability that an example looked for ranks above another one; '
  '0.5 is chance, 1 is best.',
  'auc': 'Area under the ROC curve: 0.5 is chance, 1 is best.',
  'accuracy@1': 'How often the heaviest layer is one of the planted ones.',
  'accuracy@2': 'Share of the two heaviest layers that are planted ones.',
  'm-cog': 'Memorisation centre of gravity: the mean layer, weighted by how '
  'much memorisation a technique sees in each.',
  'calibrated m-cog': 'M-CoG stretched so that its attainable range becomes 1 '
  'to the number of layers.',
  'attainable range': 'What M-CoG would be with all memorisation in the first '
  'or in the last layer.',
  'flat profile': 'The same weight in every layer: no preference.',
  'trivial baseline': 'A score or profile that anybody could make; a technique '
  'is of use only if it is better.',
  'verdict': 'Supported or contradicted: the interval excludes the reference. '
  'Otherwise it is equivalent within a margin, or cannot be told.',
  'flagged': 'Counterfactual memorisation, by accuracy, above 0.25, with at '
  'most 5 % of the flagged ones expected to be false.',
  'near-duplicates': 'Examples with nearly the same text.',
  'suggested label': 'Likeliest class to the runs that did not train on the '
  'example.',
  'given label': 'The label in the data, which runs were trained on.',
  'true label': 'The right label, where it is known.',
  'wrong labels': 'Labels that were made wrong on purpose, or are known to be '
  'wrong.',
  'planted': 'Made wrong on purpose, or put in a known place, so that it is '
  'known what is to be found.',
  'chance': 'What a guess would reach.',
  'spearman': 'Rank correlation, from -1 to 1; 0 is none.',
}
_ANY = re.compile(
  '|'.join(
    rf'(?<![\w-]){re.escape(term)}(?![\w-])'
    for term in sorted(TERMS, key=len, reverse=True)
  ),
  re.IGNORECASE,
)


class Explainer:
  """Puts tooltips on terms, and remembers which terms it has met."""

  def __init__(self) -> None:
    """Has met none."""
    self._met: set[str] = set()

  def __call__(self, text: str) -> markupsafe.Markup:
    """A text in which the first use of each term has its meaning as a tooltip.

    Args:
      text: plain; it is escaped.
    """
    here: set[str] = set()

    def mark(match: re.Match[str]) -> str:
      term = match.group().lower()
      if term in here:
        return match.group()
      here.add(term)
      meaning = markupsafe.escape(TERMS[term])
      return f'<abbr title="{meaning}">{match.group()}</abbr>'

    found = _ANY.sub(mark, str(markupsafe.escape(text)))
    self._met |= here
    return markupsafe.Markup(found)

  def met(self) -> list[tuple[str, str]]:
    """Terms that were met and their meanings, in the order of `TERMS`."""
    return [(term, TERMS[term]) for term in TERMS if term in self._met]
