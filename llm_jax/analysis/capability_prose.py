"""The sentences of a comparison over tasks, written from the numbers so that none says more."""

from collections.abc import Sequence

from llm_jax.analysis import statistics
from llm_jax.analysis.capabilities import Capabilities
from llm_jax.analysis.prose import NAMED
from llm_jax.analysis.results import FRACTIONS, Results
from llm_jax.analysis.words import METRICS, counted, large, listed, plain, plural, sentence

_CLAUSES = 5  # as many things are said of tasks in the finding


def finding(found: Capabilities) -> tuple[str, str]:
  """Two sentences: who can do what; what holds over all tasks and what cannot be told apart."""
  missing = _missing(found)
  if not any(study.ranked for study in found.studies.values()):
    return "No architecture has finished a task, so there is nothing to compare.", f"{missing}."
  clauses = _clauses(found)
  texts = [text for _, _, text in clauses]
  if len(clauses) > _CLAUSES:
    rest = sum(tasks for _, tasks, _ in clauses[_CLAUSES - 1 :])
    texts[_CLAUSES - 1 :] = [f"the table tells of {plural(rest, 'more task')}"]
  second = "; ".join(part for part in (*_overall(found), _open(found), missing) if part)
  return f"{_setting(found)} {'; '.join(texts)}.", f"{sentence(second)}."


def score(value: float, metric: str) -> str:
  """A score with as many digits as are believed."""
  return f"{value:.2f}" if metric in FRACTIONS else f"{value:.3f}"


def _setting(found: Capabilities) -> str:
  compare = found.about.get("config", {}).get("compare", {})
  target = compare.get(compare.get("match") or "") or 0
  words = {
    "parameters": f"about {large(target)} parameters",
    "flops_per_token": f"about {large(target)} training FLOPs a token",
    "state_bytes": f"about {plain(target)} bytes of state",
    "seconds": f"{plain(target)} seconds of training each",
  }
  return f"At {words[compare['match']]}," if target else "Here,"


def _clauses(found: Capabilities) -> list[tuple[int, int, str]]:
  """(place, how many tasks, what is said of them); those of which the same holds are one."""
  solved: dict[tuple, list[str]] = {}
  level, made = [], []
  for name, study in found.studies.items():
    solvers = frozenset(a.name for a in study.ranked if _solves(study, a.name))
    if solvers:
      solved.setdefault((solvers, frozenset(a.name for a in study.ranked)), []).append(name)
    elif study.statistics.best_group:
      made.append((1, 1, _led(found, name)))
    elif len(study.ranked) == 1:
      made.append((3, 1, f"on {found.titles[name]} {study.ranked[0].title} alone has finished"))
    elif study.ranked:
      level.append(name)
  made += [_solved(found, tasks) for tasks in solved.values()]
  if level:
    made.append((3, len(level), _undecided(found, level)))
  made.sort(key=lambda clause: clause[0])
  first = next((i for i, (_, _, text) in enumerate(made) if " solve" in text), None)
  if solved and first is not None:
    seeds = "under every seed" if len(found.seeds) > 1 else "with the one seed there is"
    place, tasks, text = made[first]
    made[first] = place, tasks, f"{text} (at least {statistics.SOLVED:g} {seeds})"
  return made


def _solves(study: Results, name: str) -> bool:
  return study.statistics.summaries[name].solved == len(study.seeds)


def _solved(found: Capabilities, tasks: Sequence[str]) -> tuple[int, int, str]:
  """The clause of tasks that the same architectures solve."""
  study = found.studies[tasks[0]]
  which = listed([found.titles[task] for task in tasks])
  names = study.statistics.summaries
  titles = {name: title for name, title in found.architectures.items() if name in names}
  solvers = [name for name in titles if _solves(study, name)]
  others = [name for name in titles if name not in solvers]
  finished = "" if not study.unranked else " that finished"
  if not others:
    many = f"all {counted(len(solvers))}{finished} solve" if len(solvers) > 1 else ""
    return 2, len(tasks), f"{many or f'{titles[solvers[0]]} solves'} {which}"
  if len(others) <= NAMED < len(solvers):
    return (
      0,
      len(tasks),
      f"all{finished} but {listed([titles[name] for name in others])} solve {which}",
    )
  if len(solvers) > NAMED + 1:
    return (
      0,
      len(tasks),
      f"{counted(len(solvers))} of the {counted(len(titles))}{finished} solve {which}",
    )
  alone = all(
    found.studies[task].statistics.apart(a, b) for task in tasks for a in solvers for b in others
  )
  verb = "solves" if len(solvers) == 1 else "solve"
  names = listed([titles[name] for name in solvers])
  return 0, len(tasks), f"{names}{' alone' if alone else ''} {verb} {which}"


