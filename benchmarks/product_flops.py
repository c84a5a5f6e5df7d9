"""Arithmetic of what jax traces."""

from collections.abc import Callable
from math import prod
from typing import Any

import jax
from jax.extend.core import jaxprs_in_params
from jax.interpreters import partial_eval


def product_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Arithmetic of all matrix products that the results of function(*arguments) need; the function is not run.

    A multiplication and an addition are two. Convolutions that are written as products count, those of one feature
    each and Fourier transforms do not. The body of a scan counts as often as it runs, of a choice the branch with most.
    """
    traced = jax.make_jaxpr(function)(*arguments).jaxpr
    needed, _ = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))
    return _flops(needed)


def _flops(jaxpr: Any) -> int:
    return sum(_flops_of(equation) for equation in jaxpr.eqns)


def _flops_of(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (summed, _), _ = params["dimension_numbers"]
        left, result = equation.invars[0].aval, equation.outvars[0].aval
        return 2 * result.size * prod(left.shape[axis] for axis in summed)
    if name == "cond":
        return max(_flops(branch.jaxpr) for branch in params["branches"])
    inner = sum(_flops(jaxpr) for jaxpr in jaxprs_in_params(params))
    return inner * params["length"] if name == "scan" else inner
