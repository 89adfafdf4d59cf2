"""The feed-forward activations, by name."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from llm_jax.errors import unknown

_GELU_TANH = partial(jax.nn.gelu, approximate=True)
_GELU = partial(jax.nn.gelu, approximate=False)

# name: (function, whether it gates a second projection)
_ACTIVATIONS = {
  "relu": (jax.nn.relu, False),
  "relu2": (lambda x: jnp.square(jax.nn.relu(x)), False),
  "gelu": (_GELU, False),
  "gelu_tanh": (_GELU_TANH, False),
  "silu": (jax.nn.silu, False),
  "swiglu": (jax.nn.silu, True),
  "geglu": (_GELU, True),
  "geglu_tanh": (_GELU_TANH, True),
}


def activation(name: str) -> tuple[Callable[[jax.Array], jax.Array], bool]:
  """The function of that name, and whether it multiplies a second projection (GLU variants).

  Sources: Hendrycks & Gimpel 2016, arXiv:1606.08415 (gelu exact, gelu_tanh); So et al. 2021,
  arXiv:2109.08668 (relu2, squared ReLU); Shazeer 2020, arXiv:2002.05202 (swiglu, geglu).
  """
  if name not in _ACTIVATIONS:
    raise unknown("activation", name, _ACTIVATIONS)
  return _ACTIVATIONS[name]
