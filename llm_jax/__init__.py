"""Every LLM architecture family in one JAX/Flax tree: trained, run, inspected and compared.

model = llm_jax.build(config.model)
params = llm_jax.init_params(model, jax.random.key(0))
model, params = llm_jax.load_pretrained("path/to/hf_dir")
llm_jax.save_pretrained("out_dir", model, params)
tokens = llm_jax.generate(model, params, prompts, max_new_tokens=32)
"""

from llm_jax.inference.generate import generate, stream
from llm_jax.interop.pretrained import load_pretrained, save_pretrained
from llm_jax.models.build import build, init_params

__all__ = ["build", "generate", "init_params", "load_pretrained", "save_pretrained", "stream"]
