"""The verbs of `launch.py`: flags in, a call into llm_jax, an exit code out.

Exit codes: 0 done, 1 the run failed, 2 a mistake the user can mend, 75 stopped by a signal after
saving (the same command resumes).
"""

import argparse
import json
import os
import sys
from pathlib import Path

from llm_jax import config as config_schema
from llm_jax.errors import UserError, unknown
from llm_jax.inference import flags as decoding_flags
from llm_jax.sweeps import flags as sweep_flags

_DEFAULT_COMPARISON = config_schema.EXPERIMENTS / "compare_quick.py"

_HELP = """Train, run, inspect and compare language model architectures.

verbs:
  compare    train every architecture of a comparison and write report.html (the default verb)
               python launch.py
               python launch.py compare --config=experiments/compare_quick.py --config.steps=400
  train      train one model; the same command again resumes it
               python launch.py train --config=experiments/llama.py --config.model.repeats=8
               python launch.py train --config=experiments/synthetic.py --model=experiments/lstm.py
  sweep      train one model under many settings; the same command again goes on
               python launch.py sweep --config=experiments/mamba.py
               python launch.py sweep --config=experiments/llama.py --sampler=random --trials=40
  evaluate   score a trained run on its validation text, on another text, or in a task
               python launch.py evaluate --workdir=runs/llama --data=other.txt
               python launch.py evaluate --workdir=runs/llama --task=questions.jsonl
  generate   continue a prompt with a trained run, as it is made
               python launch.py generate --workdir=runs/llama --prompt="The function returns"
               python launch.py generate --workdir=runs/llama --prompts-file=lines.txt --json
  import     make a run folder of a published checkpoint, for the verbs above and init_from
               python launch.py import --from=path/to/hf_folder --workdir=runs/imported
  export     write a run as the published checkpoint that transformers opens
               python launch.py export --workdir=runs/llama --to=out/llama
  tokenizer  train a tokenizer on an experiment's text, or show how some cut a text
               python launch.py tokenizer --config=experiments/llama.py --vocab-size=8000 --to=out
               python launch.py tokenizer show "A text" --tokenizer=out --tokenizer=byte

`python launch.py VERB --help` lists the flags of a verb. Any value of a config is set by
--config.NAME=VALUE, such as --config.seed=1 --config.optimizer.learning_rate=3e-4
--config.data.path=my.txt --config.parallel.strategy=mesh --config.parallel.axes.fsdp=4; `:tiny`
behind a config's path makes a run of seconds: --config=experiments/llama.py:tiny.

exit codes: 0 done; 1 the run failed; 2 a mistake to mend; 75 stopped by a signal after saving."""


def main(argv: list[str]) -> int:
  """Runs a command line; returns the exit code."""
  if not argv or (argv[0].startswith("--") and argv[0] not in ("--help", "-h")):
    argv = ["compare", *argv]
  try:
    arguments, overrides = _parse(argv)
    return _VERBS[arguments.verb](arguments, overrides, argv)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print("Interrupted.", file=sys.stderr)
    return 75
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: no noise
    return 1


def _parse(argv):
  """The verb's flags, and the overrides of the config among them."""
  rest, overrides = [], []
  tokens = iter(argv)
  for token in tokens:
    if not token.startswith("--config."):
      rest.append(token)
    elif "=" in token:
      overrides.append(token)
    else:
      value = next(tokens, "--")
      if value.startswith("--"):
        raise UserError(f"{token} needs a value: {token}=VALUE.")
      overrides.append(f"{token}={value}")
  if not rest[0].startswith("-") and rest[0] not in _VERBS:
    raise unknown("verb", rest[0], _VERBS)
  return _parser().parse_args(rest), overrides


