"""A comparison over tasks in the words of a paper's methods section, written from its config."""

from collections.abc import Callable

from llm_jax.analysis import statistics
from llm_jax.analysis.capabilities import Capabilities, numbered
from llm_jax.analysis.prose import machine_text
from llm_jax.analysis.results import FRACTIONS, Results
from llm_jax.analysis.words import METRICS, large, listed, plain, plural, sentence


def method(found: Capabilities) -> list[tuple[str, str]]:
  """Paragraphs under their headings, each of whole sentences."""
  rows = [
    ("Models", _models(found)),
    ("Tasks", _tasks(found)),
    ("Training", _training(found)),
    ("Selection", _selection(found)),
    ("Scores", _scores(found)),
    ("Statistics", _statistics(found)),
    ("Machine", _machine(found)),
  ]
  return [(what, text) for what, text in rows if text]


def _compare(found: Capabilities) -> dict:
  return found.about.get("config", {}).get("compare", {})


def _models(found: Capabilities) -> str:
  compare = _compare(found)
  target, tolerance = compare.get(compare.get("match") or "") or 0, compare.get("tolerance") or 0
  within = f"within {plain(100 * tolerance)} %"
  entries = [a for study in found.studies.values() for a in study.architectures.values()]
  counts = [a.get("parameters") for a in entries if a.get("parameters")]
  ends = dict.fromkeys((plain(min(counts)), plain(max(counts)))) if counts else ()
  built = f"{' to '.join(ends)} parameters" if counts else ""
  matched = {
    "parameters": f"has {large(target)} parameters {within}",
    "flops_per_token": f"costs {large(target)} training FLOPs a token {within}",
    "state_bytes": f"carries {plain(target)} bytes of state over a training example {within}",
  }.get(compare.get("match"))
  text = f"We compare {listed(list(found.architectures.values()))}."
  if matched and target:
    text += (
      " All but the width is as in each architecture's own configuration"
      f"{_override(compare.get('model') or {})}; the width is solved for, task by task, so that "
      f"the model {matched}"
    )
    return f"{text} ({built})." if built else f"{text}."
  if compare.get("match") == "seconds" and target:
    text += f" Each trains for as many steps as take it {plain(target)} seconds on this machine."
  return f"{text} The models have {built}." if built else text


def _override(model: dict) -> str:
  """What the comparison sets in every model."""
  if set(model) == {"repeats"}:
    return f", with {plural(model['repeats'], 'repeat')} of its pattern of layers"
  return f", with {listed([f'{key} {value}' for key, value in model.items()])}" if model else ""


def _tasks(found: Capabilities) -> str:
  told = [f"{found.titles[name]}{_kinds(study)}" for name, study in found.studies.items()]
  many = plural(len(told), "task")
  text = f"The {many}, with the kinds of held-out examples in brackets, are {listed(told)}."
  sets = {_own(study, "training_set") for study in found.studies.values()}
  if sets == {0}:
    text += " Training examples are drawn anew at every step."
  held_out = sorted({_own(study, "held_out") or 0 for study in found.studies.values()} - {0})
  if held_out:
    number = " or ".join(plain(count) for count in held_out)
    text += f" Held-out examples are fixed, {number} of each kind, the same for every model."
  return text


def _kinds(study: Results) -> str:
  """The kinds of held-out examples, in brackets: (length 40, 100 and 200)."""
  kinds = tuple(study.comparison.get("kinds") or ())
  axis, groups = numbered(kinds)
  if len(groups) == 1:
    return (
      f" ({axis} {listed([plain(number) for row in groups.values() for number in row.values()])})"
    )
  return f" ({listed([kind.replace('_', ' ') for kind in kinds])})" if kinds else ""


def _own(study: Results, option: str):
  return (study.comparison["config"].get("objective_options") or {}).get(option)


