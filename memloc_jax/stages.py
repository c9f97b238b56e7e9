"""Stages: one list of what a study does, in order, and never twice.

It lies above the package `study`, since the report is a stage, too.

A stage declares what it needs and reads; nothing else can be read, see `view`.
It is identified by that, and runs again when its identity is another one, see
`identity`.
"""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Collection
from typing import Any

import jax
import numpy as np

from memloc_jax import user_code
from memloc_jax.ensemble import compile, hosts, placement
from memloc_jax.errors import InputError, Preempted
from memloc_jax.localisation.all import TECHNIQUES
from memloc_jax.pairs import (
  agreement,
  injection,
  input_maps,
  layerwise,
  patching,
  units,
)
from memloc_jax.report import stage as reporting
from memloc_jax.schema import Table, TableError
from memloc_jax.sequences import extract
from memloc_jax.study import (
  actions,
  chosen,
  compilation_cache,
  control,
  covariates,
  decisions,
  dynamics,
  estimation,
  example_gradients,
  forecast,
  identity,
  localisation,
  main_models,
  outlook,
  pair_runs,
  planning,
  precision,
  tables,
  training,
  variance,
)
from memloc_jax.study.config import StudyConfig
from memloc_jax.study.context import Context
from memloc_jax.study.map_runs import CROSSED, MAP
from memloc_jax.study.progress import Progress
from memloc_jax.study.runs import STOPPED, Runs
from memloc_jax.study.view import Declared, View
from memloc_jax.study.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Stage:
  """One step of a study.

  Attributes:
    name: of the stage.
    run: does the work, given what it sees of the study.
    needs: stages that must be finished before, whose results it may read.
    settings: free settings, or groups of them, that it reads.
    runs: prefixes of the names of the tables of runs that it looks at; '' for
      all.
    tables: that it writes, declared beside the code that fills them.
    arrays: that it writes.
    files: other files that it writes.
    every_process: whether all processes take part; otherwise process 0 runs it
      alone.
    by_run: whether what it writes about a run depends on that run alone. Of
      this stage's runs, a stage that needs it then depends only on those that
      it declares itself.
    version: raised when a change of the code changes results.
    check: refuses, before any work, what `run` could not do.
  """

  name: str
  run: Callable[[View], None]
  needs: tuple[str, ...] = ()
  settings: tuple[str, ...] = ()
  runs: tuple[str, ...] = ()
  tables: tuple[Table, ...] = ()
  arrays: tuple[str, ...] = ()
  files: tuple[str, ...] = ()
  every_process: bool = False
  by_run: bool = False
  version: int = 1
  check: Callable[[Context], None] = lambda context: None

  @property
  def table_names(self) -> tuple[str, ...]:
    """Of the tables that it writes."""
    return tuple(table.name for table in self.tables)

  @property
  def outputs(self) -> frozenset[str]:
    """All that it writes, as named in the workdir."""
    found = [f'{name}.parquet' for name in self.table_names]
    found += [f'arrays/{name}.npy' for name in self.arrays]
    return frozenset([*found, *self.files])