def _parser():
  parser = argparse.ArgumentParser(
    prog="python launch.py", description=_HELP, formatter_class=argparse.RawTextHelpFormatter
  )
  verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, help=argparse.SUPPRESS)

  def verb(name, description):
    return verbs.add_parser(name, description=description, allow_abbrev=False)

  for name, text in (
    ("compare", "Train every architecture of a comparison config and write report.html."),
    ("train", "Train one model. The same command again resumes; a finished run is left alone."),
  ):
    p = verb(name, text)
    p.add_argument("--config", metavar="FILE[:MODE]", required=name == "train", help="experiment")
    p.add_argument("--workdir", help="run folder; default runs/EXPERIMENT")
    p.add_argument("--quiet", action="store_true", help="no progress display")
    if name == "train":
      p.add_argument(
        "--model",
        metavar="FILE[:MODE]",
        help="experiment whose model is trained instead; default folder runs/EXPERIMENT_MODEL",
      )
      p.add_argument("--coordinator", metavar="HOST:PORT", help="of a run on several hosts")
      p.add_argument("--num-processes", type=int, help="how many take part")
      p.add_argument("--process-id", type=int, help="which one this is, from 0")

  text = "Train an experiment in every setting of its sweep(); the same command again goes on."
  sweep_flags.add(verb("sweep", text))

  p = verb("evaluate", "Score a trained run; prints one JSON object.")
  p.add_argument("--workdir", required=True, help="run folder")
  p.add_argument("--data", help="file, glob or datasets:NAME; default: the run's validation text")
  p.add_argument("--step", default="latest", help="checkpoint: a number, latest or best")
  p.add_argument(
    "--window", type=int, help="tokens read at a time; 0: whole documents; default: rows"
  )
  p.add_argument("--stride", type=int, help="new tokens a window; default: half of it")
  p.add_argument("--words", help="nearest neighbours of these instead: king,queen,...")
  p.add_argument("--task", help=".jsonl of examples, or a .yaml of lm-eval")
  p.add_argument("--metrics", default="exact_match,f1", help="of generated text; bleu, chrf, rouge")
  p.add_argument("--num-beams", type=int, help="of a run that answers texts; 1: greedy; default 4")
  p.add_argument("--length-penalty", type=float, help="of its beam; above 0: longer; default 1")
  p.add_argument("--limit", type=int, help="examples of the task, or records; default: all")
  p.add_argument("--max-new-tokens", type=int, default=64, help="of a generated text; default 64")
  p.add_argument("--json", help="file to write; default with --task: WORKDIR/evaluation-TASK.json")

  p = verb("generate", "Continue prompts with a trained run; a single text streams as it is made.")
  p.add_argument("--workdir", required=True, help="run folder")
  p.add_argument("--step", default="best", help="checkpoint: a number, latest or best")
  decoding_flags.add(p)

  p = verb("import", "Make a run folder of a published checkpoint.")
  p.add_argument("--from", dest="source", required=True, help="its folder, or one weights file")
  p.add_argument("--workdir", required=True, help="run folder to make; new or empty")
  p.add_argument("--tokenizer", help="tokenizer.json; default: the one beside the weights")

  p = verb("export", "Write a run as the published checkpoint that transformers opens.")
  p.add_argument("--workdir", required=True, help="run folder")
  p.add_argument("--to", dest="target", required=True, help="folder to make; new or empty")
  p.add_argument("--step", default="best", help="checkpoint: a number, latest or best")

  p = verb("tokenizer", "Train a tokenizer on an experiment's text, or show how some cut a text.")
  p.add_argument("show", nargs="*", metavar="show TEXT", help="print its pieces; - : from stdin")
  p.add_argument("--config", metavar="FILE[:MODE]", help="experiment, whose text is taken")
  p.add_argument("--vocab-size", type=int, help="special tokens included; default: the config's")
  p.add_argument("--name", help="byte, char, word, bpe, wordpiece, unigram; default: the config's")
  p.add_argument("--to", dest="target", help="folder for the tokenizer.json")
  p.add_argument(
    "--tokenizer", action="append", default=[], help="show: a path or a kind, more than once"
  )
  return parser


def _start_jax():
  """The persistent compilation cache, before the first program is compiled."""
  cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "llm_jax" / "jax"
  # Through the environment, so that the processes of a comparison share it.
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
  import jax

  jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
  return jax


