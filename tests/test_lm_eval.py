"""The adapter for lm-eval, on tasks in local files; without the package these tests are skipped."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from llm_jax.config import base
from llm_jax.data import tokenizers
from llm_jax.errors import UserError
from llm_jax.evaluation import likelihood, tasks
from llm_jax.models.build import abstract_params, build
from llm_jax.models.spec import model_config
from llm_jax.training import runs

pytest.importorskip("lm_eval")
# Of the packages under lm-eval, about themselves.
pytestmark = [
  pytest.mark.filterwarnings("ignore"),
]

TOKENIZER = tokenizers.get(ConfigDict({"name": "byte", "vocab_size": 0}), [])
ITEMS = [
  {"q": "two and two are", "options": ["four", "a fish", "many"], "label": 0},
  {"q": "the sky is", "options": ["blue", "under the table"], "label": 0},
  {"q": "a", "options": ["b", "c", "d", "e"], "label": 2},
]
COMMON = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: {kind}
"""
TASKS = {
  "choice": (
    "multiple_choice",
    """doc_to_text: "{{q}}"
doc_to_choice: options
doc_to_target: label
metric_list:
  - metric: acc
  - metric: acc_bytes
""",
  ),
  "rolling": (
    "loglikelihood_rolling",
    """doc_to_text: ""
doc_to_target: "{{q}}"
metric_list:
  - metric: bits_per_byte
""",
  ),
  "words": (
    "generate_until",
    """doc_to_text: "{{q}}"
doc_to_target: "{{options[0]}}"
generation_kwargs:
  until: ["e"]
  max_gen_toks: 6
metric_list:
  - metric: exact_match
""",
  ),
}


@pytest.fixture
def run(monkeypatch):
  """A run that was never trained, in place of whatever folder is read."""
  model = build(model_config(vocab_size=TOKENIZER.vocab_size, d_model=32, repeats=1))

  def draw(path, leaf):
    noise = np.random.default_rng(sum(map(ord, jax.tree_util.keystr(path)))).normal(size=leaf.shape)
    return jnp.asarray(0.3 * noise + ("scale" in str(path[-1])), jnp.float32)

  params = jax.tree_util.tree_map_with_path(draw, abstract_params(model))
  found = runs.Trained(base(), TOKENIZER, model, params, labels=(), text_sha256="")
  monkeypatch.setattr(runs, "read", lambda folder, step: found)
  return found


@pytest.fixture
def files(tmp_path, monkeypatch):
  """The tasks' files, and a cache of `datasets` in a folder of its own."""
  monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
  data = tmp_path / "items.jsonl"
  data.write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
  for name, (kind, rest) in TASKS.items():
    text = COMMON.format(name=f"local_{name}", data=data, kind=kind) + rest
    (tmp_path / f"{name}.yaml").write_text(text)
  return tmp_path


def test_lm_eval_finds_what_our_own_scores_are(run, files):
  loaded = (run.model, run.params, run.tokenizer)
  items = [(i["q"], [" " + o for o in i["options"]], i["label"]) for i in ITEMS]
  ours = likelihood.multiple_choice(*loaded, items)
  found = tasks.evaluate("", files / "choice.yaml")
  assert found["acc,none"] == pytest.approx(ours["acc"])
  assert found["examples"] == 3
  assert tasks.evaluate("", files / "choice.yaml", limit=1)["examples"] == 1
  nats = likelihood.rolling(*loaded, [item["q"] for item in ITEMS])
  num_bytes = sum(len(item["q"]) for item in ITEMS)
  rolling = tasks.evaluate("", files / "rolling.yaml")["bits_per_byte,none"]
  assert rolling == pytest.approx(-sum(nats) / np.log(2) / num_bytes, rel=1e-6)


def test_requests_are_answered_in_their_own_order(run, files):
  from lm_eval.api.instance import Instance

  from llm_jax.evaluation.harness_adapter import Adapter

  adapter = Adapter(run)

  def requests(kind, *arguments):
    return [Instance(kind, {}, args, index) for index, args in enumerate(arguments)]

  pairs = [("ab", "c"), ("a much longer context", " and more"), ("", "x")]
  found = adapter.loglikelihood(requests("loglikelihood", *pairs))
  alone = [adapter.loglikelihood(requests("loglikelihood", pair))[0] for pair in pairs]
  np.testing.assert_allclose([nats for nats, _ in found], [nats for nats, _ in alone], rtol=1e-5)
  assert len({round(nats, 3) for nats, _ in found}) == 3
  long, short = {"until": [], "max_gen_toks": 8}, {"until": "\n", "max_gen_toks": 2}
  prompts = [("one", long), ("a second", short), ("three", long)]
  texts = adapter.generate_until(requests("generate_until", *prompts))
  assert texts == [adapter.generate_until(requests("generate_until", p))[0] for p in prompts]
  stop = {"until": [texts[0][1]], "max_gen_toks": 8}
  [stopped] = adapter.generate_until(requests("generate_until", ("one", stop)))
  assert stopped == texts[0][: texts[0].index(texts[0][1])]
  letters = set(filter(str.isascii, texts[0]))
  forbidden = Adapter(run, {"suppress_tokens": TOKENIZER.encode("".join(letters))})
  [other] = forbidden.generate_until(requests("generate_until", ("one", long)))
  assert letters and other and not letters & set(other)
  with pytest.raises(UserError, match="num_beams"):
    adapter.generate_until(requests("generate_until", ("a", {"num_beams": 4})))


def test_generated_words_are_scored_and_a_file_that_is_no_task_is_refused(run, files):
  assert tasks.evaluate("", files / "words.yaml")["exact_match,none"] == 0
  (files / "bad.yaml").write_text("a: [1")
  with pytest.raises(UserError, match="no YAML"):
    tasks.evaluate("", files / "bad.yaml")
  (files / "bad.yaml").write_text("name: x")
  with pytest.raises(UserError, match="no `task: NAME`"):
    tasks.evaluate("", files / "bad.yaml")
