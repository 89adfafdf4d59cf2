"""Noisy in-context recall (MAD): in-context recall with noise between the pairs.

  k3 v7 n1 n9 k1 v2 k3 v7 ..    at the second k3 the answer is v7

A fifth of the places hold two tokens of noise, which have ids of their own. All else is as in
`in_context_recall`; chance is 1 in 8.

Source: Poli et al. 2024, arXiv:2403.17844, as athms/mad-lab has it; varied are also noise 0.4, 0.6
and 0.8.
"""

import dataclasses

from llm_jax.data.tasks.in_context_recall import InContextRecall


@dataclasses.dataclass(frozen=True)
class NoisyRecall(InContextRecall):
  """Recall past tokens that mean nothing; the fields are those of in-context recall."""

  vocab_size: int = 32
  noise_size: int = 16
  noise: float = 0.2
