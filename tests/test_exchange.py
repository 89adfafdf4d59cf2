"""`launch.py import` and `launch.py export`: published folders as run folders, and back."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

import llm_jax
from llm_jax import command_line
from llm_jax.evaluation import perplexity
from llm_jax.inference.generate import generate
from llm_jax.models.build import abstract_params
from llm_jax.models.spec import model_config
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


def test_a_published_folder_is_no_run_and_is_told_how_to_become_one(folders, tmp_path, capsys):
  _, _, published, _, train = folders
  for verb in (["evaluate"], ["generate", "--prompt=a"], ["export", f"--to={tmp_path}/out"]):
    assert "launch.py import --from=" in refused(capsys, *verb, f"--workdir={published}")
  message = refused(capsys, *train, f"--config.init_from={published}", f"--workdir={tmp_path}/run")
  assert "launch.py import makes one" in message


def test_a_model_that_no_objective_trains_is_not_scored(folders, tmp_path, capsys):
  run = tmp_path / "run"
  shutil.copytree(folders[1], run)
  config = json.loads((run / "config.json").read_text())
  (run / "config.json").write_text(json.dumps(config | {"objective": ""}))
  assert "No objective trains a model" in refused(capsys, "evaluate", f"--workdir={run}")


NAMED = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<x>", "tokenizer_class": "T"}


@pytest.fixture(scope="module")
def answering(tmp_path_factory):
  """A published encoder-decoder with a tokenizer of words and sentinels, and its run folder."""
  folder = tmp_path_factory.mktemp("answering")
  published, run = folder / "published", folder / "run"
  config = model_config(
    kind="encoder_decoder",
    vocab_size=120,
    d_model=32,
    pattern=("attention", "cross_attention", "mlp"),
    repeats=1,
    encoder_repeats=1,
    positions="relative",
    norm="rmsnorm",
    tie_embeddings=False,
    decoder_start_id=3,
    layers={
      "attention": {"num_heads": 2, "use_bias": False, "out_bias": False, "query_scale": 1.0},
      "cross_attention": {"num_heads": 2, "use_bias": False, "query_scale": 1.0},
      "mlp": {"activation": "relu", "use_bias": False},
    },
  )
  model = llm_jax.build(config)
  draw = np.random.default_rng(0).normal
  params = jax.tree.map(
    lambda leaf: draw(size=leaf.shape).astype(np.float32), abstract_params(model)
  )
  llm_jax.save_pretrained(published, model, params)
  words = ["<pad>", "</s>", "<x>", "<start>", *(f"w{i}" for i in range(16))]
  words += [f"<extra_id_{i}>" for i in reversed(range(100))]
  definition = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<x>"))
  definition.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  definition.add_special_tokens([word for word in words if word[0] == "<"])
  definition.save(str(published / "tokenizer.json"))
  (published / "tokenizer_config.json").write_text(json.dumps(NAMED, indent=1))
  (published / "special_tokens_map.json").write_text(json.dumps({"eos_token": "</s>"}))
  assert command_line.main(["import", f"--from={published}", f"--workdir={run}"]) == 0
  return published, run


def test_a_published_tokenizers_settings_come_out_as_they_went_in(answering, tmp_path, capsys):
  published, run = answering
  assert command_line.main(["export", f"--workdir={run}", f"--to={tmp_path}/out"]) == 0
  for name in ("tokenizer_config.json", "special_tokens_map.json"):
    assert (tmp_path / "out" / name).read_bytes() == (published / name).read_bytes()
  generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
  assert generation == {"decoder_start_token_id": 3, "pad_token_id": 0, "eos_token_id": 1}


def test_an_answer_is_printed_alone_and_shows_its_sentinels(answering, capsys):
  _, run = answering
  flags = ["--prompt=w1 w2 w3", "--temperature=0", "--max-new-tokens=12"]
  assert command_line.main(["generate", f"--workdir={run}", *flags]) == 0
  there, printed = runs.read(run), capsys.readouterr().out
  [ids] = generate(
    there.model,
    there.params,
    [[*there.tokenizer.encode("w1 w2 w3"), 1]],
    max_new_tokens=12,
    eos_token_id=1,
  )
  names = [there.tokenizer._inner.id_to_token(index) for index in ids if index > 1]
  assert printed == " ".join(names) + "\n"
  assert any(name.startswith("<extra_id_") for name in names)


def test_transformers_gives_the_answers_that_we_give(answering, tmp_path):
  torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
  _, run = answering
  assert command_line.main(["export", f"--workdir={run}", f"--to={tmp_path}/out"]) == 0
  there = runs.read(run)
  sources = [[5, 9, 17, 4, 1], [12, 1], [7, 8, 40, 1]]
  found = generate(there.model, there.params, sources, max_new_tokens=10, eos_token_id=1)
  opened = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
  for source, row in zip(sources, found, strict=True):
    made = opened.generate(torch.tensor([source]), max_new_tokens=10, do_sample=False)
    assert made[0].tolist() == [3, *row]


def test_a_decoder_is_exported_with_the_tokens_around_its_texts(folders, tmp_path):
  _, run, published, _, _ = folders
  end = runs.read(run).tokenizer.end_id
  generation = json.loads((published / "generation_config.json").read_text())
  assert generation == {"bos_token_id": end, "eos_token_id": end}
  named = json.loads((published / "tokenizer_config.json").read_text())
  named |= {"bos_token": "a", "chat_template": "{{ x }}"}
  other = tmp_path / "other"
  shutil.copytree(published, other)
  (other / "tokenizer_config.json").write_text(json.dumps(named))
  imported, out = tmp_path / "run", tmp_path / "out"
  assert command_line.main(["import", f"--from={other}", f"--workdir={imported}"]) == 0
  assert runs.read(imported).tokenizer.begin_id == ord("a")
  assert command_line.main(["export", f"--workdir={imported}", f"--to={out}"]) == 0
  generation = json.loads((out / "generation_config.json").read_text())
  assert generation == {"bos_token_id": ord("a"), "eos_token_id": end}
  assert json.loads((out / "tokenizer_config.json").read_text()) == named


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