_BEFORE = (
  Stage('data', training.data, check=training.check_sources),
  Stage(
    'train',
    training.train,
    needs=('data',),
    runs=('',),
    files=('versions.json',),
    every_process=True,
    by_run=True,
    check=training.check_given,
  ),
  Stage(
    'score',
    training.score,
    needs=('train',),
    runs=('',),
    tables=training.TABLES,
    arrays=(
      'membership',
      'logits',
      'validation_logits',
      'epochs',
      'epoch_logits',
    ),
    files=('arrays/hashes.json',),
    by_run=True,
  ),
  Stage(
    'gradient_norms',
    example_gradients.gradient_norms,
    needs=('score',),
    runs=(MAP,),
    tables=example_gradients.TABLES,
  ),
  Stage(
    'estimate',
    estimation.estimate,
    needs=('score',),
    runs=(MAP,),
    settings=(decisions.SETTING,),
    tables=estimation.TABLES,
    arrays=('pred_probs',),
    files=('triage.csv', '.triage.json'),
    check=decisions.check,
  ),
  Stage(
    'covariates',
    covariates.covariates,
    needs=('estimate',),
    tables=covariates.TABLES,
  ),
  Stage(
    'dynamics',
    dynamics.dynamics,
    needs=('score', 'estimate'),
    runs=(MAP,),
    tables=dynamics.TABLES,
    arrays=('dynamic_memorisation', 'dynamic_memorisation_se'),
  ),
  Stage(
    'variance',
    variance.variance,
    needs=('score',),
    runs=(CROSSED,),
    tables=variance.TABLES,
  ),
  Stage(
    'layerwise',
    layerwise.layerwise,
    needs=('score',),
    settings=('localise.layerwise',),
    runs=(pair_runs.MAP_PAIRS, pair_runs.CONTROL_PAIRS),
    tables=layerwise.TABLES,
  ),
  Stage(
    'input_maps',
    input_maps.input_maps,
    needs=('score', 'layerwise'),
    settings=('localise.inputs',),
    runs=(pair_runs.MAP_PAIRS,),
    tables=input_maps.TABLES,
  ),
  Stage(
    'patching',
    patching.patching,
    needs=('score', 'layerwise'),
    settings=('localise.patching',),
    runs=(pair_runs.MAP_PAIRS,),
    tables=patching.TABLES,
  ),
  Stage(
    'units',
    units.units,
    needs=('score', 'layerwise'),
    settings=('localise.units',),
    runs=(pair_runs.MAP_PAIRS,),
    tables=units.TABLES,
  ),
)
_AFTER = (
  Stage(
    'agreement',
    agreement.agreement,
    needs=('layerwise', 'localise'),
    tables=agreement.TABLES,
  ),
  Stage(
    'injection',
    injection.injection,
    needs=('score', 'localise', 'layerwise', 'input_maps'),
    settings=('localise.inputs.replace',),
    runs=(pair_runs.CONTROL_PAIRS,),
    tables=injection.TABLES,
  ),
)


def stages_of(config: StudyConfig) -> dict[str, Stage]:
  """The stages of a study by name, in the order in which they run.

  Args:
    config: the study; its techniques, those that users have registered among
      them, are a stage each.
  """
  techniques = [
    _of_technique(name)
    for name in TECHNIQUES
    if name in (config.localise.techniques or TECHNIQUES)
  ]
  localise = Stage(
    'localise',
    localisation.localise,
    needs=tuple(each.name for each in techniques),
    settings=('localise.techniques',),
    tables=localisation.all_tables(),
    check=chosen.check,
  )
  before = (*_BEFORE, *techniques, localise, *_AFTER)
  report = Stage(
    'report',
    write_report,
    needs=tuple(each.name for each in before),
    settings=identity.FREE,
    runs=('',),
    files=('report.html',),
  )
  return {each.name: each for each in (*before, report)}


def known_tables() -> dict[str, Table]:
  """All tables by name, in the order in which stages write them.

  Raises:
    TableError: two have one name.
  """
  found: dict[str, Table] = {}
  for each in stages_of(StudyConfig()).values():
    for table in each.tables:
      if table.name in found:
        raise TableError(f'There are two tables {table.name}.')
      found[table.name] = table
  of_commands = (*tables.OF_COMMANDS, extract.TABLE)
  return found | {table.name: table for table in of_commands}


def write_report(study: View) -> None:
  """Stage `report`: the page, with the sections that tables bring."""
  reporting.report(study, [*known_tables().values()])


def rewrite_report(workdir: str | pathlib.Path) -> pathlib.Path:
  """Rewrites the report of a workdir from its tables, and returns its path."""
  reporting.write(Workdir(workdir), [*known_tables().values()])
  return Workdir(workdir).path / 'report.html'


def _of_technique(name: str) -> Stage:
  technique = TECHNIQUES[name]
  return Stage(
    name,
    functools.partial(localisation.run, name=name),
    needs=('score',),
    settings=technique.all_settings,
    runs=(main_models.MAIN, control.CONTROL),
    files=(f'parts/{name}',),
    every_process=technique.trains,
    check=functools.partial(localisation.check, name=name),
  )