def _compare(arguments, overrides, argv):
  path = arguments.config or str(_DEFAULT_COMPARISON)
  config = config_schema.load(path, overrides)
  if "compare" not in config and "scaling" not in config:
    raise UserError(f"{path} is no comparison; train it: python launch.py train --config={path}")
  _start_jax()
  from llm_jax.analysis import compare, scaling_study

  run = scaling_study.run if "scaling" in config else compare.run
  folder = Path(arguments.workdir or _default_workdir(path))
  return run(config, folder, command=argv, progress=not arguments.quiet)


def _train(arguments, overrides, argv):
  config = config_schema.load(arguments.config, overrides, arguments.model)
  if "compare" in config or "scaling" in config:
    raise UserError(f"{arguments.config} is a comparison: python launch.py compare --config=...")
  jax = _start_jax()
  given = (arguments.coordinator, arguments.num_processes, arguments.process_id)
  if any(flag is not None for flag in given):
    if None in given:
      raise UserError("--coordinator, --num-processes and --process-id belong together.")
    jax.distributed.initialize(arguments.coordinator, arguments.num_processes, arguments.process_id)
  from llm_jax.training import loop

  workdir = Path(arguments.workdir or _default_workdir(arguments.config, arguments.model))
  try:
    loop.train(config, workdir, progress=not arguments.quiet)
  except loop.Stopped as stopped:
    print(f"{stopped} Run the same command again to go on.", file=sys.stderr)
    return 75
  except loop.Failed as failure:
    print(f"error: {failure}", file=sys.stderr)
    return 1
  return 0


def _sweep(arguments, overrides, argv):
  options = sweep_flags.options(arguments)
  config = config_schema.load(arguments.config, overrides, arguments.model)
  if "compare" in config or "scaling" in config:
    raise UserError(f"{arguments.config} is a comparison: python launch.py compare --config=...")
  # This process trains nothing: the accelerators are its workers'.
  _start_jax().config.update("jax_platforms", "cpu")
  from llm_jax.sweeps import manager

  given = config_schema.sweep_of(arguments.config)
  named = _default_workdir(arguments.config, arguments.model)
  model = [f"--model={arguments.model}"] * (arguments.model is not None)
  flags = [f"--config={arguments.config}", *model, *overrides]
  folder = Path(arguments.workdir or f"{named}_sweep")
  return manager.run(config, given, options, folder, flags, progress=not arguments.quiet)


def _default_workdir(*config_paths):
  """Of the experiment, and of the one whose model it trains if there is such."""
  parts = [str(path).partition(":") for path in config_paths if path]
  named = [name for path, _, mode in parts for name in (Path(path).stem, mode) if name]
  return Path("runs") / "_".join(named)


def _evaluate(arguments, overrides, argv):
  _no_overrides(overrides)
  _start_jax()
  from llm_jax.evaluation import jobs, neighbours, perplexity, result_file, tasks

  where, step = arguments.workdir, arguments.step
  records = arguments.task is None and jobs.reads_records(where)
  _check_heeded(arguments, records)
  if arguments.words is not None or (arguments.task is None and _is_of_words(where)):
    if any((arguments.task, arguments.data, arguments.window, arguments.stride)):
      raise UserError("The neighbours of words are told without --task, --data and --window.")
    name, about = "neighbours", {}
    words = [word for word in (arguments.words or "").split(",") if word]
    found = neighbours.evaluate(where, words, step)
  elif records:
    if arguments.window is not None or arguments.stride is not None:
      raise UserError("--window and --stride score a running text; this run reads records.")
    found = jobs.evaluate(
      where,
      arguments.data,
      step,
      arguments.limit,
      num_beams=arguments.num_beams,
      length_penalty=arguments.length_penalty,
    )
    name, about = found["objective"], {}
  elif arguments.task is None:
    name, about = "perplexity", {}
    found = perplexity.evaluate(where, arguments.data, step, arguments.window, arguments.stride)
  else:
    if any(flag is not None for flag in (arguments.data, arguments.window, arguments.stride)):
      raise UserError("--data, --window and --stride score a text; --task brings its own.")
    name, about = Path(arguments.task).stem, {"data": arguments.task, "step": step}
    found = tasks.evaluate(
      where,
      arguments.task,
      step,
      metrics=[metric for metric in arguments.metrics.split(",") if metric],
      limit=arguments.limit,
      max_new_tokens=arguments.max_new_tokens,
    )
  keep = bool(arguments.task or arguments.json)
  if keep:
    found = result_file.result(name, found, argv, **about)
  print(json.dumps(found, indent=2))  # first: scores are not lost to a file that fails
  if keep:
    result_file.write(arguments.json or where, found)
  return 0


