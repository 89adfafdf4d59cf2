"""The report of a comparison over tasks, on a made-up one of eight architectures and six tasks."""

import csv
import json
from xml.etree import ElementTree

import numpy as np
import pytest

from llm_jax.analysis import (
  capabilities,
  capability_method,
  capability_prose,
  capability_report,
  panels,
)
from tests import made_up_tasks
from tests.made_up_tasks import ARCHITECTURES, HOSTILE, TASKS, Task
from tests.test_report import Page

TITLES = {name: title for name, (title, _) in ARCHITECTURES.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """The whole comparison, its files and its page."""
  path = tmp_path_factory.mktemp("tasks")
  made_up_tasks.write(path)
  found = capabilities.read(path)
  capabilities.write_csv(found, path / "results.csv")
  capabilities.write_results(found, path / "results.json")
  assert capability_report.write(path) == path / "report.html"
  return path


@pytest.fixture(scope="module")
def found(folder):
  return capabilities.read(folder)


@pytest.fixture(scope="module")
def html(folder):
  return (folder / "report.html").read_text(encoding="utf-8")


def made(path, *scores, names="abcdef", **options):
  """A comparison of tasks a, b, ... with these scores of the first architectures."""
  tasks = {n: Task(f"task {n}", row) for n, row in zip(names, scores, strict=False)}
  chosen = list(ARCHITECTURES)[: len(scores[0])]
  made_up_tasks.write(path, tasks, architectures=chosen, **{"missing": {}, **options})
  return capabilities.read(path)


def test_the_page_is_whole_and_fetches_nothing(html):
  page = Page(html)
  assert len(html) < 900_000
  assert len(page.ids) == len(set(page.ids))
  assert page.references and set(page.references) <= set(page.ids)
  assert "@import" not in html and "http" not in html.replace("http://www.w3.org", "")


def test_text_from_the_runs_never_becomes_markup(html):
  assert HOSTILE not in html and Page(html).text.count(HOSTILE) == 1


def rows_of(html):
  """The capability table: by title, a dict of its texts and which of them are bold."""
  table = html[html.index('<table class="can">') :]
  rows = [row for row in Page(table[: table.index("</table>") + 8]).rows if row]
  return {
    row[0][1]: [(mark, text.strip()) for mark, text in row[1:] if text.strip()] for row in rows
  }


def test_every_score_stands_in_the_table_and_only_the_best_group_is_bold(found, html):
  rows = rows_of(html)
  assert list(rows) == [TITLES[name] for name in found.sorted]
  for name, title in TITLES.items():
    texts = [text for _, text in rows[title]]
    bold = [text for mark, text in rows[title] if mark]
    expected, strong = [], []
    for study in [*found.studies.values(), None]:
      compared = study.statistics if study else found.table.overall
      if name not in compared.summaries:
        expected.append(study.architectures[name].status if study else "\u2013")
        continue
      metric = study.metric if study else "accuracy"
      expected.append(capability_prose.score(compared.summaries[name].mean, metric))
      strong += expected[-1:] if name in compared.best_group else []
    places = [texts.index(text) for text in expected]
    assert bold == strong and len(places) == len(TASKS) + 1
  assert ("", "failed") in rows["S5"] and ("", "unfinished") in rows["RWKV-4"]


def test_a_task_that_all_solve_has_no_best(found, html):
  assert found.studies["even_pairs"].statistics.best_group == ()
  assert "all eight solve even pairs" in capability_prose.finding(found)[0]
  assert "guessing 0.50" in html


def test_what_is_solved_under_some_seeds_only_is_not_called_solved(found, html):
  assert ("", "2 of 3 solve") in rows_of(html)["LSTM"]
  first, _ = capability_prose.finding(found)
  assert "LSTM alone solves parity" in first
  assert "cycle navigation and ListOps, which none solves" in first


def test_the_finding_says_what_is_missing(found):
  _, second = capability_prose.finding(found)
  assert "S5 failed after step 200 on parity" in second
  assert "RWKV-4 is unfinished at step 200 on facts" in second
  assert "over five tasks" in second.lower()  # facts has no shares


def test_of_a_loss_the_lowest_is_best(found):
  assert found.studies["facts"].statistics.best_group[0] == "llama"
  first, _ = capability_prose.finding(found)
  assert "on facts Llama (1.8" in first and "solves, Llama" not in first


def test_among_equals_nothing_is_claimed(tmp_path):
  """Also the page: no bold, no table of who beats whom."""
  found = made(tmp_path, (0.6,) * 4, (0.4,) * 4, noise=0.05, decays=(0.1,))
  first, second = capability_prose.finding(found)
  assert "none can be told apart from the best on task a and task b" in first
  assert "over both tasks the four that finished them cannot be told apart" in second.lower()
  assert "all 12 pairs cannot be told apart" in second
  for claim in ("ahead", "alone", "highest", "best mean"):
    assert claim not in first + second
  html = capability_report.render(found)
  assert not any(mark for row in rows_of(html).values() for mark, _ in row)
  assert "Each against each" not in html


def test_pairs_are_counted_in_plain_words(tmp_path):
  equal = made(tmp_path / "equal", (0.6, 0.6), (0.4, 0.4), noise=0.05)
  assert "both pairs cannot be told apart" in capability_prose.finding(equal)[1]
  apart = made(tmp_path / "apart", (0.9, 0.2), noise=0.003)
  assert "the one pair is told apart" in capability_prose.finding(apart)[1]


def test_one_seed_decides_nothing(tmp_path):
  found = made(tmp_path, (1.0, 0.3), (0.9, 0.2), seeds=1)
  first, second = capability_prose.finding(found)
  assert "GPT-2 solves task a (at least 0.99 with the one seed there is)" in first
  assert "one seed gives no measure of the noise" in second.lower()
  assert "alone" not in first and "highest" not in second


@pytest.mark.parametrize(
  ("scores", "said"),
  [
    ((1.0, 1.0, 0.3, 0.3), "GPT-2 and Llama alone solve task a"),
    ((1.0, 0.975, 0.3, 0.3), "GPT-2 solves task a"),
    ((1.0,) * 5 + (0.3,) * 3, "all but Mamba-2, RWKV-4 and RWKV-7 solve task a"),
    ((1.0,) * 4 + (0.3,) * 4, "GPT-2, Llama, LSTM and S5 alone solve task a"),
    ((0.9, 0.3, 0.3, 0.3), "on task a, which none solves, GPT-2 (0.90) is ahead of all others"),
    ((0.9, 0.9, 0.3, 0.3), "has the best mean, but"),
  ],
)
def test_who_can_do_it(tmp_path, scores, said):
  found = made(tmp_path, scores, noise=0.02 if 0.975 in scores else 0.003)
  first, _ = capability_prose.finding(found)
  assert said in first
  assert ("alone" in said) == ("alone" in first)


def test_many_tasks_are_counted_where_they_are_too_many_to_name(tmp_path):
  rows = [tuple(0.9 if i == j else 0.2 for i in range(7)) for j in range(7)]
  tasks = {f"t{j}": Task(f"task {j}", row) for j, row in enumerate(rows)}
  made_up_tasks.write(tmp_path, tasks, missing={}, noise=0.002)
  first, _ = capability_prose.finding(capabilities.read(tmp_path))
  assert first.endswith("; the table tells of three more tasks.")


def test_without_any_finished_run_there_is_a_page(tmp_path):
  lost = {("a", "gpt2"): "failed", ("a", "llama"): "unfinished"}
  found = made(tmp_path, (0.5, 0.5), missing=lost, noise=0.0)
  first, second = capability_prose.finding(found)
  assert first == "No architecture has finished a task, so there is nothing to compare."
  assert "GPT-2 failed after step 200 on task a; Llama is unfinished" in second
  page = Page(capability_report.render(found))
  assert "failed" in page.text and "unfinished" in page.text


@pytest.mark.parametrize(
  ("kinds", "axis", "groups"),
  [
    (("length_40", "length_100"), "length", {"": [40, 100]}),
    (("pairs_8_length_64", "pairs_4_length_64"), "pairs", {"": [4, 8]}),
    (("pairs_4_length_64", "pairs_8_length_128"), "pairs", {"": [4, 8]}),
    (
      ("pairs_4_length_64", "pairs_4_length_128", "pairs_8_length_64", "pairs_8_length_128"),
      "pairs",
      {"length 64": [4, 8], "length 128": [4, 8]},
    ),
    (("name", "birth_date"), "", {}),
    (("length_500",), "length", {}),
    ((), "", {}),
  ],
)
def test_kinds_with_numbers_make_an_axis(kinds, axis, groups):
  name, found = capabilities.numbered(kinds)
  assert {words: list(row.values()) for words, row in found.items()} == groups
  assert not groups or name == axis
  assert set().union(*found.values()) <= set(kinds)


def test_the_figures_show_kinds_training_guessing_and_those_that_failed(html):
  page = Page(html)
  assert page.text.count("trained up to 40") == 3 and "trained up to 8" in page.text
  assert "S5 (failed)" in page.text
  for name in ("lengths-recall", "state-facts", "grid-cycles-lstm", "speed-state_bytes"):
    assert f'id="{name}-' in html or f"#{name}-" in html
  assert "lengths-listops" not in html  # one kind makes no line
  assert "lengths-facts" not in html


def test_each_figure_is_a_file_too(folder, html):
  pictures = html.count("<svg viewBox")
  files = {kind: sorted((folder / "figures").glob(f"*.{kind}")) for kind in ("svg", "pdf")}
  assert len(files["svg"]) == len(files["pdf"]) == pictures
  for path in files["svg"]:
    root = ElementTree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and float(root.get("width")) > 100
    assert "color: #" in root.get("style")
  assert all(path.read_bytes().startswith(b"%PDF") for path in files["pdf"])


def test_the_table_of_values_has_every_score(folder, found):
  rows = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
  kinds = sum(1 + len(task.kinds) for task in TASKS.values())
  assert len(rows) == kinds * len(ARCHITECTURES)
  [row] = [
    r
    for r in rows
    if (r["architecture"], r["task"], r["kind"]) == ("gpt2", "listops", "length_500")
  ]
  values = found.studies["listops"].statistics.summaries["gpt2"].values
  assert [float(row[f"seed_{seed}"]) for seed in range(3)] == pytest.approx(list(values))


def test_the_json_says_what_the_page_says(folder, found):
  told = json.loads((folder / "results.json").read_text())
  assert set(told["tasks"]) == set(TASKS)
  recall = told["tasks"]["recall"]
  assert recall["best_group"] == list(found.studies["recall"].statistics.best_group)
  assert len(recall["pairs"]) == 28 and recall["guessing"][""] == 0.02
  assert recall["means"]["llama"] == pytest.approx(
    np.mean(list(recall["architectures"]["llama"]["by_seed"].values()))
  )
  low, high = recall["intervals"]["mamba"]
  assert low < recall["means"]["mamba"] < high
  assert told["tasks"]["parity"]["architectures"]["s5"]["status"] == "failed"
  assert "s5" not in told["over_all_tasks"]["means"]
  assert set(told["over_all_tasks"]["aggregates"]) == set(told["over_all_tasks"]["means"])
  assert told["tasks"]["cycles"]["architectures"]["lstm"]["solved_by_seeds"] == 2


@pytest.mark.parametrize(
  ("options", "said"),
  [
    ({}, "100,000 parameters within 10 %"),
    ({"match": "flops_per_token", "flops_per_token": 2e6}, "2 million training FLOPs a token"),
    ({"match": "state_bytes", "state_bytes": 4096}, "4,096 bytes of state"),
    ({"match": "seconds", "seconds": 60.0}, "as take it 60 seconds"),
    ({"match": ""}, "The models have 99,500 parameters."),
    ({"learning_rates": [2e-3, 5e-3]}, "learning rate of 0.002 and 0.005 and the weight decay"),
    ({"tuning_steps": 77}, "in six trials of 77 steps"),
    ({"model": {"repeats": 3}}, "three repeats of its pattern"),
    ({"seeds": 4}, "four seeds a model"),
  ],
)
def test_the_methods_say_what_the_config_says(tmp_path, options, said):
  found = made(tmp_path, (0.6, 0.5), (0.4, 0.3), **options)
  text = " ".join(text for _, text in capability_method.method(found))
  assert said in text
  assert "task a (length 40, 100, 200 and 500)" in text
  assert "Steps: 400 (task a) and 800 (task b)" in text


def test_labels_move_only_where_they_meet():
  spans = [(0.0, 0.4), (0.5, 0.9), (0.1, 0.2), (0.85, 1.0), (0.3, 0.45)]
  assert panels.overlapping(spans) == [[0, 2, 4], [1, 3]]
