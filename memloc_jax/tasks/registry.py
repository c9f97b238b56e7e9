"""The tasks: where each comes from, which columns it has, what is kept."""

import csv
import dataclasses
import itertools

from memloc_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Hub:
  """A data set on the Hugging Face hub.

  Script data sets no longer load, and the conversion branch exists for script
  and plain data sets alike, so every task reads `<config>/<split>/*.parquet`
  of that branch.
  """

  repo: str
  config: str = 'default'
  revision: str = 'refs/convert/parquet'


@dataclasses.dataclass(frozen=True)
class Task:
  """One classification task.

  Attributes:
    name: key in the registry.
    group: 'nlu', 'sentiment', 'hate' or 'topic', as in the paper's plots; or
      'own'.
    text_fields: columns that hold the text, in the order they are joined.
    label_field: column that holds the label, an integer or a name.
    label_names: class names in the order of their integers; None means the
      names seen in train, sorted.
    dropped_labels: names of labels whose rows are left out; their integers
      follow those of `label_names`.
    top_labels: where positive, labels are lists, and what stays are rows with
      exactly one label, one of that many most frequent ones of train, whose
      text is not empty and not a repetition within the split.
    pool: split that is halved into validation and test; None where the
      source has train only, a fifth of which then becomes the pool.
    binary: whether only the two most frequent classes of train are kept.
    hub: where the hub has it.
    tfds: name in TensorFlow Datasets, None where that has no such data set.
    own: whether it is a user's own data, see `own_task`.
    id_field: column that must identify every training row; '' takes `id` where
      there is such a column and nothing repeats in it.
    true_label_field: column that holds the right label of training rows where
      it is known, and nothing where it is not; '' for none.
    paraphrase_field: column that holds the first text of training rows in
      other words; '' for none.
  """

  name: str
  group: str
  text_fields: tuple[str, ...] = ('sentence',)
  label_field: str = 'label'
  label_names: tuple[str, ...] | None = None
  dropped_labels: tuple[str, ...] = ()
  top_labels: int = 0
  pool: str | None = 'validation'
  binary: bool = False
  hub: Hub | None = None
  tfds: str | None = None
  own: bool = False
  id_field: str = ''
  true_label_field: str = ''
  paraphrase_field: str = ''

  @property
  def columns(self) -> tuple[str, ...]:
    """Every name that a column of this task may have in a source."""
    fields = [*self.text_fields, self.label_field, self.id_field or 'id']
    fields += filter(None, [self.true_label_field, self.paraphrase_field])
    others = [] if self.own else [ALIASES.get(field, ()) for field in fields]
    return (*fields, *itertools.chain.from_iterable(others))


# Other names under which sources keep a column, tried in this order where the
# column itself is absent.
ALIASES = {
  'sentence': ('text', 'post'),
  'sentence1': ('premise', 'question'),
  'sentence2': ('hypothesis', 'passage'),
  'label': (
    'coarse_label',
    'label-coarse',
    'topics',
    'implicit_class',
    'answer',
  ),
}

_PAIR = ('sentence1', 'sentence2')
_FALSE_TRUE = ('False', 'True')