def _led(found: Capabilities, task: str) -> str:
  """Of a task that none solves, or that has no solution, where some are behind the best."""
  study = found.studies[task]
  none = f", which none{' that finished' if study.unranked else ''} solves,"
  where = f"on {found.titles[task]}{none if study.metric in FRACTIONS else ''}"
  best, *level = study.statistics.best_group
  mean = score(study.statistics.summaries[best].mean, study.metric)
  told = f"{where} {study.architectures[best].title} ({mean})"
  if not level:
    return f"{told} is ahead of all others"
  titles = [study.architectures[name].title for name in level]
  names = listed(titles) if len(titles) <= NAMED else f"{counted(len(titles))} others"
  return f"{told} has the best mean, but {names} cannot be told apart from it"


def _undecided(found: Capabilities, tasks: Sequence[str]) -> str:
  """Of tasks that none solves and in which none can be told apart from the best."""
  titles = [found.titles[task] for task in tasks]
  names = listed(titles) if len(titles) <= NAMED else plural(len(titles), "task")
  shares = all(found.studies[task].metric in FRACTIONS for task in tasks)
  none = ", which none solves" if shares else ""
  return f"none can be told apart from the best on {names}{none}"


def _overall(found: Capabilities) -> list[str]:
  """Of the means over the tasks whose scores are fractions."""
  compared, tasks = found.table.overall, len(found.table.tasks)
  if tasks < 2 or len(compared.summaries) < 2 or len(found.seeds) < 2:
    return []
  best, *level = compared.best_group or list(compared.summaries)
  told = f"{found.architectures[best]} ({compared.summaries[best].mean:.2f})"
  all_of = "both" if tasks == 2 else f"all {counted(tasks)}"
  over = f"over {all_of if tasks == len(found.studies) else counted(tasks)} tasks"
  if not compared.best_group:
    how = "cannot be told apart by their means"
    return [f"{over} the {counted(len(compared.summaries))} that finished them {how}"]
  if not level:
    return [f"{over} {told} has the highest mean, by more than the noise of the seeds"]
  titles = [found.architectures[name] for name in level]
  names = listed(titles) if len(titles) <= NAMED else f"{counted(len(titles))} others"
  return [f"{over} {told} has the highest mean, but {names} cannot be told apart from it"]


def _open(found: Capabilities) -> str:
  """How many pairs within tasks are undecided."""
  pairs = [pair for study in found.studies.values() for pair in study.statistics.pairs]
  if not pairs:
    return "no task has two architectures that finished, so nothing can be compared"
  if len(found.seeds) < 2:
    return "one seed gives no measure of the noise, so no two architectures can be told apart"
  undecided = sum(not pair.apart for pair in pairs)
  within = f"within tasks, with {plural(len(found.seeds), 'seed')}"
  every = {1: "the one pair", 2: "both pairs"}.get(len(pairs), f"all {counted(len(pairs))} pairs")
  if not undecided:
    return f"{within}, {every} {'is' if len(pairs) == 1 else 'are'} told apart"
  some = f"{counted(undecided)} of the {counted(len(pairs))} pairs"
  return f"{within}, {every if undecided == len(pairs) else some} cannot be told apart"


