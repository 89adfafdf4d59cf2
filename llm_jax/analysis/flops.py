"""Counts the floating-point operations of any JAX function by walking its jaxpr.

What is counted is what runs: recomputation under `jax.checkpoint`, or in a hand-written backward
pass, is counted again; equations whose results nobody reads are not (XLA drops them as well).

| primitive                           | operations                                              |
| ----------------------------------- | ------------------------------------------------------- |
| matrix product, convolution         | 2 per multiply-add                                      |
| ragged product                      | 2 per multiply-add of a row with its own group's matrix |
| elementwise arithmetic, comparison  | 1 per output element, transcendental functions too      |
| reductions, cumulative ones, sorts  | 1 per input element, windowed: 1 per element and window |
| scatter-add and the like            | 1 per update                                            |
| moving, casting, making, sending    | 0                                                       |
| scan                                | its body, times its length                              |
| while                               | its test and body once: the trip count is not known     |
| cond                                | its dearest branch                                      |
| shard_map                           | its body, times the devices of its mesh                 |
| pallas_call                         | its body, times the steps of its grid                   |

Complex numbers cost 2 an addition, 6 a product and 8 a multiply-add.

XLA's own count (`compiled.cost_analysis()["flops"]`) differs in four ways: it takes the body of
a scan once; transcendental functions are in a count of their own, and those that it expands (erf,
logistic, integer powers) cost several; a convolution's products with padding are left out; on a
CPU a ragged product is a dense one with every group's matrix.
"""

import logging
import math
from collections.abc import Callable, Iterator

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

_log = logging.getLogger(__name__)


def _names(text: str) -> frozenset[str]:
  return frozenset(text.split())


_ELEMENTWISE = _names(
  """abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil
  clamp clz cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma
  igamma_grad_a igammac integer_pow is_finite le le_to lgamma log log1p logistic lt lt_to max min
  mul mulhi ne neg nextafter not or polygamma population_count pow random_bits random_gamma
  regularized_incomplete_beta rem rng_bit_generator rng_uniform round rsqrt select_n shift_left
  shift_right_arithmetic shift_right_logical sign sin sinh sqrt square sub tan tanh threefry2x32
  one_minus_square xor zeta"""
)
_REDUCTIONS = _names(
  """approx_top_k argmax argmin cumlogsumexp cummax cummin cumprod cumsum reduce reduce_and
  reduce_max reduce_min reduce_or reduce_prod reduce_sum reduce_xor sort top_k"""
)
_SCATTERS = _names("scatter-add scatter-max scatter-min scatter-mul scatter-sub")
_FREE = _names(
  """after_all all_gather all_gather_invariant all_gather_reduced all_to_all axis_index
  bitcast_convert_type broadcast_in_dim broadcast_to complex concatenate conj
  convert_element_type copy copy_p create_token dce_sink debug_callback debug_print device_put
  dynamic_slice dynamic_update_slice empty empty2 free_ref freeze from_edtype gather get imag
  inspect_sharding io_callback iota layout_constraint name new_ref optimization_barrier pad
  pbroadcast platform_index pmax pmin ppermute preduced program_id psum psum_invariant
  pure_callback pvary random_clone random_fold_in random_seed random_split random_unwrap
  random_wrap real reduce_precision reduce_scatter reduced_vary_cast_p reshape reshard rev scatter
  sharding_constraint slice split squeeze stack stop_gradient swap tie tile to_edtype transpose
  unreachable unstack zeros_like"""
)


def flops(function: Callable, *args) -> int:
  """Floating-point operations of one call of `function`, by the table at the head of this file.

  Args:
    function: anything `jax.make_jaxpr` can trace.
    *args: its arguments; `jax.ShapeDtypeStruct`s will do, nothing is computed or allocated.

  A primitive in no table, of a later JAX perhaps, counts one operation an output element and is
  named in a warning of the log: the count must be mended, but need not stop a run.
  """
  closed = jax.make_jaxpr(function)(*args)
  return _count(closed.jaxpr, [True] * len(closed.jaxpr.outvars))


def _count(jaxpr: Jaxpr, read: list[bool]) -> int:
  """Operations of a jaxpr of which only the outputs marked in `read` are looked at."""
  live = {v for v, r in zip(jaxpr.outvars, read, strict=True) if r and not isinstance(v, Literal)}
  total = 0
  for equation in reversed(jaxpr.eqns):
    outputs_read = [v in live for v in equation.outvars]
    if any(outputs_read) or equation.effects:
      live.update(v for v in equation.invars if not isinstance(v, Literal))
      total += _equation(equation, outputs_read)
  return total