def run_study(
  config: StudyConfig,
  workdir: str | pathlib.Path,
  progress: Progress | None = None,
  asked_to_stop: Callable[[], bool] = lambda: False,
  profile: bool = False,
  stages: Collection[str] = (),
  programs: dict[Any, Any] | None = None,
  ahead: int = 0,
) -> pathlib.Path:
  """Runs every stage that is not finished in the workdir.

  Where there are several processes, all call this with the same study.

  Args:
    config: the study; what `extend` added in the workdir is added here.
    workdir: its folder; made if it is not there.
    progress: where to report; standard error by default.
    asked_to_stop: polled; the study then saves and stops.
    profile: whether to trace some early training steps into `profile/`.
    stages: names of those to run, with all that they need; empty for all.
    programs: compiled ones that studies of one process share; filled here.
    ahead: map runs that calls to come are expected to add, which count in the
      time that is left.

  Returns:
    The workdir.

  Raises:
    InputError: the configuration, the data, the checkpoint or the workdir is
      at fault. What was finished before stays.
    Preempted: it was asked to stop, and has saved.
    PeerError: another process has died.
  """
  placement.divide_cpu()
  folder = Workdir(workdir)
  progress = progress or Progress()
  with contextlib.ExitStack() as stack:
    stack.enter_context(folder.in_use())
    config = precision.settled(folder.continued(config), progress)
    stack.enter_context(
      jax.default_matmul_precision(config.engine.matmul_precision)
    )
    stack.enter_context(compilation_cache.on_disk(config.engine.cache))
    context = Context(config, folder, progress)
    study = Runs(context, asked_to_stop, profile, programs)
    began = time.time()
    # All input is read and checked before the folder is touched.
    with context.progress.stage('check'), hosts.first_before_others():
      check(study)
      order = _needed(stages_of(config), stages)
    folder.claim(config)
    identities = identities_of(study)
    unfinished = [e for e in order if not _finished(study, e, identities)]
    if unfinished:
      # What they wrote is no longer right, nor what was made of it: also
      # if this is the last thing that the process does.
      stale = {each.name for each in unfinished}
      for name, each in stages_of(config).items():
        if name in stale or (
          stale & set(each.needs) and not _finished(study, each, identities)
        ):
          stale.add(name)
          folder.remove(f'stages/{name}.json')
      _record_cost(context, 'check', began)
    names = [each.name for each in unfinished]
    context.progress.expect(_left(study, names, ahead))
    stopped = None
    for at in [*order, None]:
      is_due = at in unfinished
      _stop_together(study, is_due, stopped)
      if at is not None and hosts.of_first(np.array(is_due)):
        try:
          _run(study, at, identities[at.name])
        except Preempted as error:
          if at.every_process:
            raise  # As all of them do.
          stopped = error  # The others wait, and have to be told.
    context.progress.expect(None)
    folder.remove('extending.json')
    hosts.barrier()
  return folder.path


def _left(
  study: Runs, unfinished: Collection[str], ahead: int = 0
) -> forecast.Work:
  """What is left to do of the stages that are not finished."""
  known = stages_of(study.context.config)
  localise = study.context.config.localise
  looked_at = {
    'input_maps': localise.inputs.examples,
    'patching': localise.patching.examples,
    'units': localise.units.examples,
  }
  due = [name for name in unfinished if looked_at.get(name, 1)]
  reads = {name: known[name].runs for name in due}
  return outlook.work(study, due, reads, ahead)


def outlook_of(
  config: StudyConfig,
  workdir: str | pathlib.Path,
  progress: Progress | None = None,
  programs: dict[Any, Any] | None = None,
) -> outlook.Outlook:
  """What the study will take, within seconds; nothing is written.

  Args:
    config: the study.
    workdir: its folder, which need not be there.
    progress: where to say what is being done, by default on standard error.
    programs: compiled ones that studies of one process share; filled here.

  Raises:
    InputError: as by `plan_study`.
  """
  with actions.opened(config, workdir, progress, programs) as study:
    study.context.workdir.refuse_others(study.context.config)
    with study.context.progress.stage('measuring', told=False):
      return outlook.quick(
        study, check_input, lambda outline: _left(outline, due(outline))
      )