def _training(found: Capabilities) -> str:
  options = lambda section, key: lambda study: (study.comparison["config"][section] or {}).get(key)
  top = lambda key: lambda study: study.comparison["config"].get(key)
  optimizer = _agreed(found, options("optimizer", "name"), str)
  betas = [_agreed(found, options("optimizer", key), plain) for key in ("b1", "b2")]
  clip = _agreed(found, options("optimizer", "clip_norm"), plain)
  schedule = _agreed(found, options("schedule", "name"), str)
  warm = _agreed(found, options("schedule", "warmup_fraction"), lambda v: plain(100 * v))
  parts = [f"Models are trained with the optimizer {optimizer}"]
  if all(betas):
    parts.append(f"\u03b2\u2081 = {betas[0]} and \u03b2\u2082 = {betas[1]}")
  if clip:
    parts.append(f"gradients clipped to norm {clip}")
  parts.append(f"a {schedule} schedule after {warm} % warm-up")
  steps, rows = _agreed(found, top("steps"), plain), _agreed(found, top("batch_size"), plain)
  length, dtype = _agreed(found, top("seq_len"), plain), _agreed(found, top("dtype"), str)
  return (
    f"{', '.join(parts)}, in {dtype}. Steps: {steps}. Examples a step: {rows}. Tokens of the "
    f"longest example: {length}. Under one seed every architecture reads the same examples in the "
    "same order."
  )


def _agreed(found: Capabilities, read: Callable, show: Callable) -> str:
  """One value if all tasks have it, else each value with its tasks; empty if none has any."""
  tasks: dict[str, list[str]] = {}
  for name, study in found.studies.items():
    value = read(study)
    if value is not None:
      tasks.setdefault(show(value), []).append(found.titles[name])
  if len(tasks) <= 1:
    return "".join(tasks)
  return listed([f"{value} ({listed(names)})" for value, names in tasks.items()])


def _selection(found: Capabilities) -> str:
  compare = _compare(found)
  rates, decays = compare.get("learning_rates") or (), compare.get("weight_decays") or ()
  trials = len(rates) * max(1, len(decays))
  default = found.about.get("config", {}).get("optimizer", {}).get("learning_rate")
  if trials < 2:
    return f"The learning rate is {plain(rates[0])} for all." if rates else ""
  words = f"the learning rate of {listed([plain(rate) for rate in rates])}"
  if len(decays) > 1:
    words += f" and the weight decay of {listed([plain(decay) for decay in decays])}"
  text = (
    f"For each architecture and task {words} are chosen in {plural(trials, 'trial')} of "
    f"{plain(compare.get('tuning_steps') or 0)} steps, as many for all, by the score on held-out "
    "examples of which none is in the final score"
  )
  if any("corpus" in study.comparison for study in found.studies.values()):
    text += " (on text, by the training loss over the last quarter of a trial)"
  text += "."
  return f"{text} The default setting is a learning rate of {plain(default)}." if default else text


def _scores(found: Capabilities) -> str:
  metrics: dict[str, list[str]] = {}
  for name, study in found.studies.items():
    metrics.setdefault(METRICS.get(study.metric, study.metric), []).append(found.titles[name])
  if len(metrics) == 1:
    text = f"The score is {next(iter(metrics))}"
  else:
    told = [f"{metric} ({listed(tasks)})" for metric, tasks in metrics.items()]
    text = f"Scores are {listed(told)}"
  steps = "at the end of training, over all kinds of held-out examples together"
  return f"{text}, {steps}; {plural(len(found.seeds), 'seed')} a model."


def _statistics(found: Capabilities) -> str:
  if len(found.seeds) < 2:
    return "With one seed there is no estimate of the noise, so no two models are told apart."
  shares = any(study.metric in FRACTIONS for study in found.studies.values())
  those = " that neither solve nor fail it under every seed" if shares else ""
  text = (
    f"Intervals of means are {100 * statistics.COVERAGE:g} % t intervals over seeds. Two models "
    f"are told apart by t tests on noise pooled over the architectures of a task{those}, or on "
    "their own where that is larger. What chance alone would claim is simulated, and the "
    "probability of any false claim in the whole comparison is held to "
    f"{plain(100 * statistics.LEVEL)} % for normal noise."
  )
  if shares:
    text += f" Differences up to {plain(statistics.RESOLUTION)} in a share are taken for none."
  return text


def _machine(found: Capabilities) -> str:
  first = next(iter(found.studies.values()), None)
  return sentence(machine_text(first.comparison.get("environment") or {})) if first else ""
