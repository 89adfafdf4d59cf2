"""The sentences of a scaling study's report, written from its numbers."""

import numpy as np

from llm_jax.analysis import prose, scaling
from llm_jax.analysis.crossover import Crossover
from llm_jax.analysis.scaling_results import Study
from llm_jax.analysis.words import large, listed, percent, plain, plural, sentence

_CERTAIN = f"{100 * scaling.LEVEL:.0f} % interval"


def finding(study: Study) -> list[str]:
  """Who is best at the dearest budget, where that changes, and what is missing."""
  sentences = [_best(study), *_changes(study), *_missing(study)]
  return [text for text in sentences if text]


def _best(study: Study) -> str:
  if not study.fitted:
    return "No architecture has enough finished runs for a scaling law."
  budget = study.budgets[1]
  promised = [(a, *a.fit.optimum(np.array([budget]))) for a in study.fitted]
  promised.sort(key=lambda row: row[1].loss[0])
  first, best, again = promised[0]
  low, high = scaling.interval(again.loss[:, 0])
  text = (
    f"At {large(budget)} training FLOPs, the dearest budget that was tried, the law of "
    f"{first.title} promises {best.loss[0]:.3f} bits per byte ({_CERTAIN} {low:.3f} to {high:.3f}) "
    "to a model of its best size"
  )
  if len(promised) == 1:
    return f"{text}."
  second, other, others = promised[1]
  ahead = float((again.loss < others.loss).mean())
  return (
    f"{text}, the lowest of the {plural(len(promised), 'architecture')}; in {percent(ahead)} of "
    f"the resampled fits it is ahead of {second.title} ({other.loss[0]:.3f})."
  )


def _changes(study: Study) -> list[str]:
  """The crossovers within the range, or how far none is in sight."""
  if not study.crossovers:
    return []
  inside = [c for c in study.crossovers if c.verdict == "inside"]
  if inside:
    return [_change(study, c) for c in inside]
  low, high = study.crossovers[0].range
  likely = max(study.crossovers, key=lambda c: c.probability)
  names = listed([study.architectures[name].title for name in likely.names])
  return [
    f"No order changes between {large(low)} and {large(high)} FLOPs; the likeliest change, of "
    f"{names}, comes in {percent(likely.probability)} of the resampled fits."
  ]


def _change(study: Study, c: Crossover) -> str:
  title = lambda name: study.architectures[name].title
  again = "" if c.changes == 1 else f", after {plural(c.changes - 1, 'earlier change')},"
  return (
    f"{title(c.later)} is predicted to be better than {title(c.other)}{again} from "
    f"{large(c.budget)} FLOPs on ({_CERTAIN} {span(c)}), up to the {large(c.range[1])} that were "
    f"looked at; {_measured(study, c.budget)}."
  )


def _measured(study: Study, budget: float) -> str:
  if budget <= study.budgets[1]:
    return "that is within the budgets trained"
  return f"that is {plain(budget / study.budgets[1])} times the dearest run, an extrapolation"


def span(c: Crossover) -> str:
  """The interval of a crossover in words."""
  low = f"below {large(c.range[0])}" if c.low is None else large(c.low)
  high = f"beyond {large(c.range[1])}" if c.high is None else large(c.high)
  return f"{low} to {high}"


def _missing(study: Study) -> list[str]:
  texts = [f"{a.title} has no law. {a.refusal}" for a in study.architectures.values() if not a.fit]
  for status in ("failed", "unfinished"):
    lost = [r for a in study.architectures.values() for r in a.runs if r.status == status]
    if lost:
      texts.append(f"{sentence(plural(len(lost), 'run'))} {status}; the table of runs shows which.")
  return texts


def question(study: Study) -> str:
  """What the study asks."""
  low, high = _extent(study, "parameters")
  short, long = _extent(study, "tokens")
  return (
    f"How does the loss of {listed([a.title for a in study.architectures.values()])} fall with "
    f"their size ({large(low)} to {large(high)} parameters) and with the text they are trained on "
    f"({large(short)} to {large(long)} tokens), which size is best for a budget of FLOPs, and is "
    "there a budget at which another architecture becomes the better one?"
  )


def _extent(study, key):
  values = [getattr(run, key) for a in study.architectures.values() for run in a.runs]
  return min(values), max(values)


