"""The stack: a pattern of layers, repeated, with the residual stream around them.

It knows no layer by name: it adds, normalises and drops around whatever the pattern holds, scans
over the repeats, and threads each layer's state through.

Legend: B batch, T position, D model.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.models.spec import Spec, branches
from llm_jax.modules import Norm

# Variance that attention and MLPs, all blocks together, first add to a normalised stream: so small
# that the stream begins as the embeddings. At 0.5 a model of width 128 stood at 2.94 bits
# per byte after 100 steps, at 0.025 at 2.63. A norm after each layer makes the stream as large as
# what layers add, each of them: at 0.025 one of width 128 only learned how frequent each token
# is (3.50 bits per byte after 200 steps), at 1 it reached 2.70.
_RESIDUAL_SCALE, _POST_NORM_SCALE = 0.025, 1.0
_POLICIES = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


class Block(nn.Module):
  """One repeat of a pattern: each entry is normalised, computed and added to the stream."""

  spec: Spec
  pattern: tuple

  @nn.compact
  def __call__(self, carry, depth_and_state, context):
    x_BTD, shared = carry
    depth, states = depth_and_state
    context = context.replace(depth=depth)
    made, index = {}, 0
    for entry in self.pattern:
      names = (entry,) if isinstance(entry, str) else entry
      labels = [f"{index + i}_{name}" for i, name in enumerate(names)]
      x_BTD, shared, new = self._residual(x_BTD, shared, labels, names, context, states)
      made, index = {**made, **new}, index + len(names)
    return (x_BTD, shared), (None if states is None else made)

  def _residual(self, x_BTD, shared, labels, names, context, states):
    """x plus the sum of the branches; norms where the spec places them."""
    before = self.spec.norm_placement in ("pre", "sandwich")
    first = labels[0].split("_")[0]
    one_norm = len(names) == 1 or self.spec.group_norm
    inner_BTD = self._norm(f"{first}_norm", x_BTD) if before and one_norm else x_BTD
    outputs, new = [], {}
    for label, name in zip(labels, names, strict=True):
      if before and not one_norm:
        inner_BTD = self._norm(f"{label.split('_')[0]}_norm", x_BTD)
      layer = self.spec.layer(name, label)
      state = None if states is None else states[label]
      y_BTD, new[label], *makes = layer(inner_BTD, context.replace(shared=shared), state)
      shared = {**shared, **makes[0]} if makes else shared
      outputs.append(y_BTD)
    total_BTD = functools.reduce(jnp.add, outputs)
    if self.spec.norm_placement == "sandwich":
      total_BTD = self._norm(f"{first}_post_norm", total_BTD)
    drop = nn.Dropout(self.spec.dropout_rate, deterministic=not context.train)
    x_BTD = x_BTD + drop(total_BTD)
    if self.spec.norm_placement == "post":
      x_BTD = self._norm(f"{first}_norm", x_BTD)
    return x_BTD, shared, new

  def _norm(self, name, x_BTD):
    return Norm(self.spec.norm, self.spec.norm_epsilon, name=name)(x_BTD)


class Stack(nn.Module):
  """Stages of repeated blocks, then the final norm.

  Training and prefill scan over the repeats, so compile time does not grow with depth. Decoding
  one token runs the blocks unrolled over the state arrays of each, which XLA updates in place;
  caches that pass through a scan are copied for every token.
  """

  spec: Spec
  stages: tuple

  @nn.compact
  def __call__(self, x_BTD, context, states=None):
    spec, depth, new_states = self.spec, 0, []
    blocks = sum(repeats for _, repeats in self.stages)
    scale = _POST_NORM_SCALE if spec.norm_placement == "post" else _RESIDUAL_SCALE / blocks
    context = context.replace(num_blocks=blocks, residual_scale=scale)
    if spec.positions == "relative":
      context = context.replace(
        position_bias=self._position_table(), position_max_distance=spec.position_max_distance
      )
    carry = (x_BTD, self._initial_shared(x_BTD))
    one_token = states is not None and x_BTD.shape[1] == 1 and not self.is_initializing()
    for index, (pattern, repeats) in enumerate(self.stages):
      run = self._unrolled if one_token else self._scanned
      state = None if states is None else states[index]
      carry, state = run(str(index), pattern, repeats, carry, depth, state, context)
      new_states.append(state)
      depth += repeats
    x_BTD = carry[0]
    if spec.final_norm:
      x_BTD = Norm(spec.norm, spec.norm_epsilon, name="final_norm")(x_BTD)
    return x_BTD, (None if states is None else tuple(new_states))

  @nn.nowrap
  def initial_state(self, batch, max_length, memory_length, dtype):
    """Per stage, per repeat, the state of each layer."""

    def block(pattern):
      return {
        f"{i}_{name}": self.spec.layer(name).initial_state(
          batch, max_length, memory_length, self.spec.d_model, dtype
        )
        for i, name in enumerate(branches(pattern))
      }

    return tuple(tuple(block(p) for _ in range(repeats)) for p, repeats in self.stages)

  def _scanned(self, name, pattern, repeats, carry, depth, states, context):
    block = Block
    if self.spec.remat != "none":
      block = nn.remat(Block, prevent_cse=False, policy=_POLICIES[self.spec.remat])
    scan = nn.scan(
      block,
      variable_axes={"params": 0, "losses": 0, "intermediates": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=(0, nn.broadcast),
      length=repeats,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    depths = depth + jnp.arange(repeats)
    if states is not None:
      states = jax.tree.map(lambda *arrays: jnp.stack(arrays), *states)
    carry, states = scan(self.spec, pattern, name=name)(carry, (depths, states), context)
    if states is not None:
      states = tuple(jax.tree.map(lambda a, r=r: a[r], states) for r in range(repeats))
    return carry, states

  def _unrolled(self, name, pattern, repeats, carry, depth, states, context):
    blocks, new_states = self.get_variable("params", name), []
    if not isinstance(blocks, tuple):
      blocks = _unstacked(blocks, repeats)
    block = Block(self.spec, pattern, parent=None)
    for r in range(repeats):
      carry, state = block.apply({"params": blocks[r]}, carry, (depth + r, states[r]), context)
      new_states.append(state)
    return carry, tuple(new_states)

  def _initial_shared(self, x_BTD):
    """Zeros of what layers hand to later layers, so that the scan's carry has one shape."""
    shared = {}
    for pattern, _ in self.stages:
      for name in branches(pattern):
        zeros = getattr(self.spec.layer(name), "initial_shared", None)
        if zeros is not None:
          shared |= zeros(x_BTD)
    return shared

  def _position_table(self):
    """The relative position biases, one table a stack; its layers with heads have equally many."""
    fields = self.spec.layers.values()
    heads = next(layer["num_heads"] for layer in fields if "num_heads" in layer)
    init = nn.with_logical_partitioning(nn.initializers.normal(0.02), (None, "heads"))
    return self.param("position_bias", init, (self.spec.position_buckets, heads), jnp.float32)


def unstack_blocks(params, stages):
  """A stack's parameters with a tuple of blocks for each stage, as decoding wants them: cut out
  of the stacked arrays inside a loop over tokens, every weight is copied for every token."""
  cut = {str(i): _unstacked(params[str(i)], repeats) for i, (_, repeats) in enumerate(stages)}
  return {**params, **cut}


def _unstacked(params, repeats):
  return tuple(jax.tree.map(lambda p, r=r: p[r], params) for r in range(repeats))
