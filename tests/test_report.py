"""The comparison's report, on a made-up comparison of seven architectures of which one failed."""

import csv
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from llm_jax.analysis import panels, prose, report, results, words
from llm_jax.errors import UserError

STEPS, TOKENS_A_STEP = 300, 16 * 128
# Name: title, bits per byte, tokens/s, MFLOP a token, state bytes (fixed, a token), learning rate.
MODELS = {
  "gpt2": ("GPT-2", 2.452, 31000, 5.7, 0, 4096, 4e-3),
  "llama": ("Llama", 2.378, 29500, 5.9, 0, 4096, 4e-3),
  "lstm": ("LSTM", 2.561, 24000, 5.2, 6144, 0, 4e-3),
  "s5": ("S5", 2.702, 21000, 4.9, 16384, 0, 2e-3),
  "mamba": ("Mamba", 2.371, 9800, 6.1, 98304, 0, 2e-3),
  "rwkv4": ("RWKV-4", 2.449, 18800, 5.6, 12288, 0, 4e-3),
  "hybrid": ("Hybrid", 2.36, 14100, 6.0, 49152, 1024, 2e-3),
}
FAILED = "s5"
HOSTILE = '<script>alert("1 & 2")</script>'


def write_comparison(folder, models=MODELS, seeds=(0, 1), failed=(FAILED,), noise=0.006):
  """A comparison's folder with plausible numbers; returns its comparison.json."""
  generator = np.random.default_rng(0)
  shared = {seed: 0.01 * generator.normal() for seed in seeds}
  entries = []
  for name, (title, bits, speed, flops, fixed, per_token, rate) in models.items():
    stop = STEPS // 3 if name in failed else STEPS
    for seed in seeds:
      final = bits + shared[seed] + noise * generator.normal()
      lines = _metrics(final, speed, flops, stop, generator)
      _write(folder / "runs" / name / f"seed_{seed}" / "metrics.jsonl", lines)
    if name not in failed:
      _speed(folder / "speed" / f"{name}.json", speed, fixed, per_token)
      text = "The import statement is a function of the object which is not a module.\n" * 4
      sample = {"prompt": "The import statement", "text": f"{text}{HOSTILE}", "seed": 3}
      _write(folder / "samples" / f"{name}.json", [sample])
    grid = {str(r): bits + 0.35 + 0.12 * np.log2(r / rate) ** 2 for r in (1e-3, 2e-3, 4e-3, 8e-3)}
    if name == "lstm":
      grid["0.008"] = None
    grid = [{"learning_rate": float(r), "weight_decay": 0.1, "score": s} for r, s in grid.items()]
    entry = {
      "name": name,
      "title": title,
      "d_model": 8 * int(generator.integers(12, 20)),
      "parameters": int(1e6 * generator.uniform(0.96, 1.04)),
      "pattern": f"({name}, mlp) x 4",
      "train_flops_per_token": flops * 1e6,
      "learning_rate": rate,
      "grid": grid,
      "memory_bytes": int(flops * 9e7),
      "status": "failed" if name in failed else "finished",
      "seeds": list(seeds),
    }
    if name in failed:
      entry["error"] = f"ten non-finite losses in a row {HOSTILE}"
    entries.append(entry)
  comparison = {
    "version": 1,
    "command": "python launch.py compare --config=experiments/compare_quick.py --workdir=runs/q",
    "config": {
      "steps": STEPS,
      "batch_size": 16,
      "seq_len": 128,
      "dtype": "float32",
      "optimizer": {"name": "adamw", "weight_decay": 0.1, "clip_norm": 1.0},
      "schedule": {"name": "cosine", "warmup_fraction": 0.05},
      "compare": {"tuning_steps": 50, "seeds": len(seeds)},
    },
    "environment": {
      "python": "3.11.2",
      "packages": {"jax": "0.10.2", "flax": "0.12.8"},
      "cpu": "Intel(R) Xeon(R) CPU @ 2.20GHz",
      "cpu_count": 2,
      "backend": "cpu",
      "devices": ["cpu"],
    },
    "corpus": {
      "name": "Python's documentation",
      "sha256": "9f" * 32,
      "train_bytes": 2_010_233,
      "validation_bytes": 104_221,
      "train_documents": 6120,
      "validation_documents": 322,
    },
    "tokenizer": {"name": "bpe", "vocab_size": 1024, "sha256": "ab" * 32},
    "byte_model": {"1": 3.77, "2": 2.85, "3": 2.26},
    "architectures": entries,
    "target_parameters": 1_000_000,
    "tolerance": 0.05,
  }
  _write(folder / "comparison.json", [comparison])
  return comparison