def limits(study: Study) -> str:
  """What the study cannot say."""
  plan = study.plan
  text = (
    "A law fitted over a small range is an interpolation: beyond the shaded border nothing was "
    "measured, and its form itself is an assumption. The intervals are of the runs drawn again; "
    "with few runs they are rough, and they know nothing of other corpora, tokenizers or learning "
    "rates off the grid."
  )
  for a in study.fitted:
    if a.fit.undetermined:
      text += (
        f" The runs of {a.title} leave {listed(a.fit.undetermined)} open, at an edge of what can "
        "be; do not read its law beyond the runs."
      )
  if not any(a.parabolas for a in study.architectures.values()):
    text += " No budget is shared by three sizes, so there are no isoFLOP curves."
  corpus = plan["corpus"]["train_bytes"] * plan["tokens_per_byte"]
  epochs = _extent(study, "tokens")[1] / corpus
  if epochs > 1:
    text += (
      f" The longest runs read the text {epochs:.1f} times; tokens that were seen before are worth "
      "less than the law takes them for."
    )
  edges = sum(_at_the_edge(grid) for a in study.architectures.values() for grid in a.grid.values())
  if edges:
    text += (
      f" {sentence(plural(edges, 'size'))} took the highest or the lowest learning rate of the "
      "grid: a better one may lie outside."
    )
  return text


def _at_the_edge(grid) -> bool:
  scores = {float(rate): bits for rate, bits in grid.items() if bits is not None}
  return len(grid) > 1 and min(scores, key=scores.get) in (
    min(map(float, grid)),
    max(map(float, grid)),
  )


def method(study: Study) -> list[tuple[str, str]]:
  """How it was measured: (what, sentences)."""
  plan, config = study.plan, study.plan["config"]
  options, schedule = config["scaling"], config["schedule"]
  rates = listed([plain(rate) for rate in options["learning_rates"]])
  rate = f"{rates} for every size and length"
  if len(options["learning_rates"]) > 1:
    rate = (
      f"For each size of each architecture the one of {rates} with the lowest training loss over "
      f"the last quarter of {plain(options['tuning_steps'])} steps; it serves every length"
    )
  seeds = plural(options["seeds"], "seed")
  rows = [
    ("Text", prose.corpus_text(plan["corpus"])),
    ("Tokens", prose.tokenizer_text(plan["tokenizer"])),
    (
      "Size",
      "Each architecture keeps its depth; the width is solved for. N counts every parameter, "
      "embeddings included.",
    ),
    (
      "Training",
      f"Every length is a run of its own, its {schedule['name']} schedule as long as it; "
      f"{plain(config['batch_size'])} \u00d7 {plain(config['seq_len'])} tokens a step, {seeds}.",
    ),
    ("Learning rate", f"{rate}."),
    (
      "Work",
      "FLOPs of a training token are counted in each model's traced program; a power law of N, "
      "fitted for each architecture, stands between the sizes.",
    ),
    (
      "Law",
      "E + A / N^\u03b1 + B / D^\u03b2 of bits per byte, by the Huber loss (\u03b4 = 0.001) of "
      "their logarithm (Hoffmann et al. 2022, approach 3), from many starts.",
    ),
    (
      "Intervals",
      f"{100 * scaling.LEVEL:.0f} % percentiles of 1,000 fits to runs drawn with replacement; "
      "seeds of one size and length are drawn together.",
    ),
    ("Machine", prose.machine_text(plan["environment"])),
  ]
  return [(what, text) for what, text in rows if text]


CAPTIONS = {
  "frontier": (
    "Lines are the lowest loss that each law promises for a budget, at its own best size and "
    "length, with its interval as a band; dots are the runs, which lie above it as far as their "
    "size was not the best. A ring marks a predicted crossover, its bar the interval. "
    "Where the ground is shaded nothing was trained."
  ),
  "sizes": (
    "Dots are runs, lines the fitted law at each length of training, bands its interval. All "
    "panels share their axes."
  ),
  "isoflops": (
    "Loss of the sizes at equal FLOPs. Dots are read off between the lengths that each size was "
    "trained on, lines are parabolas; a ring marks a minimum that lies between the sizes, a "
    "bar its interval. Where there is none the best size lies beyond those tried."
  ),
}
