"""`launch.py generate`: prompts in, texts or JSON out, and what imported runs know of it."""

import io
import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llm_jax
from llm_jax import command_line, exchange
from llm_jax.config import base
from llm_jax.data import tokenizers
from llm_jax.inference import settings
from llm_jax.inference.generate import generate
from llm_jax.models.build import abstract_params
from llm_jax.models.spec import model_config
from llm_jax.training import runs
from tests.parity import bart, harness


@pytest.fixture(scope="module")
def run():
  """A random model of bytes, as `runs.read` would hand it out."""
  sizes = {"vocab_size": 257, "d_model": 16, "max_length": 48}
  model = llm_jax.build(model_config(pattern=("gru",), positions="learned", **sizes))
  draw = np.random.default_rng(0).normal
  params = jax.tree.map(
    lambda a: jnp.asarray(draw(size=a.shape), "float32"), abstract_params(model)
  )
  tokenizer = tokenizers.get(types.SimpleNamespace(name="byte", vocab_size=0), [])
  parts = {"model": model, "params": params, "tokenizer": tokenizer, "config": base()}
  return types.SimpleNamespace(**parts)


@pytest.fixture
def command(run, monkeypatch, tmp_path, capsys):
  """The output of the verb with these flags, and what it exited with."""
  monkeypatch.setattr(runs, "read", lambda folder, step: run)

  def call(*flags, code=0):
    argv = ["generate", f"--workdir={tmp_path}", "--max-new-tokens=9", *flags]
    assert command_line.main(argv) == code
    return capsys.readouterr().out if code == 0 else capsys.readouterr().err

  return call


def text_of(run, prompts, **options):
  return generate(
    run.model, run.params, prompts, tokenizer=run.tokenizer, max_new_tokens=9, **options
  )


def test_prompts_come_from_flags_a_file_and_standard_input(run, command, tmp_path, monkeypatch):
  (tmp_path / "prompts").write_text("b\n\nüc\n")
  greedy = ["--temperature=0", "--json"]
  lines = command("--prompt=a", f"--prompts-file={tmp_path}/prompts", "--batch-size=2", *greedy)
  lines = [json.loads(line) for line in lines.splitlines()]
  assert [line["prompt"] for line in lines] == ["a", "b", "", "üc"]
  assert [line["texts"] for line in lines] == [[t] for t in text_of(run, ["a", "b", "", "üc"])]
  for line in lines:
    assert [len(row) for row in line["log_probs"]] == [len(row) for row in line["ids"]]
  stdin = types.SimpleNamespace(buffer=io.BytesIO(b"a\nb"))
  monkeypatch.setattr("sys.stdin", stdin)
  again = [json.loads(line) for line in command("--prompts-file=-", *greedy).splitlines()]
  assert [line["ids"] for line in again] == [line["ids"] for line in lines[:2]]


def test_texts_stand_under_headings_and_a_single_one_alone(run, command):
  [text] = text_of(run, ["a"])
  assert command("--prompt=a", "--temperature=0") == f"a{text}\n"
  samples = text_of(
    run, ["a"], method="sample", top_k=5, num_return_sequences=2, seed=3, top_p=0.95
  )
  flags = ["--num-samples=2", "--top-k=5", "--temperature=1", "--seed=3"]
  heading = "--- text {} of 2 ---\na{}\n"
  assert (
    command("--prompt=a", *flags)
    == "\n".join(heading.format(i + 1, text) for i, text in enumerate(samples)) + "\n"
  )
  found = json.loads(command("--prompt=a", "--num-beams=3", "--num-samples=2", "--json"))
  assert found["texts"] == text_of(run, ["a"], method="beam", num_beams=3, num_return_sequences=2)
  assert found["scores"][0] > found["scores"][1]


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ([], "No prompt. Give --prompt=TEXT"),
    (["--prompts-file=nowhere"], "--prompts-file=nowhere: expected a text file"),
    (["--prompt=a", "--num-beams=2", "--top-p=0.9"], "--top-p is of sampling"),
    (["--prompt=a", "--length-penalty=2"], "--length-penalty is of beam search"),
    (["--prompt=a", "--logit-bias=x"], "--logit-bias=x: expected ID=X"),
    (["--prompt=a", "--logit-bias=999=1"], "logit_bias has token 999"),
    (["--prompt=a", "--batch-size=0"], "--batch-size must be at least 1"),
    (["--prompt=a", "--prompt=" + "b" * 48], "Prompt 1 has 49 tokens"),
    (["--prompt=a", "--temperature=0", "--num-samples=2"], "Use method='sample' or"),
  ],
)
def test_a_mistake_is_told_before_anything_is_shown(command, flags, message):
  assert message in command(*flags, code=2)


def test_what_a_checkpoint_says_of_decoding_holds(run, command, tmp_path):
  path = tmp_path / settings.FILE
  says = {"eos_token_id": [65, 66], "suppress_tokens": None, "bad_words_ids": [[70], [71]]}
  path.write_text(json.dumps({**says, "forced_eos_token_id": 66, "num_beams": 4}))
  assert settings.read(tmp_path) == {
    "eos_token_id": [65, 66],
    "suppress_tokens": [70, 71],
    "forced_eos_token_id": 66,
  }
  found = json.loads(command("--prompt=a", "--temperature=0", "--json"))
  assert found["ids"][0][-1] == 66 and not {70, 71} & set(found["ids"][0])
  path.write_text('{"bad_words_ids": [[1, 2]]}')
  assert "several tokens (bad_words_ids)" in command("--prompt=a", code=2)
  path.write_text("[")
  assert "is no JSON" in command("--prompt=a", code=2)


def test_what_a_checkpoint_says_of_decoding_is_imported_and_exported(tmp_path):
  published = tmp_path / "published"
  shutil.copytree(harness.folder_of(bart.CASES[0]), published)
  config = json.loads((published / "config.json").read_text())
  (published / "config.json").write_text(json.dumps(config | {"forced_eos_token_id": 2}))
  exchange.import_run(published, tmp_path / "old")
  assert settings.read(tmp_path / "old")["forced_eos_token_id"] == 2
  says = {"eos_token_id": [2, 5], "forced_bos_token_id": 0, "num_beams": 4}
  (published / settings.FILE).write_text(json.dumps(says))
  exchange.import_run(published, tmp_path / "run")
  exchange.export_run(tmp_path / "run", tmp_path / "out")
  found = json.loads((tmp_path / "out" / settings.FILE).read_text())
  assert found == says | {"decoder_start_token_id": 2}
