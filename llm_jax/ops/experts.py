"""Feed-forward experts, each applied to the tokens that chose it.

Legend: B batch, T position, D model, F feed-forward, E experts, K choices of a token,
A = B T K choices in all, S slots (rows of the experts' input), M blocks of slots, C slots of an
expert for one row.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from llm_jax.errors import unknown
from llm_jax.ops.forms import note
from llm_jax.ops.routing import arrival

_ROUNDING = 1e-4  # 1.1 * 10 is above 11 in floating point, and makes no twelfth place


@struct.dataclass
class Experts:
  """The kernels of all experts, and what stands between them.

  Attributes:
    inner_EDF, outer_EFD: kernels, cast to the tokens' dtype.
    gate_EDF: kernel of the gate, or None.
    function: the activation.
  """

  inner_EDF: jax.Array
  outer_EFD: jax.Array
  gate_EDF: jax.Array | None
  function: Callable = struct.field(pytree_node=False)

  def apply(self, x, product: Callable) -> jax.Array:
    """out(f(in(x))), or out(f(gate(x)) * in(x)), by a product of grouped rows with kernels."""
    cast = lambda kernel: kernel.astype(x.dtype)
    h = product(x, cast(self.inner_EDF))
    if self.gate_EDF is None:
      h = self.function(h)
    else:
      h = self.function(product(x, cast(self.gate_EDF))) * h
    return product(h, cast(self.outer_EFD))


def dropless(
  x_BTD: jax.Array,
  weights_BTK: jax.Array,
  chosen_BTK: jax.Array,
  experts: Experts,
  *,
  implementation: str = "auto",
) -> jax.Array:
  """y_t = sum_k weight_tk expert_{chosen_tk}(x_t), for every token.

  Args:
    x_BTD: tokens.
    weights_BTK, chosen_BTK: from `ops/routing.route`.
    experts: the kernels.
    implementation: "reference" (every expert on every token), "ragged" (tokens sorted by expert,
      `lax.ragged_dot`), "blocks" (sorted, in blocks of one expert each) or "auto".

  Returns:
    (B, T, D) in x's dtype.

  Source: Shazeer et al. 2017, arXiv:1701.06538, eq. 1; sorted blocks instead of a capacity: Gale
  et al. 2022, arXiv:2211.15841.
  """
  forms = {"reference": _reference, "ragged": _ragged, "blocks": _blocks}
  # Value and gradient, 2,048 tokens of 256, 8 experts of 512, K 2, two CPU cores: blocks 1,
  # reference 3-6, ragged 4-8 (on a CPU it multiplies every row by every expert), with_capacity 0.7.
  # Not yet measured on an accelerator.
  if implementation == "auto":
    implementation = "blocks" if jax.default_backend() == "cpu" else "ragged"
  if implementation not in forms:
    raise unknown("implementation of experts", implementation, ("auto", *forms))
  return forms[note("experts", implementation)](
    x_BTD, weights_BTK.astype(x_BTD.dtype), chosen_BTK, experts
  )


def with_capacity(
  x_BTD: jax.Array,
  weights_BTK: jax.Array,
  chosen_BTK: jax.Array,
  experts: Experts,
  real_BT: jax.Array,
  capacity_factor: float,
) -> tuple[jax.Array, jax.Array]:
  """As `dropless`, but an expert takes only so many choices of a row, first come first served.

  Args:
    x_BTD, weights_BTK, chosen_BTK, experts: as in `dropless`.
    real_BT: False at padding, which takes no room and gets 0.
    capacity_factor: room over an even share, K / E of the row's real tokens.

  Returns:
    (B, T, D), with nothing from an expert that was full, and the share of each row's choices that
    were dropped, (B,).

  Source: Lepikhin et al. 2020, arXiv:2006.16668, section 2.2 (rows are its groups).
  """
  batch, length, top_k = chosen_BTK.shape
  num_experts = experts.inner_EDF.shape[0]
  share = capacity_factor * top_k / num_experts
  room = math.ceil(share * length - _ROUNDING)
  tokens_B = real_BT.sum(axis=1)
  rank_BTK = arrival(chosen_BTK, real_BT, num_experts)
  limit_B = jnp.ceil(share * tokens_B - _ROUNDING)
  fits_BTK = real_BT[..., None] & (rank_BTK < jnp.minimum(limit_B, room)[:, None, None])
  row_B11 = jnp.arange(batch)[:, None, None]
  slots = num_experts * batch * room
  slot_BTK = jnp.where(fits_BTK, (chosen_BTK * batch + row_B11) * room + rank_BTK, slots)

  def run(x_SD):
    x_ESD = x_SD.reshape(num_experts, batch * room, -1)
    product = lambda x, kernel: jnp.einsum("esd,edf->esf", x, kernel)
    return experts.apply(x_ESD, product).reshape(x_SD.shape)

  y_BTD = _through_slots(run, x_BTD, weights_BTK.astype(x_BTD.dtype), slot_BTK, slots)
  dropped_B = 1 - fits_BTK.sum((1, 2)) / jnp.maximum(tokens_B * top_k, 1)
  return y_BTD, jnp.where(tokens_B > 0, dropped_B, 0)


def _reference(x_BTD, weights_BTK, chosen_BTK, experts):
  num_experts = experts.inner_EDF.shape[0]
  chosen_BTKE = jax.nn.one_hot(chosen_BTK, num_experts, dtype=x_BTD.dtype)
  gates_BTE = jnp.einsum("btk,btke->bte", weights_BTK, chosen_BTKE)
  x_EBTD = jnp.broadcast_to(x_BTD[None], (num_experts, *x_BTD.shape))
  y_EBTD = experts.apply(x_EBTD, lambda x, kernel: jnp.einsum("ebtd,edf->ebtf", x, kernel))
  return jnp.einsum("bte,ebtd->btd", gates_BTE, y_EBTD)


def _ragged(x_BTD, weights_BTK, chosen_BTK, experts):
  slot_BTK, size_E = _sorted_slots(chosen_BTK, experts.inner_EDF.shape[0], 1)
  product = lambda x, kernel: jax.lax.ragged_dot(x, kernel, size_E)
  run = lambda x_SD: experts.apply(x_SD, product)
  return _through_slots(run, x_BTD, weights_BTK, slot_BTK, chosen_BTK.size)


def _blocks(x_BTD, weights_BTK, chosen_BTK, experts):
  choices, num_experts = chosen_BTK.size, experts.inner_EDF.shape[0]
  # Blocks as large as an expert's even share, within what keeps the product efficient.
  block = min(max(8, 2 ** (choices // num_experts).bit_length() // 2), 128)
  # Each expert that is chosen at all may leave its last block all but empty.
  blocks = (choices + min(num_experts, choices) * (block - 1)) // block
  slot_BTK, size_E = _sorted_slots(chosen_BTK, num_experts, block)
  end_E = jnp.cumsum(size_E) // block
  expert_M = (end_E[None] <= jnp.arange(blocks)[:, None]).sum(axis=1)
  expert_M = jnp.minimum(expert_M, num_experts - 1)  # blocks behind the last: empty

  def run(x_SD):
    product = lambda x, kernel: _block_product(x, kernel, expert_M)
    return experts.apply(x_SD.reshape(blocks, block, -1), product).reshape(x_SD.shape)

  return _through_slots(run, x_BTD, weights_BTK, slot_BTK, blocks * block)


def _sorted_slots(chosen_BTK, num_experts, block):
  """The slot of each choice, sorted by expert, each expert's first slot a multiple of `block`; and
  the slots of each expert, rounded up to such a multiple."""
  chosen_1A1 = chosen_BTK.reshape(1, -1, 1)
  real_1A = jnp.ones(chosen_1A1.shape[:2], bool)
  rank_BTK = arrival(chosen_1A1, real_1A, num_experts).reshape(chosen_BTK.shape)
  size_E = jnp.bincount(chosen_BTK.reshape(-1), length=num_experts)
  size_E = -(-size_E // block) * block
  return (jnp.cumsum(size_E) - size_E)[chosen_BTK] + rank_BTK, size_E


def _through_slots(run, x_BTD, weights_BTK, slot_BTK, slots):
  """Puts each token into its slots (none where the number is `slots`), runs, and adds up."""
  batch, length, top_k = slot_BTK.shape
  slot_A = slot_BTK.reshape(-1)
  choice_S = jnp.full((slots,), slot_A.size).at[slot_A].set(jnp.arange(slot_A.size), mode="drop")
  x_AD = jnp.repeat(x_BTD.reshape(batch * length, -1), top_k, axis=0)
  y_AD = _rearrange(run(_rearrange(x_AD, choice_S, slot_A)), slot_A, choice_S)
  y_BTKD = y_AD.reshape(batch, length, top_k, -1)
  return jnp.einsum("btk,btkd->btd", weights_BTK, y_BTKD)


@jax.custom_vjp
def _rearrange(rows, index, inverse):
  """rows[index], and 0 where the index is out of range. `inverse` undoes `index`: so the backward
  pass gathers too, where autodiff would scatter."""
  return rows.at[index].get(mode="fill", fill_value=0)


def _rearrange_forward(rows, index, inverse):
  return _rearrange(rows, index, inverse), (index, inverse)


def _rearrange_backward(residuals, gradient):
  index, inverse = residuals
  return _rearrange(gradient, inverse, index), None, None


_rearrange.defvjp(_rearrange_forward, _rearrange_backward)


@jax.custom_vjp
def _block_product(x_MSD, kernel_EDF, expert_M):
  """Each block of rows times its expert's kernel, one block after another: (M, S, F)."""
  product = lambda x_SD, expert: x_SD @ kernel_EDF[expert]
  return jax.lax.map(lambda at: product(*at), (x_MSD, expert_M))


def _block_forward(x_MSD, kernel_EDF, expert_M):
  return _block_product(x_MSD, kernel_EDF, expert_M), (x_MSD, kernel_EDF, expert_M)


def _block_backward(residuals, dy_MSF):
  x_MSD, kernel_EDF, expert_M = residuals

  def step(dkernel_EDF, at):
    x_SD, dy_SF, expert = at
    # Added in place; autodiff would add a whole (E, D, F) of zeros but for one expert.
    dkernel_DF = jax.lax.dot_general(
      x_SD, dy_SF, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
    )
    return dkernel_EDF.at[expert].add(dkernel_DF), dy_SF @ kernel_EDF[expert].T

  zeros_EDF = jnp.zeros(kernel_EDF.shape, jnp.float32)
  dkernel_EDF, dx_MSD = jax.lax.scan(step, zeros_EDF, (x_MSD, dy_MSF, expert_M))
  return dx_MSD, dkernel_EDF.astype(kernel_EDF.dtype), None


_block_product.defvjp(_block_forward, _block_backward)
