"""The folder of a sweep: what it is, its study and its trials, as every process opens it.

A sweep's folder holds config.json (the config of all trials, with `sweep`: how they differ),
sweep.json (where its study is), study.db or study.journal, claims/, logs/ and trials/NUMBER, which
are run folders; at the end results.csv, response.svg and result.json.
"""

import dataclasses
import uuid
from pathlib import Path

from ml_collections import ConfigDict

from llm_jax import config as config_schema
from llm_jax.errors import UserError
from llm_jax.sweeps import space as spaces
from llm_jax.sweeps.claims import Claims
from llm_jax.sweeps.study import Plan, Study, storage_url, values_of
from llm_jax.training import metrics, workdir


@dataclasses.dataclass(frozen=True)
class Sweep:
  """An open sweep.

  Attributes:
    folder: its own.
    config: that of every trial, but for their values.
    study, claims: how its trials stand, and who works on them.
  """

  folder: Path
  config: ConfigDict
  study: Study
  claims: Claims

  def run_folder(self, number: int) -> Path:
    return self.folder / "trials" / str(number)

  def config_of(self, trial) -> ConfigDict:
    """The config of a trial's run."""
    return config_schema.with_values(self.config, values_of(trial))

  def evaluations(self, number: int) -> list[dict]:
    """The validation rows of a trial's run."""
    rows = metrics.read(self.run_folder(number) / "metrics.jsonl")
    return [row for row in rows if row.get("split") == "validation"]


def create(
  folder: Path, config: ConfigDict, plan: Plan, storage: str | None, shared: bool
) -> Sweep:
  """Makes a sweep in a folder that this process owns, or goes on with the one that is there.

  Args:
    config: of all trials.
    plan: how they differ.
    storage: as --storage has it.
    shared: whether several machines will work on it.

  Raises:
    UserError: the folder holds something else, the storage another sweep's study, or the study is
      elsewhere, or where machines cannot share it.
  """
  url = storage_url(storage or ("journal" if shared else "sqlite"))
  stored = with_plan(config, plan)
  workdir.check(folder, stored)
  path = folder / "sweep.json"
  if not path.exists():
    found = {"study": folder.resolve().name, "storage": url}
    # The config first: what has none is no sweep.
    workdir.write_json(folder / "config.json", stored.to_dict())
    workdir.write_json(path, {"version": 1, "id": uuid.uuid4().hex, **found})
  there = workdir.read_json(path)["storage"]
  if storage and there != url:
    raise UserError(f"The sweep of {folder} keeps its study in {there}. Leave --storage out.")
  if shared and not is_shared(folder):
    raise UserError(
      f"The sweep of {folder} keeps its study in {there}, which only one machine can use. Begin "
      "another with --storage=journal."
    )
  workdir.write_json(folder / "config.json", stored.to_dict())  # what may differ is as asked now
  return read(folder)


def read(folder: Path) -> Sweep:
  """Opens the sweep of a folder."""
  config = workdir.read_config(folder)
  told = config.sweep
  del config["sweep"]
  plan = Plan(
    spaces.from_json(told.space.to_dict()),
    *(told[name] for name in ("sampler", "metric", "first_rung")),
    seed=config.seed,
  )
  where = workdir.read_json(folder / "sweep.json")
  study = Study(folder, where["storage"], where["study"], where["id"], plan)
  return Sweep(folder, config, study, Claims(folder))


def is_shared(folder: Path) -> bool:
  """Whether processes of several machines may work on it: SQLite's locks are of one machine."""
  return not workdir.read_json(folder / "sweep.json")["storage"].startswith("sqlite")


def with_plan(config: ConfigDict, plan: Plan) -> ConfigDict:
  """The config as a sweep's folder has it."""
  stored = ConfigDict(config.to_dict())
  stored.sweep = {name: getattr(plan, name) for name in ("sampler", "metric", "first_rung")}
  stored.sweep.space = spaces.to_json(plan.space)
  return stored
