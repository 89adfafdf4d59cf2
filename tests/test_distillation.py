"""Distillation: three losses, a teacher that nothing changes, and teachers that do not fit."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import config as config_schema
from llm_jax import objective
from llm_jax.errors import UserError
from llm_jax.evaluation import perplexity
from llm_jax.models import build
from llm_jax.models.spec import model_config
from llm_jax.objective import Teacher
from llm_jax.objectives.distillation import Distillation, divergence
from llm_jax.objectives.next_token import NextToken
from llm_jax.training import loop, metrics, strategies
from llm_jax.training.checkpoints import load_params
from llm_jax.training.step import make_train_step

B, T, V = 8, 16, 64
MESH = {"strategy": "mesh", "axes": {"data": 2, "fsdp": 2, "tensor": 2}}


def batch_of(seed):
  draw = np.random.default_rng(seed)
  segments = np.where(np.arange(T + 1) < draw.integers(4, T + 2, (B, 1)), 1, 0)
  tokens = draw.integers(0, V, (B, T + 1))
  row = {"tokens": tokens, "segments": segments, "document_ids": segments}
  examples = [NextToken().transform({k: v[b] for k, v in row.items()}) for b in range(B)]
  return {name: np.stack([e[name] for e in examples]) for name in examples[0]}


def model_of(d_model=32):
  return build.build(model_config(vocab_size=V, d_model=d_model, repeats=1, pattern=("mlp",)))


def teacher_of(d_model=32, seed=5):
  model = model_of(d_model)
  return Teacher(build.init_params(model, jax.random.PRNGKey(seed)), model)


def arrays(batch):
  return {name: jnp.asarray(x) for name, x in batch.items() if name != "document_ids"}


def test_a_student_equal_to_its_teacher_has_nothing_to_learn_from_it():
  teacher, batch = teacher_of(), arrays(batch_of(0))
  chosen = Distillation(hard=0.0, cosine=1.0)

  @jax.jit
  @jax.value_and_grad
  def loss(params):
    return chosen.loss(teacher.model, params, batch, {}, True, teacher)[0]["taught"]

  largest = lambda grads: max(jnp.abs(g).max() for g in jax.tree.leaves(grads))
  value, grads = loss(teacher.params)
  assert abs(value) < 1e-3 and largest(grads) < 1e-4
  value, grads = loss(teacher_of(seed=6).params)
  assert value > 1.0 and largest(grads) > 0.01


def test_the_losses_are_those_of_their_definitions_over_real_tokens():
  teacher, student, batch = teacher_of(), teacher_of(seed=6), arrays(batch_of(0))
  chosen = Distillation(temperature=3.0, hard=0.5, soft=2.0, cosine=0.25)
  sums, metrics = chosen.loss(student.model, student.params, batch, {}, True, teacher)
  assert sums.keys() == chosen.count(batch).keys()
  read = lambda one: one.model.apply({"params": one.params}, batch["tokens"], batch["segments"])
  real = np.asarray(batch["segments"]) > 0
  p, q = (np.asarray(jax.nn.softmax(read(one).logits / 3.0))[real] for one in (teacher, student))
  x, y = (np.asarray(read(one).hidden)[real] for one in (teacher, student))
  soft = np.sum(p * np.log(p / q))
  cosines = np.sum(x * y, 1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
  np.testing.assert_allclose(sums["taught"], 2 * 9 * soft + 0.25 * np.sum(1 - cosines), rtol=1e-4)
  np.testing.assert_allclose(metrics["soft_loss"], (soft, real.sum()), rtol=1e-4)
  hard, told = NextToken().loss(student.model, student.params, batch, {}, True)
  np.testing.assert_allclose(sums["tokens"], 0.5 * hard["tokens"], rtol=1e-6)
  assert metrics["loss"] == told["loss"]
  assert float(jnp.abs(divergence(jnp.zeros((1, 1, 2)), jnp.zeros((1, 1, 2)), 1.0)).max()) == 0.0


def strategy_of(devices, chosen, teacher, parallel=None, accumulation=1):
  config = config_schema.base()
  config.update(batch_size=B, seq_len=T, steps=40)
  config.model = model_config(vocab_size=V, d_model=32, repeats=1, pattern=("mlp",))
  config.optimizer.update(name="sgd", learning_rate=0.3, accumulation=accumulation)
  config.parallel.update(parallel or {})
  return strategies.make(
    config, build.build(config.model), chosen, jax.devices()[:devices], {"teacher": teacher}
  )


def test_any_devices_and_micro_batches_give_one_loss_and_leave_the_teacher_alone():
  teacher, chosen = teacher_of(48), Distillation()
  before = jax.tree.map(np.array, teacher.params)
  curves = []
  for layout in ((1, {}, 1), (4, {}, 2), (8, MESH, 2)):
    strategy = strategy_of(layout[0], chosen, teacher, *layout[1:])
    state, curve = strategy.init(jax.random.PRNGKey(0)), []
    for seed in range(3):
      state, values = strategy.step(state, strategy.put(batch_of(seed)))
      curve += [float(values["loss"]), float(values["soft_loss"])]
    found = strategy.evaluate(state, strategy.put(batch_of(9)))
    curves.append([*curve, float(found["loss"][0]), float(found["soft_loss"][0])])
    saved = jax.tree.leaves(strategy.abstract_checkpoint())
    assert not any(48 in leaf.shape for leaf in saved)  # the teacher's width
  for curve in curves[1:]:
    np.testing.assert_allclose(curve, curves[0], rtol=1e-5)
  jax.tree.map(np.testing.assert_array_equal, before, teacher.params)


def test_the_teacher_is_an_argument_of_the_program_and_no_part_of_it():
  chosen, teacher = Distillation(), teacher_of()
  strategy = strategy_of(1, chosen, teacher)
  state = strategy.init(jax.random.PRNGKey(0))
  step = make_train_step(model_of(), chosen, strategy._parts.optimizer)
  program = jax.make_jaxpr(step)(state, arrays(batch_of(0)), {"teacher": teacher})
  assert sum(np.size(x) for x in program.consts) < 10


# --------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  path = tmp_path_factory.mktemp("corpus") / "text.jsonl"
  draw = np.random.default_rng(0)
  texts = [" ".join(draw.choice(["one", "two", "three", "four"], 20)) for _ in range(40)]
  path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
  return path


def make_config(corpus, **model):
  config = config_schema.base()
  layers = {"attention": {"num_heads": 2}}
  chosen = {"kind": "encoder", "heads": ("masked_lm",), "pattern": ("attention",), **model}
  config.model = model_config(d_model=32, repeats=1, layers=layers, **chosen)
  config.objective = "masked_lm"
  config.steps, config.batch_size, config.seq_len = 2, 8, 16
  config.data.path, config.tokenizer.name = str(corpus), "byte"
  config.log.every, config.checkpoint.every = 1, 2
  return config


@pytest.fixture(scope="module")
def teacher(corpus, tmp_path_factory):
  folder = tmp_path_factory.mktemp("teacher")
  config = make_config(corpus, positions="learned", max_length=16)
  loop.train(config, folder, progress=False)
  return folder


def taught(corpus, teacher, **options):
  config = make_config(corpus)
  config.objective = "distillation"
  chosen = {"teacher": str(teacher), "task": "masked_lm", "cosine": 1.0, **options}
  config.objective_options = objective.options("distillation", **chosen)
  return config


def test_an_encoder_is_taught_by_all_three_losses_and_scored_without_its_teacher(
  corpus, teacher, tmp_path
):
  result = loop.train(taught(corpus, teacher), tmp_path / "run", progress=False)
  assert {"loss", "bits_per_byte", "soft_loss", "cosine_loss"} <= result.keys()
  rows = metrics.read(tmp_path / "run" / "metrics.jsonl")
  assert all(row["soft_loss"] > 0 and row["cosine_loss"] > 0 for row in rows)
  assert "positions" not in load_params(tmp_path / "run")["embed"]  # the teacher has them
  teacher.rename(teacher.with_name("away"))
  try:
    assert perplexity.evaluate(tmp_path / "run")["loss"] == pytest.approx(result["loss"], rel=1e-5)
  finally:
    teacher.with_name("away").rename(teacher)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"teacher": ""}, "set --config.objective_options.teacher"),
    ({"teacher": "nowhere"}, "nowhere; there is none"),
    ({"task": "cloze"}, "Valid: masked_lm, next_token"),
    ({"temperature": 0.0}, "temperature must be a number above 0"),
    ({"hard": -1.0}, "must be 0 or more and not all 0"),
    ({"hard": 0.0, "soft": 0.0, "cosine": 0.0}, "must be 0 or more and not all 0"),
    ({"tokenizer": "char"}, r"another tokenizer .*--config\.tokenizer\.name="),
    ({"d_model": 64}, "width 32 and the student 64"),
    ({"vocab_size": 300}, "258 logits, the student with 300"),
    ({"seq_len": 32}, "learned positions for 16 tokens"),
    ({"task": "next_token"}, "suits a decoder"),
    ({"decoder": True}, "'next_token' suits a decoder .* found model.kind='encoder'"),
  ],
)
def test_a_teacher_that_does_not_fit_is_refused(corpus, teacher, tmp_path, change, message):
  model = {name: change.pop(name) for name in ("d_model", "vocab_size") if name in change}
  rest = {name: change.pop(name) for name in ("tokenizer", "seq_len") if name in change}
  if change.pop("decoder", False):
    model |= {"kind": "decoder", "heads": ("language_model",)}
    change, rest = {"task": "next_token"}, {"tokenizer": f"{teacher}/tokenizer.json"}
  config = taught(corpus, **{"teacher": teacher, **change})
  config.model.update(model)
  config.tokenizer.name = rest.get("tokenizer", "byte")
  config.seq_len = rest.get("seq_len", 16)
  with pytest.raises(UserError, match=message):
    loop.train(config, tmp_path / "run", progress=False)