_TASKS = {
  task.name: task
  for task in (
    Task(
      'wic',
      'nlu',
      ('word', 'sentence1', 'sentence2'),
      label_names=_FALSE_TRUE,
      hub=Hub('aps/super_glue', 'wic'),
      tfds='super_glue/wic',
    ),
    Task(
      'rte',
      'nlu',
      _PAIR,
      label_names=('entailment', 'not_entailment'),
      hub=Hub('nyu-mll/glue', 'rte'),
      tfds='glue/rte',
    ),
    Task(
      'mrpc',
      'nlu',
      _PAIR,
      label_names=('not_equivalent', 'equivalent'),
      hub=Hub('nyu-mll/glue', 'mrpc'),
      tfds='glue/mrpc',
    ),
    Task(
      'cola',
      'nlu',
      label_names=('unacceptable', 'acceptable'),
      hub=Hub('nyu-mll/glue', 'cola'),
      tfds='glue/cola',
    ),
    Task(
      'boolq',
      'nlu',
      _PAIR,
      label_names=_FALSE_TRUE,
      hub=Hub('aps/super_glue', 'boolq'),
      tfds='super_glue/boolq',
    ),
    # The 6 920 sentences of the original split; GLUE's sst2 (and so TFDS's)
    # has 67 349 phrases.
    Task(
      'sst2',
      'sentiment',
      label_names=('negative', 'positive'),
      hub=Hub('yerevann/sst2'),
    ),
    Task(
      'sst5',
      'sentiment',
      label_names=(
        'very negative',
        'negative',
        'neutral',
        'positive',
        'very positive',
      ),
      hub=Hub('SetFit/sst5'),
    ),
    Task(
      'emotion',
      'sentiment',
      label_names=('sadness', 'joy', 'love', 'anger', 'fear', 'surprise'),
      hub=Hub('dair-ai/emotion', 'split'),
    ),
    Task(
      'implicithate',
      'hate',
      label_names=(
        'incitement',
        'inferiority',
        'irony',
        'other',
        'stereotypical',
        'threatening',
        'white_grievance',
      ),
      pool=None,
      hub=Hub('SALT-NLP/ImplicitHate'),
    ),
    Task(
      'stormfront',
      'hate',
      label_names=('noHate', 'hate'),
      dropped_labels=('idk/skip', 'relation'),
      pool=None,
      hub=Hub('odegiber/hate_speech18'),
    ),
    Task(
      'reuters',
      'topic',
      top_labels=8,
      pool='test',
      hub=Hub('ucirvine/reuters21578', 'ModApte'),
    ),
    Task(
      'trec',
      'topic',
      label_names=('ABBR', 'ENTY', 'DESC', 'HUM', 'LOC', 'NUM'),
      pool='test',
      hub=Hub('CogComp/trec'),
      tfds='trec',
    ),
    Task(
      'embedded',
      'topic',
      label_names=('sea_like', 'sea_dislike', 'farm_like', 'farm_dislike'),
    ),
    Task('embedded_agreement', 'nlu', label_names=('differ', 'agree')),
  )
}

# Name of the task whose columns the user names.
OWN = 'own'

_BINARISED = ('implicithate', 'sst5', 'emotion', 'reuters', 'trec')


def register_task(task: Task) -> None:
  """Adds a task, as from a config file.

  Args:
    task: of a name that is not taken.

  Raises:
    ValueError: the name is taken.
  """
  if task.name in (*task_names(), OWN):
    raise ValueError(f'There is already a task {task.name!r}.')
  _TASKS[task.name] = task


def task_names() -> tuple[str, ...]:
  """Returns every name that `get_task` knows."""
  return (*_TASKS, *(f'{name}v2' for name in _BINARISED))


def base_name(name: str) -> str:
  """The task whose data a task takes: 'trec' of 'trecv2', or itself."""
  base = name.removesuffix('v2')
  return base if base in _BINARISED else name


def get_task(name: str) -> Task:
  """Returns one of the study's tasks, a binarised `v2` variant or 'embedded'.

  Raises:
    InputError: if there is no such task.
  """
  if name in _TASKS:
    return _TASKS[name]
  base = base_name(name)
  if base != name:
    return dataclasses.replace(_TASKS[base], name=name, binary=True)
  raise InputError(
    f'unknown task {name!r}: choose one of {", ".join(task_names())}; or '
    f'{OWN!r}, for data of your own'
  )


def own_task(
  text: str,
  label: str,
  id: str | None = None,
  true_label: str | None = None,
  paraphrase: str | None = None,
) -> Task:
  """Describes a user's own data, whose classes are what its labels say.

  Columns have exactly these names. Where there is no validation or test split,
  nothing is held out: every row is to get its score.

  Args:
    text: the column that holds the text, or several with commas between them,
      in the order in which they are joined. A name with a comma in it is
      written in double quotes, as in csv.
    label: the column that holds the label.
    id: see `Task.id_field`.
    true_label: see `Task.true_label_field`.
    paraphrase: see `Task.paraphrase_field`.

  Raises:
    InputError: a column is not named, or named for two things.
  """
  try:
    [parts] = csv.reader([text], skipinitialspace=True, strict=True)
  except (csv.Error, ValueError):
    parts = ['']
  fields = tuple(part.strip() for part in parts)
  if not fields or not all(fields):
    raise InputError(
      f'--config.task.text={text!r}: name the column that holds the text, or '
      'several with commas between them; a name with a comma in it is written '
      'in double quotes'
    )
  if not label:
    raise InputError(
      f'--config.task.label={label!r}: name the column that holds the label'
    )
  named = [*fields, label, *filter(None, [true_label, paraphrase])]
  for column in named:
    if named.count(column) > 1:
      raise InputError(
        f'--config.task: the column {column!r} is named twice; text, label, '
        'true_label and paraphrase are columns of their own'
      )
  return Task(
    OWN,
    OWN,
    text_fields=fields,
    label_field=label,
    own=True,
    id_field=id or '',
    true_label_field=true_label or '',
    paraphrase_field=paraphrase or '',
  )
