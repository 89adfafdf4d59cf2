"""Question answering: windows, offsets, the best span, and that answers are found again."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from llm_jax import objective
from llm_jax.config import base
from llm_jax.data import records, tokenizers
from llm_jax.data.special_tokens import CLASSIFIER, SEPARATOR
from llm_jax.errors import UserError
from llm_jax.evaluation import answers
from llm_jax.models import build
from llm_jax.models.spec import model_config
from llm_jax.objectives.question_answering import best_span
from llm_jax.training import strategies
from llm_jax.training.runs import Trained

SPECIAL = (CLASSIFIER, SEPARATOR)
TEXT = "The  café, (1910) cost 30€ a night. Zoë's naïve guests paid; others didn't!"


def tokenizer(name, documents=(TEXT,), size=400):
  return tokenizers.get(
    ConfigDict({"name": name, "vocab_size": size}), list(documents), None, SPECIAL
  )


BYTES = tokenizer("byte")


def question(context, text, first=None, asked="who?", number=0):
  first = context.index(text) if first is None else first
  return {"question": asked, "context": context, "answers": [[text, first]], "id": f"q{number}"}


@pytest.mark.parametrize("name", ["byte", "char", "word", "bpe", "wordpiece", "unigram"])
def test_offsets_find_every_word_of_a_text(name):
  asked = [question(TEXT, text) for text in ("café", "1910", "30€", "Zoë's", "guests paid", "!")]
  rows = objective.make(_config()).examples(asked, tokenizer(name), (), 200)
  for row, record in enumerate(asked):
    (first, _), (_, end) = rows["offsets"][row][rows["targets"][row]]
    found, text = TEXT[first:end], record["answers"][0][0]
    assert text in found and len(found) <= len(text) + 4  # a piece may be wider than the answer
    assert found == text or name in ("bpe", "wordpiece", "unigram", "word")


def test_offsets_of_every_answer_of_real_questions_hold_it(shared_folder):
  found = records.load(str(shared_folder / "data/qa/xquad/xquad.en.json"), _fields()).records
  pieces = tokenizer("bpe", dict.fromkeys(record["context"] for record in found), 4000)
  rows = objective.make(_config(too_long="cut")).examples(found, pieces, (), 384)
  answered = (rows["targets"] > 0).all(1)
  exact, seen = 0, set()
  for row in np.flatnonzero(answered):
    record = found[rows["document_ids"][row]]
    (first, _), (_, end) = rows["offsets"][row][rows["targets"][row]]
    text, begin = record["answers"][0]
    assert first <= begin and begin + len(text) <= end and end - first <= len(text) + 20
    exact += record["context"][first:end] == text
    seen.add(rows["document_ids"][row])
  assert len(seen) == len(found) == 1190
  assert exact > 0.95 * answered.sum()


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 60), seq_len=st.integers(12, 40), stride=st.integers(0, 9))
def test_windows_cover_the_context_and_the_answer_is_marked_where_it_is_whole(
  length, seq_len, stride
):
  context = "".join(chr(97 + i % 26) for i in range(length))
  first = length // 2
  record = question(context, context[first : first + 3], first)
  stride = min(stride, seq_len - 4 - 3)
  rows = objective.make(_config(stride=stride)).examples([record], BYTES, (), seq_len)
  inside = rows["offsets"][..., 1] > 0
  assert set(rows["offsets"][inside][:, 0].tolist()) == set(range(length))
  for row, targets in enumerate(rows["targets"]):
    places = rows["offsets"][row][inside[row]][:, 0]
    whole = set(range(first, min(first + 3, length))) <= set(places.tolist())
    assert whole == (targets > 0).all() and whole == (targets > 0).any()
    if whole:
      span = rows["offsets"][row][targets]
      assert context[span[0, 0] : span[1, 1]] == record["answers"][0][0]
    assert (rows["token_types"][row][inside[row]] == 1).all()
    assert rows["segments"][row].sum() == 1 + 4 + 1 + len(places) + 1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), length=st.integers(2, 9), longest=st.integers(1, 9))
def test_the_best_span_is_that_of_a_search_through_all(seed, length, longest):
  random = np.random.default_rng(seed)
  start, end = random.normal(size=(2, length))
  allowed = random.random(length) < 0.7
  probabilities = [np.exp(x) / np.exp(x).sum() for x in (start, end)]
  spans = {
    (i, j): np.log(probabilities[0][i] * probabilities[1][j])
    for i in range(length)
    for j in range(i, min(i + longest, length))
    if allowed[i] and allowed[j]
  }
  score, *span = best_span(start, end, allowed, longest)
  if not spans:
    assert score == -np.inf
    return
  best = max(spans, key=spans.get)
  assert tuple(span) == best
  np.testing.assert_allclose(score, spans[best], rtol=1e-9)


@pytest.mark.parametrize(
  ("record", "options", "message"),
  [
    (question("ab", "b", asked=" "), {}, "Question 1 .*id q0.* has no question"),
    (question(" ", " "), {}, "has no context"),
    (question("ab cd", "cd", 2), {}, "answer 'cd' at character 2 of its context; found ' c'"),
    (question("ab", "b", -1), {}, "at character -1"),
    (question("ab", "b") | {"answers": []}, {}, "has no answer"),
    (question("ab", "b", asked="w" * 9), {}, "has 9 tokens, more than half of a row"),
    (question("ab" * 20, "b"), {"stride": 15}, "stride is 15, but a window has room for"),
    (question("ab", "b"), {"stride": -1}, "stride must be at least 0"),
    (question("ab", "b"), {"max_answer_length": 0}, "max_answer_length must be at least 1"),
    (question("ab", "b"), {"too_long": "drop"}, "too_long"),
  ],
)
def test_bad_input_is_named(record, options, message):
  with pytest.raises(UserError, match=message):
    objective.make(_config(**options)).examples([record], BYTES, (), 20)


def test_answers_are_learned_and_found_in_the_right_window():
  """The answer is what stands between brackets, in contexts of several windows."""
  random, asked = np.random.default_rng(0), []
  for number in range(24):
    letters = random.choice(list("abcdef"), size=(3, int(random.integers(2, 20))))
    before, _, after = ("".join(row) for row in letters)
    answer = "".join(letters[1, :2])
    asked.append(question(f"{before}[{answer}]{after}", answer, len(before) + 1, "?", number))
  config = _config(max_answer_length=4)
  model, chosen = build.build(config.model), objective.make(config)
  rows = chosen.examples(asked, BYTES, (), config.seq_len)
  assert len(rows["document_ids"]) > 30
  padded = {name: np.concatenate([x, 0 * x[:2]]) for name, x in rows.items()}  # rows of nothing
  strategy = strategies.make(config, model, chosen, jax.devices()[:1])
  state = strategy.init(jax.random.PRNGKey(0))
  for _ in range(config.steps):
    state, metrics = strategy.step(state, strategy.put(padded))
  assert metrics["loss"] < 0.05
  params = jax.tree.map(np.asarray, strategy.to_checkpoint(state).params)
  found = answers.scores(Trained(config, BYTES, model, params, (), ""), asked)
  assert found["exact_match"] == 1.0
  assert found["baseline"]["exact_match"] < 0.5


def _fields():
  return objective.make(_config()).FIELDS


def _config(**options):
  config = base()
  config.objective, config.steps, config.seq_len, config.batch_size = (
    "question_answering",
    80,
    24,
    8,
  )
  config.objective_options = objective.options("question_answering")
  config.objective_options.update(options)
  config.optimizer.learning_rate = 1e-2
  config.model = model_config(
    kind="encoder",
    vocab_size=BYTES.vocab_size,
    d_model=32,
    repeats=2,
    heads=("span",),
    token_types=2,
    layers={"attention": {"positions": "rope"}},
  )
  return config