def _check_heeded(arguments, records):
  """Refuses flags of `evaluate` that would change nothing."""
  beam = arguments.num_beams is not None or arguments.length_penalty is not None
  if beam and not records:
    raise UserError("--num-beams and --length-penalty are for a run that answers texts, not tasks.")
  if arguments.limit is not None and not (records or arguments.task):
    raise UserError("--limit counts examples of a task, or records; this run reads a text.")


def _is_of_words(folder):
  """Whether a run has word vectors and nothing that could be scored on a text."""
  from llm_jax.training import workdir

  return workdir.read_config(Path(folder)).get("model", {}).get("kind") == "word_vectors"


def _generate(arguments, overrides, argv):
  _no_overrides(overrides)
  options = decoding_flags.options(arguments)
  _start_jax()
  from llm_jax.inference import prompt

  prompts = decoding_flags.prompts(arguments)
  size, as_json = arguments.batch_size, arguments.json
  prompt.to_terminal(
    arguments.workdir, prompts, arguments.step, batch_size=size, as_json=as_json, **options
  )
  return 0


def _import(arguments, overrides, argv):
  _no_overrides(overrides)
  _start_jax()
  from llm_jax import exchange

  print(exchange.import_run(arguments.source, arguments.workdir, arguments.tokenizer))
  return 0


def _export(arguments, overrides, argv):
  _no_overrides(overrides)
  _start_jax()
  from llm_jax import exchange

  print(exchange.export_run(arguments.workdir, arguments.target, arguments.step))
  return 0


def _tokenizer(arguments, overrides, argv):
  from llm_jax import tokenizing

  if not arguments.show:
    if arguments.config is None or arguments.target is None:
      raise UserError("Training a tokenizer takes --config=FILE, for its text, and --to=FOLDER.")
    if arguments.tokenizer:
      raise UserError("--tokenizer belongs to `tokenizer show TEXT`; training takes --name=KIND.")
    config = config_schema.load(arguments.config, overrides)
    print(tokenizing.train(config, arguments.target, arguments.name, arguments.vocab_size))
    return 0
  if arguments.show[0] != "show" or len(arguments.show) != 2:
    raise UserError(
      f"Expected `tokenizer show TEXT`, the text in quotes; found {' '.join(arguments.show)!r}."
    )
  if any(flag is not None for flag in (arguments.vocab_size, arguments.name, arguments.target)):
    raise UserError("--vocab-size, --name and --to train a tokenizer; show takes --tokenizer.")
  if arguments.config is None:
    _no_overrides(overrides)
    config = config_schema.base()
  else:
    config = config_schema.load(arguments.config, overrides)
  text = sys.stdin.read() if arguments.show[1] == "-" else arguments.show[1]
  tokenizing.show(text, arguments.tokenizer, config, tokenizing.Console())
  return 0


def _no_overrides(overrides):
  if overrides:
    raise UserError(f"{overrides[0]}: the run's own config holds; overrides are for training.")


_VERBS = {
  "compare": _compare,
  "train": _train,
  "sweep": _sweep,
  "evaluate": _evaluate,
  "generate": _generate,
  "import": _import,
  "export": _export,
  "tokenizer": _tokenizer,
}
