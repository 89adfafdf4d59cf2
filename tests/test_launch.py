"""The command line: what a user may get wrong, and what launch answers.

Each mistake gets one message that says what was expected and found, exit code 2, no traceback, and
leaves what was there as it was.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from llm_jax import command_line, config

ROOT = pathlib.Path(__file__).resolve().parent.parent
GPT2 = f"--config={ROOT}/experiments/gpt2.py:tiny"
QUICK = f"--config={ROOT}/experiments/compare_quick.py:tiny"


def refused(capsys, *argv):
  """The one line on stderr of a command that must be refused."""
  assert command_line.main(list(argv)) == 2
  captured = capsys.readouterr()
  assert captured.out == ""
  assert "Traceback" not in captured.err
  last = captured.err.strip().split("\n")[-1]
  return captured.err[captured.err.rindex("error: ") :] if "error: " in captured.err else last


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A finished tiny run on a text of its own."""
  folder = tmp_path_factory.mktemp("launch")
  text = folder / "text.txt"
  text.write_text("\n\n".join(f"Paragraph {i} speaks of {i * i} things." * 4 for i in range(60)))
  workdir = folder / "run"
  argv = ["train", GPT2, f"--workdir={workdir}", f"--config.data.path={text}", "--quiet"]
  argv.append("--config.eval.batches=0")
  assert command_line.main(argv) == 0
  return text, workdir, argv


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["trian"], "Did you mean 'train'"),
    (["train", f"--config={ROOT}/experiments/gpt3.py"], "experiments/gpt2.py'?"),
    (["train", f"--config={ROOT}/experiments/gpt2.py:tyni"], "Did you mean 'tiny'"),
    (
      ["train", GPT2, "--config.optimizer.learnin_rate=1"],
      "Did you mean 'optimizer.learning_rate'",
    ),
    (["train", GPT2, "--config.steps=many"], "--config.steps=many"),
    (["train", GPT2, "--config.steps"], "needs a value"),
    (["train", GPT2, "--config.steps=0"], "steps must be 1 or more, found 0"),
    (["train", GPT2, "--config.model.pattern=('atention',)"], "Did you mean 'attention'"),
    (["train", GPT2, "--config.model.layers.attention.num_heads=5"], "not divisible by"),
    (["train", GPT2, "--config.model.norm=batchnorm"], "Unknown model.norm 'batchnorm'"),
    (["train", GPT2, "--config.model.kind=encoder"], "suits a decoder"),
    (["train", GPT2, "--config.model.heads=()"], "in model.heads"),
    (["train", GPT2, "--config.data.mixture=('a.txt','b.txt')"], "((path, weight), ...)"),
    (["train", GPT2, "--num-processes=2"], "belong together"),
    (["train", GPT2, "--config.dtype=float16"], "Unknown dtype 'float16'"),
    (["train", GPT2, "--config.objective=next_tokens"], "Did you mean 'next_token'"),
    (["train", GPT2, "--config.optimizer.name=adamx"], "Unknown optimizer 'adamx'"),
    (["train", GPT2, "--config.schedule.name=cosin"], "Did you mean 'cosine'"),
    (["train", GPT2, "--config.batch_size=12"], "batch_size must be a multiple of 8"),
    (["train", GPT2, "--config.seq_len=4096"], "seq_len is 4096"),
    (["train", GPT2, "--config.tokenizer.name=bpee"], "Did you mean 'bpe'"),
    (["train", GPT2, "--config.parallel.strategy=pmapp"], "Did you mean 'pmap'"),
    (["train", f"--config={ROOT}/experiments/compare_quick.py"], "is a comparison"),
    (["train", f"--config={ROOT}/experiments/compare_scaling.py"], "is a comparison"),
    (["sweep", f"--config={ROOT}/experiments/compare_scaling.py"], "is a comparison"),
    (["compare", GPT2], "is no comparison"),
    (["compare", QUICK, "--config.compare.seeds=0"], "compare.seeds must be at least 1"),
    (["compare", QUICK, "--config.compare.workers=-1"], "compare.workers must be at least 0"),
    (["compare", QUICK, "--config.compare.contexts=()"], "compare.contexts is empty"),
    (["compare", QUICK, "--config.compare.architectures=('gpt3',)"], "experiments/gpt2.py'?"),
    (["compare", QUICK, "--config.optimizer.name=adamx"], "Unknown optimizer 'adamx'"),
    (["compare", QUICK, "--config.optimizer.learning_rate=1"], "one of compare.learning_rates"),
    (["compare", QUICK, "--config.compare.parameters=100"], "No model.d_model gives 100"),
  ],
  ids=lambda value: value if isinstance(value, str) else " ".join(value)[-50:],
)
def test_a_mistake_gets_one_message(arguments, message, capsys, tmp_path):
  if arguments[0] != "trian":
    arguments = [*arguments, f"--workdir={tmp_path / 'run'}", "--quiet"]
  assert message in refused(capsys, *arguments)
  assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("missing.txt", None, "No data file"),
    ("empty.txt", b"", "empty"),
    ("binary.txt", bytes(range(256)) * 9, "UTF-8"),
    ("bad.jsonl", b'{"text": "one"}\n{"txt": "two"}\n', "line 2"),
  ],
)
def test_a_bad_data_file_is_named(name, content, message, capsys, tmp_path):
  path = tmp_path / name
  if content is not None:
    path.write_bytes(content)
  workdir = tmp_path / "run"
  text = refused(capsys, "train", GPT2, f"--workdir={workdir}", f"--config.data.path={path}")
  assert message in text
  assert name in text


def test_a_folder_of_another_config_is_refused_and_left_alone(trained, capsys):
  _, workdir, argv = trained
  before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
  text = refused(capsys, *argv, "--config.optimizer.learning_rate=0.5")
  assert "optimizer.learning_rate: 0.004 there, 0.5 here" in text
  assert "another --workdir" in text
  assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}