def _equation(equation: JaxprEqn, read: list[bool]) -> int:
  """Operations of one equation."""
  name, params = equation.primitive.name, equation.params
  if name in _FREE:
    return 0
  if name in _ELEMENTWISE:
    return _elements(equation.outvars) * _cost(equation, product=6)
  if name in _REDUCTIONS:
    return equation.invars[0].aval.size * _cost(equation, product=6)
  if name in _SCATTERS:
    return equation.invars[2].aval.size * _cost(equation, product=6)
  if name in _PRODUCTS:
    return 2 * _PRODUCTS[name](equation) * _cost(equation, product=4)
  if name.startswith("reduce_window"):
    return _elements(equation.outvars) * math.prod(params["window_dimensions"])
  if name == "scan":
    # A carry may feed itself, so all of them count as read; of the stacked outputs those that are.
    # (Told by their rank: a stacked output has one axis more than the body's. JAX 0.11 keeps no
    # number of them.)
    [body] = _inner_jaxprs(equation)
    outputs = zip(equation.outvars, body.outvars, read, strict=True)
    body_read = [r or outer.aval.ndim == inner.aval.ndim for outer, inner, r in outputs]
    return params["length"] * _count(body, body_read)
  if name == "cond":
    return max(_count(branch.jaxpr, read) for branch in params["branches"])
  bodies = list(_inner_jaxprs(equation))
  if not bodies:
    _log.warning("No table of analysis/flops.py names %r: counted as elementwise.", name)
    return _elements(equation.outvars)
  return _repeats(equation) * sum(
    _count(inner, read if len(inner.outvars) == len(read) else [True] * len(inner.outvars))
    for inner in bodies
  )


def _inner_jaxprs(equation: JaxprEqn) -> Iterator[Jaxpr]:
  """Every jaxpr among an equation's parameters: the bodies of jit, remat, custom_vjp, while."""
  for value in equation.params.values():
    for item in value if isinstance(value, tuple) else (value,):
      if isinstance(item, ClosedJaxpr | Jaxpr):
        yield item.jaxpr if isinstance(item, ClosedJaxpr) else item


def _repeats(equation: JaxprEqn) -> int:
  """How often the jaxprs inside an equation run."""
  if equation.primitive.name == "shard_map":
    return equation.params["mesh"].size
  if equation.primitive.name == "pallas_call":
    return math.prod(equation.params["grid_mapping"].grid)
  return 1


def _elements(variables) -> int:
  return sum(math.prod(v.aval.shape) for v in variables)


def _cost(equation: JaxprEqn, product: int) -> int:
  """Real operations in one: 1, or for complex numbers `product` (products) or 2 (the rest)."""
  if not jax.numpy.issubdtype(equation.invars[0].aval.dtype, jax.numpy.complexfloating):
    return 1
  products = (*_PRODUCTS, "mul", "div", "square", "integer_pow", "cumprod", "reduce_prod")
  return product if equation.primitive.name in products else 2


def _dot(equation: JaxprEqn) -> int:
  """Multiply-adds of a dot_general."""
  (contracted, _), _ = equation.params["dimension_numbers"]
  left = equation.invars[0].aval.shape
  return _elements(equation.outvars) * math.prod(left[axis] for axis in contracted)


def _ragged_dot(equation: JaxprEqn) -> int:
  """Multiply-adds of a ragged_dot_general, each row meeting one group's matrix only."""
  numbers = equation.params["ragged_dot_dimension_numbers"]
  (contracted, _), _ = numbers.dot_dimension_numbers
  left = equation.invars[0].aval.shape
  products = _elements(equation.outvars) * math.prod(left[axis] for axis in contracted)
  if set(numbers.lhs_ragged_dimensions) & set(contracted):  # the weights' gradient: rows are split
    groups = equation.invars[2].aval.shape[-1]
    return products // groups
  return products


def _convolution(equation: JaxprEqn) -> int:
  """Multiply-adds of a convolution, those with padding among them."""
  kernel = equation.invars[1].aval.shape
  output_features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
  return _elements(equation.outvars) * math.prod(kernel) // output_features


def _triangular_solve(equation: JaxprEqn) -> int:
  """Multiply-adds of solving with a triangular matrix, half of which is zeros."""
  return equation.invars[1].aval.size * equation.invars[0].aval.shape[-1] // 2


_PRODUCTS = {
  "dot_general": _dot,
  "ragged_dot_general": _ragged_dot,
  "conv_general_dilated": _convolution,
  "triangular_solve": _triangular_solve,
}