def _metrics(final, speed, flops, stop, generator):
  """Lines of one run whose loss falls as a power of the step to the given bits per byte."""
  lines = []
  for step in range(10, stop + 1, 10):
    loss = 1.75 * final * (step / STEPS) ** -0.16 + 0.03 * generator.normal()
    tokens = step * TOKENS_A_STEP
    lines.append(
      {
        "split": "train",
        "step": step,
        "loss": loss,
        "tokens": tokens,
        "flops": tokens * flops * 1e6,
        "seconds": tokens / speed,
        "tokens_per_second": speed * (1 + 0.02 * generator.normal()),
      }
    )
  if stop < STEPS:  # as a loss that is no number is written
    lines.append({"split": "train", "step": stop + 10, "loss": None})
  lines.append({"split": "validation", "step": stop, "loss": 1.75 * final, "bits_per_byte": final})
  return lines


def _speed(path, speed, fixed, per_token):
  contexts = []
  for context in (128, 256, 512, 1024, 2048, 4096, 8192):
    slowing = 1 + context * per_token / 4e6
    contexts.append(
      {
        "context": context,
        "prefill_tokens_per_second": 3 * speed / slowing,
        "decode_tokens_per_second": speed / 40 / slowing,
        "state_bytes": fixed + per_token * context,
        "state_bytes_analytic": fixed + per_token * context,
      }
    )
  measured = {"batch": 1, "contexts": contexts, "train_tokens_per_second": 1.7 * speed}
  _write(path, [measured])


def _write(path, lines):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))