def plan_study(
  config: StudyConfig,
  workdir: str | pathlib.Path,
  progress: Progress | None = None,
  programs: dict[Any, Any] | None = None,
) -> planning.Plan:
  """What the study will need; nothing is written.

  What does not fit into memory is said there too. If all does, and the weights
  are there, a few steps of every table are trained, to see how long they take.

  Args:
    config: the study.
    workdir: its folder, which need not be there.
    progress: where to say what is being done, by default on standard error.
    programs: compiled ones that studies of one process share; filled here.

  Returns:
    The plan, with its text.

  Raises:
    InputError: the study could not run, other than for lack of memory or disk,
      or of weights that are not there yet.
  """
  with actions.opened(config, workdir, progress, programs) as study:
    study.context.workdir.refuse_others(study.context.config)
    return planning.plan(study, check_input, due)


def validate_study(
  config: StudyConfig,
  workdir: str | pathlib.Path,
  progress: Progress | None = None,
) -> str:
  """Checks all that a run does before it compiles; nothing is written.

  Args:
    config: the study.
    workdir: its folder, which need not be there.
    progress: where to report, by default warnings alone.

  Returns:
    What was found, on one line.

  Raises:
    InputError: the study could not run.
  """
  progress = progress or Progress(quiet=True)
  with actions.opened(config, workdir, progress) as study:
    folder = study.context.workdir
    folder.refuse_others(study.context.config)
    check(study)
    return f'{folder.path} can run: {planning.found(study)}.'


def _stop_together(study: Runs, due: bool, stopped: Preempted | None) -> None:
  """Between two stages: all processes stop if one of them was asked to.

  Args:
    study: the study.
    due: whether there is something left to do, in process 0.
    stopped: the stage that this process did alone, if it was stopped in it.

  Raises:
    Preempted: one was asked to.
  """
  [is_due, *_], asked, was_stopped = hosts.gather(
    # A finished stage takes no time, so that nothing is to be stopped there.
    np.array([due, due and study.asked_to_stop(), stopped is not None])
  ).T
  if was_stopped.any() or (is_due and asked.any()):
    raise stopped or Preempted(STOPPED)


def check(study: Runs) -> None:
  """Refuses, before any work, what a study could not do.

  Raises:
    InputError: saying what.
  """
  check_input(study)
  for table in study.tables.values():
    compile.check(study.engine, table)
  planning.check_disk(study)


def check_input(study: Runs) -> None:
  """Refuses settings, data and models that a study cannot be made of.

  Memory and disk are left out, of which a plan says what they lack.

  Args:
    study: the study, of which the checkpoint's shapes will do.

  Raises:
    InputError: saying what.
  """
  # Before tables, whose size follows from what `config.json` says of layers.
  context = study.context
  _ = context.data
  context.check_weights()
  if not study.tables:
    raise InputError(
      '--config.map.num_runs=0: the study has no runs; set it, '
      '--config.train.seeds or --config.control.seeds.'
    )
  for each in stages_of(context.config).values():
    each.check(context)


def _needed(known: dict[str, Stage], names: Collection[str]) -> list[Stage]:
  """Some stages and all that they need, in order; all if none are named.

  Raises:
    InputError: there is no such stage.
  """
  unknown = [name for name in names if name not in known]
  if unknown:
    raise InputError(
      f'--stages: there is no stage {unknown[0]!r}; there are '
      f'{", ".join(known)}.'
    )
  wanted: set[str] = set()
  due = list(names or known)
  while due:
    name = due.pop()
    if name not in wanted:
      wanted.add(name)
      due += known[name].needs
  return [each for each in known.values() if each.name in wanted]


