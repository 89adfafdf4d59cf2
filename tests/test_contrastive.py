"""Contrastive embedding: the groups, the loss against its definition, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from llm_jax import config as config_schema
from llm_jax.data import tokenizers
from llm_jax.errors import UserError
from llm_jax.evaluation import jobs
from llm_jax.models import build
from llm_jax.models.spec import model_config
from llm_jax.objective import make, options
from llm_jax.objectives.contrastive import Contrastive
from llm_jax.training import loop, strategies


def config_of(**chosen):
  config = config_schema.base()
  config.objective, config.objective_options = "contrastive", options("contrastive", **chosen)
  config.model = model_config(
    kind="encoder", heads=("embedding",), pooling="mean", d_model=32, repeats=1
  )
  return config


def with_tokens(chosen):
  byte = ConfigDict({"name": "byte", "vocab_size": 0})
  return tokenizers.get(byte, [], None, chosen.SPECIAL_TOKENS)


def records_of(count):
  return [{"text": f"{i:02}", "positive": f"no {i:02}"} for i in range(count)]


def test_each_pair_is_in_one_group_and_the_last_group_is_filled():
  chosen = Contrastive(group=4, layout="plain")
  rows = chosen.examples(records_of(10), with_tokens(chosen), (), 6)
  assert rows["tokens"].shape == rows["segments"].shape == (3, 4, 2, 6)
  ids, used = rows["document_ids"].ravel(), rows["weights"].ravel() > 0
  assert sorted(ids[used]) == list(range(10)) and (ids[~used] == -1).all() and used.sum() == 10
  assert ids[used].tolist() != list(range(10))  # not in the file's order
  for (text, positive), number in zip(
    rows["tokens"].reshape(-1, 2, 6)[used], ids[used], strict=True
  ):
    assert bytes(text[:2].tolist()).decode() == f"{number:02}"
    assert bytes(positive[:5].tolist()).decode() == f"no {number:02}"


def test_a_text_may_be_its_own_partner():
  chosen = Contrastive(group=2, same_text=True, layout="plain")
  rows = chosen.examples([{"text": "ab"}, {"text": "cd"}], with_tokens(chosen), (), 4)
  assert chosen.FIELDS == ("text",)
  np.testing.assert_array_equal(rows["tokens"][:, :, 0], rows["tokens"][:, :, 1])


def test_the_loss_tells_a_partner_from_the_others_of_its_group_on_any_devices():
  config = config_of(group=3, temperature=0.2, layout="plain")
  chosen = make(config)
  tokenizer = with_tokens(chosen)
  config.model.vocab_size = tokenizer.vocab_size
  batch = chosen.examples(records_of(22), tokenizer, (), 6)  # eight groups, two places empty
  model = build.build(config.model)

  def first_losses(devices, **parallel):
    config.parallel.update(parallel)
    strategy = strategies.make(config, model, chosen, devices)
    state, losses = strategy.init(jax.random.PRNGKey(0)), []
    start = jax.tree.map(jnp.copy, state.params)
    for _ in range(2):
      state, metrics = strategy.step(state, strategy.put(batch))
      losses.append(float(np.asarray(metrics["loss"])))
    return losses, start

  one, params = first_losses(jax.devices()[:1])
  flat = jnp.asarray(batch["tokens"].reshape(-1, 6))
  segments = jnp.asarray(batch["segments"].reshape(-1, 6))
  heads = model.apply({"params": params}, flat, segments=segments).heads
  pairs, nats = np.asarray(heads["embedding"], np.float64).reshape(8, 3, 2, -1), []
  for group, used in zip(pairs, batch["weights"] > 0, strict=True):
    group = group[used]
    scores = np.exp(group[:, 0] @ group[:, 1].T / 0.2)
    nats += (-np.log(np.diag(scores) / scores.sum(1))).tolist()
  assert len(nats) == 22
  assert one[0] == pytest.approx(np.mean(nats), rel=1e-5)
  np.testing.assert_allclose(first_losses(jax.devices())[0], one, rtol=1e-5)
  mesh = {"strategy": "mesh", "axes": {"data": 4, "fsdp": 2, "tensor": 1}}
  np.testing.assert_allclose(first_losses(jax.devices(), **mesh)[0], one, rtol=1e-5)


@pytest.mark.parametrize(
  ("chosen", "message"),
  [
    ({"group": 1}, "group must be 2 or more"),
    ({"temperature": 0.0}, "temperature above 0"),
    ({"layout": "bert"}, "objective_options.layout"),
    ({"too_long": "drop"}, "objective_options.too_long"),
  ],
)
def test_options_that_mean_nothing_are_refused(chosen, message):
  with pytest.raises(UserError, match=message):
    Contrastive(**chosen)


def test_records_and_models_that_do_not_suit_are_refused():
  chosen = Contrastive(layout="plain")
  for record, message in (({"text": ""}, "'text' is empty"), ({"text": "long" * 3}, "12 tokens")):
    with pytest.raises(UserError, match=message):
      chosen.examples([{"positive": "a", **record}], with_tokens(chosen), (), 6)
  spec = build.build(ConfigDict({**config_of().model.to_dict(), "vocab_size": 9})).spec
  with pytest.raises(UserError, match="dropout_rate is 0"):
    Contrastive(same_text=True).check_model(spec)
  with pytest.raises(UserError, match="layout=classifier or plain"):
    Contrastive(layout="extract").check_model(spec)


def test_partners_are_found_after_training_and_similarity_is_scored(tmp_path):
  """A text's partner has its letters in another order, and a z."""
  rng, lines = np.random.default_rng(0), ["text\tpositive\tscore"]
  for _ in range(48):
    letters = rng.choice(list("abcdefghijkl"), 5)
    lines.append(f"{''.join(letters)}\tz{''.join(rng.permutation(letters))}\t{rng.random()}")
  (tmp_path / "pairs.tsv").write_text("\n".join(lines))
  config = config_of(group=8, layout="plain")
  config.data.path, config.tokenizer.name = str(tmp_path / "pairs.tsv"), "byte"
  config.steps, config.batch_size, config.seq_len = 20, 8, 6
  config.data.validation_fraction, config.log.every = 0.2, 10
  loop.train(config, tmp_path / "run", progress=False)
  found = jobs.evaluate(tmp_path / "run")
  assert found["accuracy"] == 1.0 and found["cosine"] > 0.6
  assert -1 <= found["spearman"] <= 1
