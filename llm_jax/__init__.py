"""Every LLM architecture family in one JAX/Flax tree."""
