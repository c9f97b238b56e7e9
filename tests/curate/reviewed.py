"""Texts and labels that spreadsheets and readers of csv trip over."""

TEXTS = (
  'the old sailor',
  '=1+1',
  '- a dash',
  '@name',
  'with, comma and "quotes"',
  'two\nlines',
  'zażółć 漢字',
  "'tis",
  '007 is no text',
  'the ship',
  'the barn',
  'the harbour',
)
LABELS = ('good', 'bad', 'so, so') * 4
CLASSES = ('bad', 'good', 'so, so')
