"""Task scores against numbers worked out by hand, and the tasks and results that come of them."""

import json

import numpy as np
import pytest

from llm_jax.errors import UserError
from llm_jax.evaluation import result_file, scores, tasks


def test_classification_scores_are_those_of_the_table():
  actual, predicted = ["a", "a", "a", "b", "b", "c"], ["a", "a", "b", "b", "a", "a"]
  found = scores.classification(predicted, actual, positive="a")
  assert found["accuracy"] == pytest.approx(3 / 6)
  assert found["f1"] == pytest.approx(2 * 2 / (4 + 3))
  assert found["f1_macro"] == pytest.approx((4 / 7 + 2 / 4 + 0) / 3)  # c was never found
  two = scores.classification([1, 1, 0, 0, 1], [1, 0, 0, 0, 1], positive=1)
  assert two["matthews"] == pytest.approx((2 * 2 - 1 * 0) / np.sqrt(3 * 2 * 3 * 2))
  assert scores.classification([1, 1], [1, 1])["matthews"] == 0  # and no warning


def test_an_entity_counts_if_its_type_and_both_its_ends_are_right():
  actual = [["B-PER", "I-PER", "O", "B-LOC", "O"], ["O", "B-LOC"]]
  predicted = [["B-PER", "I-PER", "O", "I-LOC", "O"], ["B-PER", "B-LOC"]]
  found = scores.entities(predicted, actual)  # the lone I-LOC is none
  assert (found["precision"], found["recall"]) == pytest.approx((2 / 3, 2 / 3))
  assert found["types"]["PER"] == pytest.approx(
    {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 1}
  )
  assert found["types"]["LOC"]["recall"] == 0.5
  short = [["B-PER", "O", "O", "B-LOC", "O"], ["O", "B-LOC"]]
  assert scores.entities(short, actual)["types"]["PER"]["f1"] == 0  # an end is wrong
  assert scores.entities([["O"]], [["O"]]) == {"precision": 0, "recall": 0, "f1": 0, "types": {}}


def test_answers_are_compared_as_in_squad():
  assert scores.normal_form("  The Quick,  brown-ish AN  fox! ") == "quick brownish fox"
  exact = scores.answers(["the Eiffel Tower."], [["a tower", "Eiffel tower"]])
  assert exact == {"exact_match": 1, "f1": 1}
  part = scores.answers(["in Paris, France", ""], [["Paris", "Lyon"], ["x"]])
  assert part == {"exact_match": 0, "f1": pytest.approx((2 * 1 / (3 + 1)) / 2)}
  twice = scores.answers(["new new"], [["new york new"]])
  assert twice["f1"] == pytest.approx(4 / 5)  # words count as often as they occur


def test_translations_are_scored_with_their_signatures():
  right = ["The cat sat on the mat today.", "A dog barked at me twice."]
  found = scores.translation(right, [right[:1], [right[1], "Another reference."]])
  assert (found["bleu"], found["chrf"]) == pytest.approx((100, 100))
  assert "tok:13a" in found["bleu_signature"]
  assert "nc:6" in found["chrf_signature"]
  half = scores.translation(["The cat sat on the mat."], ["The cat sat on a mat."])
  precisions = (6 / 7, 4 / 6, 2 / 5, 1 / 4)
  assert half["bleu"] == pytest.approx(100 * np.prod(precisions) ** 0.25)


def test_summaries_take_the_reference_that_fits_best():
  found = scores.summaries(["the cat sat"], [["dogs", "the cat lay"]])
  assert found["rouge1"] == pytest.approx(2 / 3)
  assert found["rouge2"] == pytest.approx(1 / 2)
  assert found["rougeL"] == found["rougeLsum"] == pytest.approx(2 / 3)