def identities_of(study: Runs) -> dict[str, str]:
  """What identifies each stage of a study: all that its results depend on.

  Two studies in which a stage has the same identity give it the same results.
  Settings that are not free are in the identity of every stage, by way of the
  stage `data`.

  Args:
    study: the study.

  Returns:
    A hash for each stage, by name.
  """
  context = study.context
  values = dict(identity.settings(identity.of(context.config)))
  fixed = {
    name: value
    for name, value in values.items()
    if not (identity.is_layout(name) or identity.is_free(name))
    and name != identity.ADDED  # Whose runs are named by their hashes.
  }
  common = identity.digest(
    schema=identity.SCHEMA,
    settings=fixed,
    data=context.data.fingerprint,
    model=context.model_fingerprint,
  )
  found: dict[str, str] = {}
  passed_on: dict[str, str] = {}
  known = known_tables()
  for name, each in stages_of(context.config).items():
    without_runs = {
      'common': common,
      'stage': name,
      'version': each.version,
      'columns': {
        table: list(known[table].kinds) for table in each.table_names
      },
      'outputs': sorted(each.outputs),
      'settings': {
        setting: value
        for setting, value in values.items()
        if identity.is_free(setting) and identity.covers(each.settings, setting)
      },
      'chosen': chosen.fingerprint(context.config.localise, each.settings)
      | decisions.fingerprint(context.config.task.decisions, each.settings),
      'code': user_code.fingerprint(TECHNIQUES[name].run)
      if name in TECHNIQUES
      else None,
      'needs': {need: passed_on[need] for need in each.needs},
    }
    found[name] = identity.digest(**without_runs, runs=_runs(study, each))
    passed_on[name] = (
      identity.digest(**without_runs) if each.by_run else found[name]
    )
  return found


def _runs(study: Runs, each: Stage) -> dict[str, list[str]]:
  """Hashes of the runs that a stage looks at, by table."""
  return {
    name: [
      hash
      for row, hash in enumerate(study.hashes[name])
      if row not in table.skipped
    ]
    for name, table in study.tables.items()
    if each.runs and name.startswith(each.runs)
  }


def due(study: Runs) -> list[str]:
  """Names of the stages that are not finished."""
  identities, known = identities_of(study), stages_of(study.context.config)
  return [
    k for k, each in known.items() if not _finished(study, each, identities)
  ]


def _finished(study: Runs, each: Stage, identities: dict[str, str]) -> bool:
  workdir = study.context.workdir
  mark = workdir.read_json(f'stages/{each.name}.json')
  if mark is None or mark.get('identity') != identities[each.name]:
    return False
  return all(map(workdir.has, mark['wrote']))


def declared(study: Runs, name: str) -> Declared:
  """What a stage of a study may read and write."""
  known = stages_of(study.context.config)
  each = known[name]
  return Declared(
    stage=name,
    settings=each.settings,
    runs=each.runs,
    reads=frozenset().union(*(known[need].outputs for need in each.needs)),
    writes=each.outputs,
    tables=known_tables(),
  )


def _run(study: Runs, each: Stage, its_identity: str) -> None:
  if not (each.every_process or hosts.is_first()):
    return
  began = time.time()
  view = View(study, declared(study, each.name))
  try:
    with study.context.progress.stage(each.name):
      each.run(view)
  finally:
    _record_cost(study.context, each.name, began)
  workdir = study.context.workdir
  # What it wrote before and not now, of techniques or models that are gone.
  wrote = {n for n in view.workdir.written if workdir.has(n)}
  for name in each.outputs - wrote:
    workdir.remove(name)
  mark = {
    'stage': each.name,
    'finished': time.time(),
    'identity': its_identity,
    'wrote': sorted(wrote),
  }
  workdir.write_json(f'stages/{each.name}.json', mark)


def _record_cost(context: Context, name: str, began: float) -> None:
  """Adds what a stage took to what it took in earlier starts."""
  manifest = context.workdir.read_json('manifest.json') or {}
  before = manifest.get('cost', {}).get(name, {}).get('seconds', 0.0)
  seconds = round(before + time.time() - began, 2)
  context.note({'cost': {name: {'seconds': seconds}}})


if __name__ == '__main__':
  path = pathlib.Path(__file__).parents[1] / 'docs/tables.md'
  path.write_text(
    tables.page(path.read_text('utf-8'), known_tables().values()), 'utf-8'
  )
