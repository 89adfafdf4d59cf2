"""Runs that answer with texts or spans, from the command line: trained, scored, asked."""

import json

import pytest

from llm_jax import command_line
from llm_jax.errors import UserError
from llm_jax.evaluation import jobs


def lines(folder, name, rows):
  (folder / name).write_text("".join(f"{row}\n" for row in rows))
  return str(folder / name)


def test_a_decoder_is_trained_on_pairs_scored_and_asked(tmp_path, capsys):
  texts = ["ab", "ba", "aab", "abb", "b a", "a b"]
  paths = [lines(tmp_path, name, texts) for name in ("source.txt", "target.txt")]
  run = f"--workdir={tmp_path / 'run'}"
  argv = ["train", "--config=experiments/multi30k/decoder.py:tiny", run, "--quiet"]
  assert command_line.main([*argv, f"--config.data.path={','.join(paths)}"]) == 0
  asked = ["evaluate", run, f"--data={','.join(paths)}", "--num-beams=2", "--limit=3"]
  assert command_line.main([*asked, f"--json={tmp_path / 'result.json'}"]) == 0
  result = json.loads((tmp_path / "result.json").read_text())
  assert result["task"] == "prefix_answer"
  scores = result["scores"]
  assert (
    scores["examples"] == 3 and scores["num_beams"] == 2 and "tok:13a" in scores["bleu_signature"]
  )
  assert [sample["source"] for sample in scores["samples"]] == texts[:3]
  capsys.readouterr()
  asked = ["generate", run, "--prompt=ab", "--max-new-tokens=4", "--temperature=0"]
  assert command_line.main(asked) == 0
  assert "ab" not in capsys.readouterr().out[:2]  # an answer stands alone


def test_a_run_that_finds_answers_is_scored_beside_a_random_one(tmp_path):
  def paragraph(number):
    context = f"x{number}y"
    answer = {"text": f"{number}", "answer_start": 1}
    return {"context": context, "qas": [{"id": f"{number}", "question": "?", "answers": [answer]}]}

  data = {"data": [{"paragraphs": [paragraph(number) for number in range(8)]}]}
  file = lines(tmp_path, "questions.json", [json.dumps(data)])
  run = tmp_path / "run"
  argv = ["train", "--config=experiments/xquad/encoder.py:tiny", f"--workdir={run}", "--quiet"]
  argv.append("--config.objective_options.max_answer_length=2")
  assert command_line.main([*argv, f"--config.data.path={file}"]) == 0
  found = jobs.evaluate(run)
  assert found["examples"] == 2 and found["data"] == "validation"
  assert 0 <= found["exact_match"] <= found["f1"] <= 1
  assert 0 < found["baseline"]["exact_match"] < 1
  with pytest.raises(UserError, match="generates no text: num_beams"):
    jobs.evaluate(run, num_beams=4)
