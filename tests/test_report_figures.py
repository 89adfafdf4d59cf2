"""The report's figures as files of their own, and the grids of several weight decays."""

import json

from llm_jax.analysis import prose, report, results
from tests.test_report import MODELS, write_comparison


def test_each_figure_is_a_file_too(tmp_path):
  write_comparison(tmp_path)
  html = report.write(tmp_path).read_text()
  figures = {path.name for path in (tmp_path / "figures").iterdir()}
  some = {"scores.svg", "scores.pdf", "curve-step.svg", "grid-lstm.pdf", "cost-state.svg"}
  assert some <= figures
  assert len(figures) == 2 * html.count("<svg viewBox")


def test_the_grid_of_each_weight_decay_is_a_line(tmp_path):
  comparison = write_comparison(tmp_path)
  for entry in comparison["architectures"]:
    entry["grid"] += [row | {"weight_decay": 0.015} for row in entry["grid"]]
    entry["weight_decay"] = 0.1
  (tmp_path / "comparison.json").write_text(json.dumps(comparison))
  found = results.gather(tmp_path)
  assert list(found.architectures["lstm"].grid) == [0.015, 0.1]
  assert "the weight decay of 0.015 and 0.1" in dict(prose.method(found))["Learning rate"]
  # One label an architecture and line, and in the words for those who do not see.
  html = report.render(found)
  assert html.count(">0.015<") == len(MODELS) == html.count("Weight decay 0.015: ")
