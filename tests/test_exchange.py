"""`launch.py import` and `launch.py export`: published folders as run folders, and back."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

import llm_jax
from llm_jax import command_line
from llm_jax.evaluation import perplexity
from llm_jax.training import runs

ROOT = pathlib.Path(__file__).resolve().parent.parent
LLAMA = f"--config={ROOT}/experiments/llama.py:tiny"


def refused(capsys, *argv):
  """The one line on stderr of a command that must be refused."""
  assert command_line.main(list(argv)) == 2
  captured = capsys.readouterr()
  assert captured.out == ""
  assert captured.err.startswith("error: ")
  assert captured.err.count("\n") == 1
  return captured.err


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """A tiny run, what it is exported as, and the run folder that is imported from that."""
  folder = tmp_path_factory.mktemp("exchange")
  text = folder / "text.txt"
  text.write_text("\n\n".join(f"Paragraph {i} speaks of {i * i} things." * 4 for i in range(60)))
  run, published, imported = folder / "run", folder / "published", folder / "runs" / "imported"
  train = ["train", LLAMA, f"--config.data.path={text}", "--quiet"]
  assert command_line.main([*train, f"--workdir={run}"]) == 0
  assert command_line.main(["export", f"--workdir={run}", f"--to={published}"]) == 0
  assert command_line.main(["import", f"--from={published}", f"--workdir={imported}"]) == 0
  return text, run, published, imported, train


def test_what_was_exported_and_imported_is_the_same_model(folders):
  text, run, published, imported, _ = folders
  model, params = llm_jax.load_pretrained(published)
  for folder in (run, imported):
    there = runs.read(folder)
    assert jax.tree.structure(there.params) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, there.params, params)
  assert runs.read(run).tokenizer.sha256 == runs.read(imported).tokenizer.sha256
  scores = [perplexity.evaluate(folder, str(text)) for folder in (run, imported)]
  # Their rows are of different lengths; the texts are not.
  assert scores[0]["tokens"] == scores[1]["tokens"]
  assert scores[0]["loss"] == pytest.approx(scores[1]["loss"], abs=0.05)
  assert model.spec.heads == ("language_model",)


def test_an_imported_run_generates_and_is_trained_on(folders, tmp_path, capsys):
  _, run, _, imported, train = folders
  made = []
  for folder in (run, imported):
    flags = ["--prompt=Para", "--max-new-tokens=8", "--temperature=0", "--step=latest"]
    assert command_line.main(["generate", f"--workdir={folder}", *flags]) == 0
    made.append(capsys.readouterr().out)
  assert made[0] == made[1]
  tokenizer = f"--config.tokenizer.name={imported}/tokenizer.json"
  init = [f"--config.init_from={imported}", tokenizer, "--config.optimizer.learning_rate=0.0"]
  assert command_line.main([*train, f"--workdir={tmp_path}/more", *init]) == 0
  jax.tree.map(
    np.testing.assert_array_equal, runs.read(tmp_path / "more").params, runs.read(run).params
  )


def test_a_checkpoint_without_a_tokenizer_is_imported_and_says_so(folders, tmp_path, capsys):
  _, run, published, _, _ = folders
  bare = tmp_path / "bare"
  shutil.copytree(published, bare)
  (bare / "tokenizer.json").unlink()
  assert command_line.main(["import", f"--from={bare}", f"--workdir={tmp_path}/run"]) == 0
  assert "put its tokenizer.json there" in capsys.readouterr().out
  assert "No tokenizer" in refused(capsys, "generate", f"--workdir={tmp_path}/run", "--prompt=a")
  assert command_line.main(["export", f"--workdir={tmp_path}/run", f"--to={tmp_path}/again"]) == 0
  before, after = ((f / "model.safetensors").read_bytes() for f in (published, tmp_path / "again"))
  assert before == after
  shutil.copy(run / "tokenizer.json", tmp_path / "run")
  runs.read(tmp_path / "run")


def test_nothing_is_overwritten_and_nothing_half_made_is_left(folders, tmp_path, capsys):
  _, run, published, imported, _ = folders
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "thesis.txt").write_text("mine")
  (tmp_path / "file").write_text("mine")
  for target, message in (("full", "is not empty"), ("file", "found a file")):
    there = tmp_path / target
    assert message in refused(capsys, "import", f"--from={published}", f"--workdir={there}")
    assert message in refused(capsys, "export", f"--workdir={run}", f"--to={there}")
  assert "is not empty" in refused(capsys, "import", f"--from={published}", f"--workdir={imported}")
  new = f"{tmp_path}/new"
  assert "there is none" in refused(capsys, "import", "--from=nowhere", f"--workdir={new}")
  assert "there is none" in refused(capsys, "export", "--workdir=nowhere", f"--to={new}")
  message = refused(capsys, "export", f"--workdir={run}", f"--to={new}", "--step=7")
  assert "No checkpoint of step 7" in message
  assert "overrides" in refused(
    capsys, "export", f"--workdir={run}", f"--to={new}", "--config.seed=1"
  )
  assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]
  assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["thesis.txt"]


def test_a_run_of_no_published_family_is_refused_by_what_it_has_too_much(folders, tmp_path, capsys):
  run = tmp_path / "run"
  shutil.copytree(folders[1], run)
  config = json.loads((run / "config.json").read_text())
  config["model"]["logit_soft_cap"] = 30.0
  (run / "config.json").write_text(json.dumps(config))
  message = refused(capsys, "export", f"--workdir={run}", f"--to={tmp_path}/out")
  assert "nearest is llama" in message
  assert "logit_soft_cap 30.0" in message


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(folders, tmp_path, capsys):
  _, _, published, _, _ = folders
  tokenizer = json.loads((published / "tokenizer.json").read_text())
  words = [f"<{i}>" for i in range(300)]
  tokenizer["added_tokens"] += [
    {**tokenizer["added_tokens"][0], "id": 257 + i, "content": word} for i, word in enumerate(words)
  ]
  (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
  flags = [f"--tokenizer={tmp_path}/tokenizer.json", f"--workdir={tmp_path}/new"]
  message = refused(capsys, "import", f"--from={published}", *flags)
  assert "the tokenizer has 557 ids" in message
