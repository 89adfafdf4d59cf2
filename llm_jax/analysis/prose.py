"""The report's sentences, written from the numbers so that none can claim more than they do."""

from llm_jax.analysis.results import Architecture, Results
from llm_jax.analysis.statistics import LEVEL
from llm_jax.analysis.words import counted, large, listed, plain, plural, sentence

NAMED = 3  # as many ties or undecided pairs are named; more are only counted


def finding(results: Results) -> tuple[str, str]:
  """Two sentences: who is best, level with the best and last; and what cannot be said."""
  ranked = results.ranked
  missing = "; ".join(f"{_fate(a)} and is not ranked" for a in results.unranked)
  if not ranked:
    return "No architecture has finished, so there is nothing to rank.", f"{missing}."
  if len(ranked) == 1:
    first = f"{_setting(results)} {_scored(results, ranked[0])} on held-out text."
    second = "It is the only one that finished, so nothing can be compared"
  elif results.statistics.noise is None:
    first = (
      f"{_setting(results)} {ranked[0].title} has the lowest score, {_bits(results, ranked[0])} "
      f"bits per byte, and {ranked[-1].title} the highest, {_bits(results, ranked[-1])}."
    )
    second = (
      "One seed gives no measure of the noise, so none of the "
      f"{counted(len(ranked))} architectures can be told apart"
    )
  else:
    first = f"{_setting(results)} {_order(results)}."
    second = _resolution(results)
  return first, f"{second}; {missing}." if missing else f"{second}."


def _fate(a: Architecture) -> str:
  return f"{a.title} {a.note}" if a.status == "failed" else f"{a.title} is {a.note}"


def _setting(results: Results) -> str:
  parts = []
  if results.comparison.get("target_parameters"):
    parts.append(f"about {large(results.comparison['target_parameters'])} parameters")
  if results.tokens:
    parts.append(f"{large(results.tokens)} training tokens")
  return f"At {' and '.join(parts)}," if parts else "Here"


def _bits(results: Results, a: Architecture) -> str:
  return f"{results.statistics.summaries[a.name].mean:.3f}"


def _scored(results: Results, a: Architecture) -> str:
  return f"{a.title} reaches {_bits(results, a)} bits per byte"


def _order(results: Results) -> str:
  """The best, its ties and the last ones, as far as the statistics go."""
  compared, ranked = results.statistics, results.ranked
  best, worst = ranked[0], ranked[-1]
  level = compared.tied_with(best.name)
  noise = f"the noise of {plural(len(results.seeds), 'seed')}"
  if len(level) == len(ranked):
    return (
      f"the {counted(len(ranked))} architectures cannot be told apart within {noise}: their means "
      f"lie between {_bits(results, best)} ({best.title}) and {_bits(results, worst)} "
      f"({worst.title}) bits per byte"
    )
  if len(level) == 1:
    head = (
      f"{best.title} predicts held-out text best, at {_bits(results, best)} bits per byte, "
      f"ahead of all others by more than {noise}"
    )
  else:
    others = [_named(results, name) for name in level[1:]]
    if len(others) > NAMED:
      others = [f"{counted(len(others))} others, up to {others[-1]},"]
    head = (
      f"{best.title} has the lowest mean, {_bits(results, best)} bits per byte, but "
      f"{listed(others)} cannot be told apart from it within {noise}"
    )
  last = compared.tied_with(worst.name)
  if len(last) == 1:
    return f"{head}; {worst.title} is last at {_bits(results, worst)}"
  if set(last) & set(level):
    return f"{head}; the highest mean is that of {worst.title}, {_bits(results, worst)}"
  if len(last) > NAMED:
    return f"{head}; {counted(len(last))} are last, level with {worst.title}"
  names = [_named(results, name) for name in last]
  return f"{head}; {listed(names)} are last, level with each other"


def _named(results: Results, name: str) -> str:
  a = results.architectures[name]
  return f"{a.title} ({_bits(results, a)})"


def _resolution(results: Results) -> str:
  """What size of difference the seeds can show, and which pairs it leaves undecided."""
  compared = results.statistics
  open_pairs = [pair for pair in compared.pairs if not pair.apart]
  seen = f"differences below about {compared.threshold:.3f} bits per byte cannot be seen"
  head = f"With {plural(len(results.seeds), 'seed')}, {seen}"
  if not open_pairs:
    return f"{head}, but every pair of architectures differs by more"
  some, every = counted(len(open_pairs)), counted(len(compared.pairs))
  which = f"all {every}" if some == every else f"{some} of the {every}"
  verb = "stays" if len(open_pairs) == 1 else "stay"
  text = f"{head}, so {which} pairs {verb} undecided"
  if len(open_pairs) <= NAMED:
    title = lambda name: results.architectures[name].title
    text += f" ({'; '.join(f'{title(p.lower)} and {title(p.higher)}' for p in open_pairs)})"
  return text


