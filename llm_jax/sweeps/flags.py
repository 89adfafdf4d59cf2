"""The flags of `launch.py sweep`, and the options that they are."""

import argparse
import dataclasses

from llm_jax.errors import UserError

SAMPLERS = ("grid", "random", "tpe")


@dataclasses.dataclass(frozen=True)
class Options:
  """What the command line asks of a sweep beside its config.

  Attributes:
    sampler: grid, random or tpe.
    trials: how many; None: the whole grid, or 20.
    workers: processes or jobs; 0: as many as fit.
    prune: whether successive halving ends trials early.
    metric: of the validation text.
    storage: of the study, see `study.storage_url`; None: as the sweep has it, or a fitting one.
    cluster: "slurm", or None for this machine.
    cluster_options: of the cluster's jobs.
  """

  sampler: str = "grid"
  trials: int | None = None
  workers: int = 0
  prune: bool = False
  metric: str = "loss"
  storage: str | None = None
  cluster: str | None = None
  cluster_options: dict = dataclasses.field(default_factory=dict)


def add(parser: argparse.ArgumentParser) -> None:
  """Declares them."""
  parser.add_argument("--config", metavar="FILE[:MODE]", required=True, help="experiment")
  parser.add_argument("--model", metavar="FILE[:MODE]", help="experiment whose model is taken")
  parser.add_argument("--workdir", help="the sweep's folder; default runs/EXPERIMENT_sweep")
  parser.add_argument("--quiet", action="store_true", help="no progress display")

  group = parser.add_argument_group("trials").add_argument
  group("--sampler", choices=SAMPLERS, default="grid", help="how values are taken; default grid")
  group("--trials", type=int, metavar="N", help="default: the whole grid, or 20; more may follow")
  group("--metric", default="loss", help="of the validation text, to compare by; default loss")
  group("--prune", action="store_true", help="end the worse half at each rung of evaluations")

  group = parser.add_argument_group("machines").add_argument
  group(
    "--workers",
    type=int,
    default=0,
    metavar="N",
    help="processes at once; default: one a core, or one an accelerator; with --cluster: 4 jobs",
  )
  group(
    "--storage",
    metavar="WHERE",
    help="sqlite (default), journal (several machines share the folder) or a database's URL",
  )
  group("--cluster", choices=("slurm",), help="run the workers as its jobs; the command waits")
  group(
    "--cluster-option",
    action="append",
    default=[],
    metavar="NAME=VALUE",
    help="of its jobs, such as partition=gpu, gpus_per_node=1 or time=120 (minutes); repeatable",
  )


def options(arguments: argparse.Namespace) -> Options:
  """Those of a command line.

  Raises:
    UserError: numbers or options that make no sense.
  """
  if arguments.trials is not None and arguments.trials < 1:
    raise UserError(f"--trials must be at least 1, found {arguments.trials}.")
  if arguments.workers < 0:
    raise UserError(f"--workers must be 0 (as many as fit) or more, found {arguments.workers}.")
  if arguments.cluster_option and not arguments.cluster:
    raise UserError("--cluster-option belongs to --cluster=slurm.")
  same = ("sampler", "trials", "workers", "prune", "metric", "storage", "cluster")
  given = {name: getattr(arguments, name) for name in same}
  return Options(**given, cluster_options=dict(map(_pair, arguments.cluster_option)))


def _pair(text):
  name, equals, value = text.partition("=")
  if not equals:
    raise UserError(f"--cluster-option={text}: expected NAME=VALUE, such as partition=gpu.")
  return name, int(value) if value.isdecimal() else value