class Page(HTMLParser):
  """Checks that every element is closed, and gathers ids, references and table rows."""

  VOID = ("meta", "br", "hr", "img", "link")

  def __init__(self, text):
    super().__init__()
    self.open, self.ids, self.references, self.rows, self.text = [], [], [], [], ""
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attributes):
    self._note(tag, dict(attributes))
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self._note(tag, dict(attributes))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data
    if "td" in self.open or {"tbody", "th"} <= set(self.open):
      self.rows[-1].append(("strong" if "strong" in self.open else "", data))

  def _note(self, tag, attributes):
    assert tag not in ("script", "link", "iframe", "img", "object")
    if tag == "tr":
      self.rows.append([])
    if "id" in attributes:
      self.ids.append(attributes["id"])
    for value in attributes.values():
      self.references += re.findall(r"url\(#([^)]+)\)", value or "")
    if attributes.get("href"):
      assert attributes["href"].startswith("#"), "the page must fetch nothing"
      self.references.append(attributes["href"][1:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A comparison's folder with its report written."""
  path = tmp_path_factory.mktemp("comparison")
  write_comparison(path)
  assert report.write(path) == path / "report.html"
  return path


@pytest.fixture(scope="module")
def html(folder):
  """The page's text."""
  return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_is_whole_small_and_fetches_nothing(html):
  page = Page(html)
  assert len(html) < 600_000
  assert len(page.ids) == len(set(page.ids))
  assert page.references and set(page.references) <= set(page.ids)
  assert "url(" not in re.sub(r"url\(#", "", html) and "@import" not in html


def test_text_from_the_runs_is_shown_and_never_becomes_markup(html):
  assert HOSTILE not in html
  assert Page(html).text.count(HOSTILE) == len(MODELS)  # six samples and an error


def test_figures_take_the_page_s_ink_and_say_what_they_show(html):
  pictures = re.findall(r"<svg viewBox.*?</svg>", html, flags=re.DOTALL)
  assert len(pictures) == 1 + 4 + 7 + 3 + 3
  for picture in pictures:
    assert 'role="img"' in picture and re.search(r'aria-label="[^"]{40,}"', picture)
    assert "currentColor" in picture and "#000000" not in picture and "#010203" not in picture
    assert "<text" in picture and "<metadata" not in picture and "<style" not in picture
  # Six ranked architectures with two seeds each, and seven keys beside the names.
  scores = pictures[0]
  clipped = re.findall(r"<g clip-path[^>]*>(.*?)</g>", scores, flags=re.DOTALL)
  assert sum(group.count("<use") for group in clipped) == 12


def test_only_what_the_best_cannot_be_told_apart_from_is_bold(folder, html):
  compared = results.gather(folder).statistics
  assert set(compared.best_group) == {"hybrid", "mamba", "llama"}
  bold = [row[0][1] for row in Page(html).rows if any(mark for mark, _ in row)]
  assert bold == [MODELS[name][0] for name in compared.best_group]


def test_the_table_of_values_says_the_same_as_the_runs(folder):
  with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
    reader = csv.DictReader(file)
    rows = list(reader)
  assert reader.fieldnames[0] == "architecture"
  assert [row["architecture"] for row in rows][-1] == FAILED
  ranked = [float(row["bits_per_byte"]) for row in rows[:-1]]
  assert ranked == sorted(ranked)
  for row in rows[:-1]:
    seeds = [float(row[f"bits_per_byte_seed_{seed}"]) for seed in (0, 1)]
    assert float(row["bits_per_byte"]) == pytest.approx(np.mean(seeds))
    assert float(row["bits_per_byte_spread"]) == pytest.approx(np.std(seeds, ddof=1))
    _, _, speed, _, fixed, per_token, rate = MODELS[row["architecture"]]
    assert float(row["tokens_per_second"]) == pytest.approx(1.7 * speed)
    assert float(row["state_bytes_8192"]) == fixed + 8192 * per_token
    assert float(row["learning_rate"]) == rate
  assert rows[-1]["status"] == "failed" and rows[-1]["bits_per_byte"] == ""


def test_a_failed_architecture_is_shown_as_failed_and_not_ranked(folder, html):
  found = results.gather(folder)
  assert [a.name for a in found.unranked] == [FAILED]
  assert FAILED not in found.statistics.summaries
  assert "S5 failed after step 110 and is not ranked" in prose.finding(found)[1]
  assert "S5 (failed)" in html


def test_a_seed_that_did_not_finish_takes_its_architecture_out_of_the_ranking(tmp_path):
  write_comparison(tmp_path)
  file = tmp_path / "runs" / "mamba" / "seed_1" / "metrics.jsonl"
  # The last line is the score; what a kill leaves of it is no score.
  file.write_text(file.read_text()[:-20])
  found = results.gather(tmp_path)
  assert found.architectures["mamba"].note == "unfinished at step 300"
  assert "mamba" not in found.statistics.summaries
  page = report.render(found)
  assert "Hollow marks" in page and "unfinished at step 300" in page


def finding_of(folder, bits, **options):
  """The two sentences about architectures a, b, ... with these bits per byte."""
  models = {
    name: (name.upper(), value, *MODELS["gpt2"][2:])
    for name, value in zip("abcdefgh", bits, strict=False)
  }
  write_comparison(folder, models, **{"failed": (), **options})
  found = results.gather(folder)
  assert Page(report.render(found))
  return prose.finding(found)


def test_the_finding_names_a_best_only_when_there_is_one(tmp_path):
  first, second = finding_of(tmp_path, [2.5, 2.3, 2.6, 2.8], noise=0.001)
  assert "B predicts held-out text best" in first and "D is last at" in first
  assert "every pair of architectures differs by more" in second


def test_the_finding_claims_no_order_among_equals(tmp_path):
  first, second = finding_of(tmp_path, [2.5] * 5, noise=0.01)
  assert "the five architectures cannot be told apart" in first
  assert "so all ten pairs stay undecided" in second
  assert "best" not in first + second and "last" not in first + second
  assert "Nothing is bold" in report.render(results.gather(tmp_path))


def test_the_finding_ties_the_last_ones_too(tmp_path):
  first, second = finding_of(tmp_path, [2.3, 2.3, 2.8, 2.8], noise=0.002)
  assert "cannot be told apart from it" in first
  assert "are last, level with each other" in first
  assert "two of the six pairs stay undecided (" in second


def test_the_finding_counts_ties_that_are_too_many_to_name(tmp_path):
  first, second = finding_of(tmp_path, [2.3] * 5 + [2.8], noise=0.001)
  assert "but four others, up to" in first and "F is last at" in first
  assert "so ten of the 15 pairs stay undecided." in second


def test_one_seed_is_said_to_decide_nothing(tmp_path):
  first, second = finding_of(tmp_path, [2.3, 2.8], seeds=(0,))
  assert "A has the lowest score" in first
  assert "none of the two architectures can be told apart" in second


@pytest.mark.parametrize("count", [1, 2])
def test_with_too_few_that_finished_nothing_is_compared(tmp_path, count):
  first, second = finding_of(tmp_path, [2.3, 2.4], failed=("a", "b")[:count])
  if count == 1:
    assert "B reaches" in first and "nothing can be compared" in second
  else:
    assert "nothing to rank" in first
  assert "A failed after step 110 and is not ranked" in second


def test_a_title_is_text_in_figures_too(tmp_path):
  title = '$x_1$ <b> & "y"'
  write_comparison(tmp_path, {"a": (title, *MODELS["gpt2"][1:])}, failed=())
  page = Page(report.write(tmp_path).read_text(encoding="utf-8"))
  # A key, the score's row, four ends of curves, a learning-rate panel, three of speeds, a sample.
  assert page.text.count(title) >= 10


def test_a_byte_model_far_from_all_scores_becomes_an_arrow(tmp_path):
  comparison = write_comparison(tmp_path)
  comparison["byte_model"]["2"] = 9.87
  _write(tmp_path / "comparison.json", [comparison])
  assert "order-2 byte model 9.87 \u2192" in report.render(results.gather(tmp_path))


def test_a_comparison_that_has_only_begun_has_a_report(tmp_path):
  bare = {"version": 1, "architectures": [{"name": "gpt2", "status": "unfinished"}]}
  _write(tmp_path / "comparison.json", [bare])
  page = Page(report.write(tmp_path).read_text(encoding="utf-8"))
  assert "gpt2 is unfinished before its first step" in page.text


def test_a_folder_without_a_comparison_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"comparison\.json"):
    report.write(tmp_path)
  assert not list(tmp_path.iterdir())


def test_the_same_comparison_gives_the_same_page(folder, html):
  assert report.render(results.gather(folder)) == html


def test_importing_the_report_does_not_import_matplotlib():
  check = "import sys, llm_jax.analysis.report; sys.exit('matplotlib' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_labels_keep_their_distance_and_move_as_little_as_they_can():
  assert panels.spread_apart([0.9, 0.1, 0.5], 0.1) == pytest.approx([0.9, 0.1, 0.5])
  assert panels.spread_apart([0.5, 0.52], 0.1) == pytest.approx([0.46, 0.56])
  assert panels.spread_apart([1.0, 1.0, 0.0], 0.1) == pytest.approx([0.9, 1.0, 0.0])


def test_numbers_are_written_plainly():
  assert [words.plain(v) for v in (8192, 0.0003, 0.004, 12.5, 1.0)] == [
    "8,192",
    "0.0003",
    "0.004",
    "12.5",
    "1",
  ]
  assert words.size(33_554_432) == "33.6 MB" and words.size(6144) == "6.1 kB"
  assert words.large(614_400) == "614,400" and words.large(2_050_000) == "2.05 million"
  assert words.log_ticks(128, 9000, 5) == [300, 1000, 3000]
  assert words.listed(["a", "b", "c"]) == "a, b and c"