def _missing(found: Capabilities) -> str:
  lost = [(a, name) for name, study in found.studies.items() for a in study.unranked]
  if len(lost) > NAMED:
    return f"{counted(len(lost))} results failed or are unfinished, as the table shows"
  return "; ".join(
    f"{a.title} {a.note if a.status == 'failed' else f'is {a.note}'} on {found.titles[name]}"
    for a, name in lost
  )


def question(found: Capabilities) -> str:
  """What the comparison asks."""
  compare = found.about.get("config", {}).get("compare", {})
  matched = {
    "parameters": "of one size",
    "flops_per_token": "of one price a training token",
    "state_bytes": "with one amount of state",
    "seconds": "that train for one time",
  }.get(compare.get("match"), "as they stand")
  return (
    f"Which of {plural(len(found.architectures), 'architecture')} {matched} can do which of "
    f"{plural(len(found.studies), 'task')}, each with the best learning rate of its own; does what "
    "they learn hold for examples unlike those of training, and what does it cost?"
  )


def limits(found: Capabilities) -> str:
  """What the comparison cannot say."""
  return (
    f"{sentence(plural(len(found.seeds), 'seed'))} a model measure the noise of initialisation and "
    "of what is drawn, no more. What fails here may be learned with more steps, a larger model or "
    "a setting off the grid, and what cannot be told apart is not shown to be equal. Generated "
    "tasks say what an architecture can learn to compute, not how it fares on text."
  )


def captions(found: Capabilities) -> dict[str, str]:
  """What to see in each figure and table."""
  return {
    "table": _table_caption(found),
    "lengths": (
      "The score on each kind of held-out examples: mean of the seeds, with their lowest and "
      "highest as a band. What lies right of the upright line is longer than anything in training. "
      "The dashed line is guessing, always the answer that is commonest at its place."
    ),
    "states": (
      "The score against what a model carries from one training example's first token to its last, "
      "both axes its own in each panel. A bar is the interval of the mean. Up is better for shares "
      "of right answers, down for nats and bits; to the left is cheaper."
    ),
    "speeds": (
      "Measured after training, one sequence at a time, on the first task. Both axes are "
      "logarithmic: a flat line costs the same at every context. In the panel of the state, dots "
      "are measured and lines are the analytic count."
    ),
    "grids": _grids_caption(found),
    "records": (
      "In how many tasks the architecture of the row is told apart as the better one, and in how "
      "many as the worse one, of that in the column."
    ),
    "aggregates": (
      f"Over the {plural(len(found.table.tasks), 'task')} scored in shares, for those that "
      "finished all of them. The middle mean leaves out the best and the worst quarter of the "
      "runs. The last column alone speaks of tasks like these: there the tasks are drawn anew too."
    ),
  }


def _grids_caption(found: Capabilities) -> str:
  text = (
    "The score of each short trial on held-out examples that the final score does not see, by "
    "learning rate: each architecture in its colour, the others in grey behind it. A ring marks "
    "the setting that was picked, a cross a trial that failed or lies off the scale. A ring at "
    "the end of its line says that the best rate may lie outside the grid."
  )
  grids = [a.grid for study in found.studies.values() for a in study.architectures.values()]
  if any(len(grid) > 1 for grid in grids):
    text += " There is a line for each weight decay, which stands at its end."
  return text


def _table_caption(found: Capabilities) -> str:
  text = f"Mean over {plural(len(found.seeds), 'seed')}"
  if len(found.seeds) > 1:
    text += (
      f", and below it the {100 * statistics.COVERAGE:g} % interval of that mean. Bold: the best "
      "of a column and whatever cannot be told apart from it, where anything can. The stronger "
      "the colour, the nearer to all answers right"
    )
  text += f". Solved means at least {statistics.SOLVED:g}"
  if any(study.comparison.get("guessing") for study in found.studies.values()):
    text += "; guessing is always the answer that is commonest at its place"
  if len(found.table.overall.summaries) > 1:
    text += ". Rows are in the order of the mean over tasks; neighbours may be level"
  return f"{text}."


def metric_words(metric: str) -> list[str]:
  """A task's metric, and which way is up where that is not plain."""
  return [METRICS.get(metric, metric), *([] if metric in FRACTIONS else ["lower is better"])]