def test_a_finished_run_is_left_alone(trained):
  _, workdir, argv = trained
  before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
  assert command_line.main(argv) == 0
  assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}


def test_evaluate_prints_the_score_the_run_ended_with(trained, capsys):
  _, workdir, _ = trained
  assert command_line.main(["evaluate", f"--workdir={workdir}"]) == 0
  scores = json.loads(capsys.readouterr().out)
  [row] = [
    row
    for row in map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    if row["split"] == "validation"
  ]
  assert scores["bits_per_byte"] == pytest.approx(row["bits_per_byte"], rel=1e-5)


def test_evaluate_scores_another_text(trained, capsys, tmp_path):
  _, workdir, _ = trained
  other = tmp_path / "other.txt"
  other.write_text("zqxj ZQXJ " * 60)
  assert command_line.main(["evaluate", f"--workdir={workdir}", f"--data={other}"]) == 0
  assert json.loads(capsys.readouterr().out)["bytes"] == 600


def test_a_swapped_tokenizer_is_refused(trained, capsys, tmp_path):
  _, workdir, _ = trained
  copy = tmp_path / "copy"
  shutil.copytree(workdir, copy)
  words = json.loads((copy / "tokenizer.json").read_text())
  vocab = words["model"]["vocab"]
  a, b = list(vocab)[:2]
  vocab[a], vocab[b] = vocab[b], vocab[a]
  (copy / "tokenizer.json").write_text(json.dumps(words))
  for argv in (["evaluate"], ["generate", "--prompt=x"]):
    assert "not the tokenizer" in refused(capsys, *argv, f"--workdir={copy}")


def test_generate_streams_with_its_default_flags(trained, capsys):
  _, workdir, _ = trained
  assert command_line.main(["generate", f"--workdir={workdir}", "--prompt=Paragraph"]) == 0
  assert capsys.readouterr().out.startswith("Paragraph")


def test_generate_continues_the_prompt_and_repeats_itself_under_a_seed(trained, capsys):
  _, workdir, _ = trained
  argv = ["generate", f"--workdir={workdir}", "--prompt=Paragraph", "--max-new-tokens=12"]
  outputs = []
  for extra in ([], [], ["--seed=1"]):
    assert command_line.main(argv + extra) == 0
    outputs.append(capsys.readouterr().out)
  assert outputs[0].startswith("Paragraph")
  assert len(outputs[0]) > len("Paragraph\n")
  assert outputs[0] == outputs[1] != outputs[2]


@pytest.mark.parametrize(
  ("extra", "message"),
  [
    (["--max-new-tokens=100000"], "learned 256 positions"),
    (["--top-p=1.5"], "top_p must lie above 0"),
    (["--temperature=-1"], "temperature must be above 0"),
    (["--step=7"], "No checkpoint of step 7"),
    (["--workdir=nowhere"], "Expected a run folder"),
    (["--config.steps=3"], "the run's own config holds"),
  ],
  ids=str,
)
def test_generate_refuses_what_it_cannot_do(trained, extra, message, capsys):
  _, workdir, _ = trained
  assert message in refused(capsys, "generate", f"--workdir={workdir}", "--prompt=x", *extra)


@pytest.mark.parametrize(
  ("extra", "message"),
  [
    (["--num-beams=2"], "--num-beams and --length-penalty are for a run that answers texts"),
    (["--task=some.jsonl", "--length-penalty=2"], "that answers texts, not tasks"),
    (["--limit=3"], "--limit counts examples of a task, or records"),
  ],
  ids=str,
)
def test_evaluate_refuses_what_it_would_not_heed(trained, extra, message, capsys):
  _, workdir, _ = trained
  assert message in refused(capsys, "evaluate", f"--workdir={workdir}", *extra)


def test_help_explains_every_verb_with_an_example(capsys):
  with pytest.raises(SystemExit) as ended:
    command_line.main(["--help"])
  text = capsys.readouterr().out
  assert ended.value.code == 0
  for verb in ("compare", "train", "evaluate", "generate"):
    assert f"python launch.py {verb}" in text


def test_a_wrong_flag_exits_with_two(capsys):
  with pytest.raises(SystemExit) as ended:
    command_line.main(["generate", "--workdir=x", "--prompt=y", "--temprature=1"])
  assert ended.value.code == 2
  assert "--temprature" in capsys.readouterr().err


def test_overrides_reach_the_config():
  loaded = config.load(
    f"{ROOT}/experiments/llama.py", ["--config.model.repeats=7", "--config.data.pack=false"]
  )
  assert loaded.model.repeats == 7
  assert loaded.data.pack is False


def test_the_default_verb_compares_and_resumes(tmp_path):
  """`python launch.py` on the tiny comparison, in a process of its own, twice."""
  argv = [sys.executable, str(ROOT / "launch.py"), QUICK]
  argv.append(f"--workdir={tmp_path / 'comparison'}")
  one_device = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
  environment = os.environ | {"XLA_FLAGS": one_device, "JAX_PLATFORMS": "cpu"}

  def run():
    return subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True)

  first = run()
  assert first.returncode == 0, first.stderr
  report = tmp_path / "comparison" / "report.html"
  rows = (tmp_path / "comparison" / "results.csv").read_text().splitlines()
  assert rows[0].startswith("architecture,")
  assert len(rows) == 3
  assert "order-2 byte model" in report.read_text()
  kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "comparison" / "runs").rglob("*")}
  second = run()
  assert second.returncode == 0, second.stderr
  assert kept == {p: p.stat().st_mtime_ns for p in (tmp_path / "comparison" / "runs").rglob("*")}
