"""Every LLM architecture family in one JAX/Flax tree: trained, run, inspected and compared.

model = llm_jax.build(config.model)
tokens = llm_jax.generate(model, params, prompts, max_new_tokens=32)
"""

from llm_jax.inference.generate import generate
from llm_jax.models.build import build

__all__ = ["build", "generate"]
