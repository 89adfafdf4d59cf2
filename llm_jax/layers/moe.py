"""The mixture of experts: a feed-forward layer of which each token uses a part.

Legend: B batch, T position, D model, F feed-forward, E experts, K choices of a token.
"""

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.errors import UserError
from llm_jax.layers.mlp import feed_forward_width
from llm_jax.modules import Projection
from llm_jax.ops.activations import activation
from llm_jax.ops.experts import Experts, dropless, with_capacity
from llm_jax.ops.routing import balance_loss, expert_load, route, z_loss


class Moe(nn.Module):
  """y = sum over a token's top k experts of weight * expert(x). It keeps no state.

  Sown into "losses", a value a row: "balance" and "z", times their weights. Sown into
  "intermediates": "expert_load" (B, E), each expert's share of the choices, and, where tokens may
  be dropped, "dropped" (B,), the share of choices that were.

  Attributes:
    num_experts: experts.
    top_k: experts a token uses.
    d_ff: inner width of an expert; 0 is that of the layer mlp.
    activation: as of the layer mlp.
    renormalise: whether a token's k weights sum to 1 (Mixtral) or are the softmax's own (Switch).
    dropless: False: in training an expert has limited room in each row, and what exceeds it is
      dropped. With a state, or outside training, nothing ever is.
    capacity_factor: room of an expert over its even share, if not dropless.
    balance_weight, z_weight: of the two losses.
    implementation: dropless form of `ops/experts`.

  Sources: Shazeer et al. 2017, arXiv:1701.06538; Fedus et al. 2021, arXiv:2101.03961 (balance
  loss); Zoph et al. 2022, arXiv:2202.08906 (z loss); Jiang et al. 2024, arXiv:2401.04088.
  """

  num_experts: int = 4
  top_k: int = 2
  d_ff: int = 0
  activation: str = "swiglu"
  renormalise: bool = True
  dropless: bool = True
  capacity_factor: float = 1.25
  balance_weight: float = 0.01
  z_weight: float = 0.001
  implementation: str = "auto"

  @nn.compact
  def __call__(self, x_BTD, context, state=None):
    self._check()
    real_BT = context.real_BT
    # float32: a rounded logit sends a token to another expert. The router is small: not split.
    router = Projection((self.num_experts,), ("embed", None), use_bias=False, name="router")
    logits_BTE = router(x_BTD.astype(jnp.float32))
    weights_BTK, chosen_BTK, probabilities_BTE = route(logits_BTE, self.top_k, self.renormalise)
    load_BE = expert_load(chosen_BTK, real_BT, self.num_experts)
    balance_B = balance_loss(probabilities_BTE, load_BE, real_BT)
    self.sow("losses", "balance", self.balance_weight * balance_B)
    self.sow("losses", "z", self.z_weight * z_loss(logits_BTE, real_BT))
    self.sow("intermediates", "expert_load", load_BE)
    chosen = (x_BTD, weights_BTK, chosen_BTK, self._experts(x_BTD.shape[-1], context))
    if self.dropless or state is not None or not context.train:
      return dropless(*chosen, implementation=self.implementation), state
    y_BTD, dropped_B = with_capacity(*chosen, real_BT, self.capacity_factor)
    self.sow("intermediates", "dropped", dropped_B)
    return y_BTD, state

  @nn.nowrap
  def initial_state(self, batch, max_length, memory_length, d_model, dtype):
    return {}

  def _experts(self, d_model, context):
    """The kernels. Not Projections: those have one kernel, and apply it to every token."""
    function, gated = activation(self.activation)
    d_ff = self.d_ff or feed_forward_width(d_model, gated)

    def kernel(name, inputs, outputs, axes, scale=1.0):
      init = nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal", batch_axis=(0,))
      init = nn.with_logical_partitioning(init, ("expert", *axes))
      return self.param(f"{name}_kernel", init, (self.num_experts, inputs, outputs), jnp.float32)

    inner = (d_model, d_ff, ("embed", "mlp"))
    return Experts(
      inner_EDF=kernel("in", *inner),
      outer_EFD=kernel("out", d_ff, d_model, ("mlp", "embed"), context.residual_scale),
      gate_EDF=kernel("gate", *inner) if gated else None,
      function=function,
    )

  def _check(self):
    if not 1 <= self.top_k <= self.num_experts:
      raise UserError(
        f"A token cannot choose {self.top_k} of {self.num_experts} experts: layer 'moe' needs "
        "1 <= top_k <= num_experts."
      )
    if self.capacity_factor <= 0:
      raise UserError(f"capacity_factor must be above 0, found {self.capacity_factor}.")