def question(results: Results) -> str:
  """What the comparison asks."""
  tolerance = results.comparison.get("tolerance")
  target = results.comparison.get("target_parameters")
  matched = f" of {large(target)} parameters" if target else ""
  matched += f" (within {plain(100 * tolerance)} %)" if tolerance else ""
  return (
    f"Which of {plural(len(results.architectures), 'architecture')} predicts held-out text best, "
    f"if all are built to one size{matched}, read the same batches in the same order, and each "
    "trains at its own best learning rate? And what does each cost in training time, decoding "
    "speed and memory?"
  )


def limits(results: Results) -> str:
  """What the comparison cannot say."""
  return (
    f"{sentence(plural(len(results.seeds), 'seed'))} a model measure the noise of initialisation "
    "and batch order, not that of other held-out text. Nothing here speaks of other sizes, longer "
    "training, other corpora or learning rates off the grid, and an order that holds at this "
    "budget may turn at a larger one."
  )


def statistics_method(results: Results) -> str:
  """How pairs are told apart, in one sentence; or why they are not."""
  compared = results.statistics
  if compared.noise is None:
    return "There is no estimate of the noise, so no pair is told apart."
  return (
    "Each pair is put to two t tests, of its differences within seeds and of its means over them, "
    f"on noise pooled over all architectures (standard deviation {compared.noise:.4f}, "
    f"{plural(compared.freedom, 'degree')} of freedom) or on its own where that is larger. What "
    f"chance alone would claim of the {plural(len(compared.pairs), 'pair')} is simulated, and any "
    f"false claim in the whole report is held to {plain(100 * LEVEL)} %."
  )


def method(results: Results) -> list[tuple[str, str]]:
  """How it was measured: (what, sentences) from the config and what was recorded."""
  rows = [
    ("Text", corpus_text(results.comparison.get("corpus") or {})),
    ("Tokens", tokenizer_text(results.comparison.get("tokenizer") or {})),
    ("Size", _size(results)),
    ("Training", _training(results)),
    ("Learning rate", _learning_rate(results)),
    ("Score", _score(results.comparison.get("byte_model") or {})),
    ("Seeds", _seeds(results)),
    ("Speed", _speed(results)),
    ("Machine", machine_text(results.comparison.get("environment") or {})),
  ]
  return [(what, text) for what, text in rows if text]


def corpus_text(corpus: dict) -> str:
  """Of a plan's corpus."""
  if not corpus:
    return ""
  parts = [
    f"{large(corpus[f'{part}_bytes'])} bytes in {plain(corpus.get(f'{part}_documents') or 0)} "
    f"documents {purpose}"
    for part, purpose in (("train", "to train on"), ("validation", "held out"))
    if corpus.get(f"{part}_bytes")
  ]
  return f"{sentence(str(corpus.get('name') or 'the corpus'))}: {listed(parts)}."


def tokenizer_text(tokenizer: dict) -> str:
  """Of a plan's tokenizer."""
  if not tokenizer:
    return ""
  return (
    f"One {tokenizer.get('name')} tokenizer of {plain(tokenizer.get('vocab_size') or 0)} pieces "
    "for all."
  )


def _size(results: Results) -> str:
  counts = [a.get("parameters") for a in results.architectures.values() if a.get("parameters")]
  if not counts:
    return ""
  return (
    "Each architecture keeps its depth and takes the width that comes nearest to the target: "
    f"{plain(min(counts))} to {plain(max(counts))} parameters."
  )


def _training(results: Results) -> str:
  config = results.comparison.get("config") or {}
  parts = [f"{plain(results.steps)} steps"]
  if config.get("batch_size") and config.get("seq_len"):
    parts[0] += f" of {plain(config['batch_size'])} \u00d7 {plain(config['seq_len'])} tokens"
  optimizer, schedule = config.get("optimizer") or {}, config.get("schedule") or {}
  if optimizer.get("name"):
    parts.append(f"optimizer {optimizer['name']}")
  if optimizer.get("weight_decay"):
    parts.append(f"weight decay {plain(optimizer['weight_decay'])}")
  if optimizer.get("clip_norm"):
    parts.append(f"gradients clipped to norm {plain(optimizer['clip_norm'])}")
  if schedule.get("name"):
    warmup = schedule.get("warmup_fraction") or 0
    parts.append(
      f"{schedule['name']} schedule" + (f" after {plain(100 * warmup)} % warm-up" if warmup else "")
    )
  if config.get("dtype"):
    parts.append(f"{config['dtype']} arithmetic")
  return f"{', '.join(parts)}; the same batches in the same order for every architecture of a seed."


def _learning_rate(results: Results) -> str:
  rates = sorted({rate for a in results.architectures.values() for rate, _ in a.trials})
  if not rates:
    return ""
  compare = (results.comparison.get("config") or {}).get("compare") or {}
  steps = compare.get("tuning_steps")
  budget = f" of {plain(steps)} steps" if steps else ""
  decays = sorted({decay for a in results.architectures.values() for decay in a.grid})
  tried = f"the one of {listed([plain(rate) for rate in rates])}"
  if len(decays) > 1:
    tried += f", and the weight decay of {listed([plain(decay) for decay in decays])},"
  return (
    f"For each architecture {tried} with the lowest training loss over the last "
    f"quarter of a trial{budget}; held-out text takes no part."
  )