def test_similarity_is_the_correlation_of_the_cosines():
  a = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [0.0, 0.0]])
  b = np.array([[3.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])  # cosines 1, 0, sqrt(1/2), 0
  found = scores.similarity(a, b, [5, 1, 4, 1])
  assert found["cosine"] == pytest.approx((1 + np.sqrt(0.5)) / 4)
  assert found["spearman"] == pytest.approx(1)
  assert found["pearson"] == pytest.approx(np.corrcoef([1, 0, np.sqrt(0.5), 0], [5, 1, 4, 1])[0, 1])


@pytest.mark.parametrize(
  ("score", "arguments", "message"),
  [
    (scores.classification, ([], []), "at least one"),
    (scores.classification, (["a"], ["a", "b"]), "found 1 and 2"),
    (scores.classification, (["a"], ["b"], "c"), "positive label 'c'"),
    (scores.entities, ([["O"]], [["O", "O"]]), "Sentence 0 has 2 tags"),
    (scores.entities, ([["PER"]], [["O"]]), "'PER'"),
    (scores.answers, (["a"], [[]]), "Example 0 has no reference"),
    (scores.translation, ([], []), "at least one"),
    (scores.summaries, (["a"], []), "found 1 and 0"),
    (scores.similarity, ([[1.0]], [[1.0]], [1, 2]), r"\(1, 1\)"),
    (scores.similarity, ([[1.0], [2.0]], [[1.0], [1.0]], [1, 2]), "No correlation"),
    (scores.similarity, ([[1.0], [np.nan]], [[1.0], [1.0]], [1, 2]), "not finite"),
  ],
)
def test_what_cannot_be_scored_is_refused(score, arguments, message):
  with pytest.raises(UserError, match=message):
    score(*arguments)


CHOICE = '{"context": "a", "choices": ["b", "c"], "answer": 1}\n'


def test_a_task_file_is_read_by_the_names_of_its_fields(tmp_path):
  path = tmp_path / "task.jsonl"
  path.write_text(CHOICE + "\n" + CHOICE)
  assert tasks.read(path) == ("multiple_choice", [json.loads(CHOICE)] * 2)
  assert len(tasks.read(path, limit=1)[1]) == 1
  path.write_text('{"text": "two words"}\n')
  assert tasks.read(path)[0] == "last_word"


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "holds no examples"),
    (CHOICE + "{oops\n", "line 2 is no JSON"),
    ('{"contxt": "a"}', "line 1 is no example .* found contxt"),
    ("[1]", "found list"),
    (CHOICE + '{"prompt": "a", "references": ["b"]}', "line 2 should have context, choices"),
    (CHOICE + CHOICE.replace("1}", "2}"), "line 2: answer .* 0 to 1; found 2"),
    (CHOICE.replace("1}", "-1}"), "found -1"),
    (CHOICE.replace('"c"', '""'), "choices must be a list of texts, none empty"),
    ('{"prompt": " ", "references": ["b"]}', "prompt must be a text"),
    ('{"prompt": "a", "references": []}', "references must be a list"),
    ('{"prompt": "a", "references": ["b"], "stop": "x"}', "stop must be a list"),
    ('{"text": "word"}', "at least two words"),
  ],
)
def test_a_bad_line_of_a_task_is_named(text, message, tmp_path):
  path = tmp_path / "task.jsonl"
  path.write_text(text)
  with pytest.raises(UserError, match=message):
    tasks.evaluate(tmp_path / "no_run", path)


def test_an_unknown_task_or_metric_is_refused_before_anything_is_read(tmp_path):
  with pytest.raises(UserError, match="No task file at 'lambda'"):
    tasks.evaluate(tmp_path, "lambda")
  (tmp_path / "task.jsonl").write_text(CHOICE)
  with pytest.raises(UserError, match="Did you mean 'bleu'"):
    tasks.evaluate(tmp_path, tmp_path / "task.jsonl", metrics=["blue"])
  with pytest.raises(UserError, match="limit"):
    tasks.evaluate(tmp_path, tmp_path / "task.jsonl", limit=0)


def test_text_ends_before_the_first_stop_string():
  assert tasks.before("one. two\nthree", ["\n", ". "]) == "one"
  assert tasks.before("one", ["x"]) == "one"


def test_a_result_tells_its_command_and_versions(tmp_path):
  found = result_file.result("a b/c", {"acc": 0.5}, ["evaluate", "--task=a b"], data="x")
  assert result_file.write(tmp_path, found) == tmp_path / "evaluation-a_b_c.json"
  stored = json.loads((tmp_path / "evaluation-a_b_c.json").read_text())
  assert stored == found
  assert (stored["scores"], stored["data"]) == ({"acc": 0.5}, "x")
  assert stored["command"] == "python launch.py evaluate '--task=a b'"
  assert {"python", "jax", "flax", "sacrebleu", "scikit-learn"} <= stored["versions"].keys()
  result_file.write(tmp_path / "new" / "file.json", found)
  assert (tmp_path / "new" / "file.json").exists()
  with pytest.raises(UserError, match="--json=FILE"):
    result_file.write(tmp_path / "new" / "file.json" / "below.json", found)