def _score(byte_model: dict) -> str:
  text = (
    "Bits per byte of the held-out documents: the model's code length for them over their size, "
    "so that tokenizers do not matter."
  )
  if byte_model:
    orders = [f"{bits:.2f} (order {order})" for order, bits in sorted(byte_model.items())]
    text += f" Counting byte models of the same training text reach {listed(orders)}."
  return text


def _seeds(results: Results) -> str:
  if not results.seeds:
    return ""
  return (
    f"{sentence(plural(len(results.seeds), 'seed'))} a model; \u00b1 is the standard deviation "
    f"over them. {statistics_method(results)}"
  )


def _speed(results: Results) -> str:
  measured = [a for a in results.architectures.values() if a.speed]
  alone = any(a.alone for a in results.architectures.values())
  text = (
    "Training speed is that of the median step, measured with nothing else running; the seconds "
    "of the loss curves are those of the training runs, which may have shared the machine."
    if alone
    else "Training speed is the median over the logged steps of all runs."
  )
  if not measured:
    return text
  contexts = sorted({row["context"] for a in measured for row in a.speed})
  return (
    f"{text} Prefill, decoding and state are measured for one sequence after training, at "
    f"contexts of {plain(contexts[0])} to {plain(contexts[-1])} tokens."
  )


def machine_text(environment: dict) -> str:
  """Of a plan's environment."""
  parts = [str(environment[name]) for name in ("cpu",) if environment.get(name)]
  if environment.get("cpu_count"):
    parts.append(f"{environment['cpu_count']} processors")
  if environment.get("backend") not in (None, "cpu"):
    devices = [str(device) for device in environment.get("devices") or ()]
    kinds = [f"{devices.count(kind)} \u00d7 {kind}" for kind in dict.fromkeys(devices)]
    parts.append(listed(kinds) or str(environment["backend"]))
  version = (environment.get("packages") or {}).get("jax")
  return f"{', '.join(parts)}{f'; JAX {version}' if version else ''}." if parts else ""


def captions(results: Results) -> dict[str, str]:
  """What to see in each figure, by the figure's name."""
  return {
    "scores": _scores_caption(results),
    "table": _table_caption(results),
    "curves": (
      "Training loss in nats per token, mean of the seeds, with their lowest and highest as a band "
      "behind it; the first steps lie above the border. All four panels share the loss axis: "
      "against steps and tokens the lines show who learns most from the same text, against FLOPs "
      "and seconds who learns most for the same work and time."
    ),
    "grids": (
      "Training bits per byte at the end of the short trials, by learning rate: each architecture "
      "in its colour, the others in grey behind it. A ring marks the rate that was picked, a cross "
      "at the top one that failed or lies off the scale. A ring at the end of its line says that "
      "the best rate may lie outside the grid."
    ),
    "speeds": (
      "Both axes are logarithmic: a flat line costs the same at every context, one that falls or "
      "rises by a step for each step sideways costs in proportion to it. In the panel of the "
      "state, dots are measured and lines are the analytic count."
    ),
    "tradeoffs": (
      "Quality against its price, one mark an architecture with its spread. Down is better in "
      "all panels; to the right is better for speeds, to the left for state bytes."
    ),
    "samples": _samples_caption(results),
  }


def _scores_caption(results: Results) -> str:
  text = "Each mark is a seed, the upright line their mean, the pale bar one standard deviation."
  if results.statistics.threshold is not None:
    text += " Means inside the grey band cannot be told apart from the best."
  byte_model = (results.comparison.get("byte_model") or {}).get("2")
  if byte_model and results.ranked:
    beaten = [a for a in results.ranked if max(run.score for run in a.runs.values()) < byte_model]
    lost = [a.title for a in results.ranked if a not in beaten]
    winners = f"All that finished but {listed(lost)}" if lost else "All that finished"
    text += f" {winners} beat the order-2 byte model ({byte_model:.2f}) with every seed."
  if any(run.score is not None for a in results.unranked for run in a.runs.values()):
    text += " Hollow marks belong to architectures that did not finish every seed."
  return text


def _table_caption(results: Results) -> str:
  if results.statistics.noise is None:
    return "Sorted by score. Nothing is bold: one score each says nothing about noise."
  if not results.statistics.best_group:
    return "Sorted by score. Nothing is bold: no architecture can be told apart from the best."
  return (
    "Sorted by score. Bold: the best, and whatever cannot be told apart from it; "
    "\u201clevel\u201d marks those."
  )


def _samples_caption(results: Results) -> str:
  samples = [a.sample for a in results.architectures.values() if a.sample]
  options = [
    f"{name.replace('_', ' ')} {value}"
    for name, value in (samples[0] if samples else {}).items()
    if name not in ("prompt", "text") and value is not None
  ]
  drawn = f", drawn with {listed(options)}" if options else ""
  return f"The first continuation of one prompt from each, best score first{drawn}."
