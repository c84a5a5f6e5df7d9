"""What is computed does not depend on the environment: random keys of one kind, and jax's settings of types."""

import sys
from typing import Any

import jax

_IMPLEMENTATION = "threefry2x32"
_SETTINGS: dict[str, Any] = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": _IMPLEMENTATION,
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_transfer_guard": None,  # batches and figures go to and fro
    "jax_transfer_guard_host_to_device": None,
    "jax_transfer_guard_device_to_device": None,
    "jax_transfer_guard_device_to_host": None,
}
"""Those that decide dtypes, shapes or random numbers, or forbid what a command does."""


def random_key(seed: int) -> jax.Array:
    """The random key of a seed, whatever JAX_DEFAULT_PRNG_IMPL says."""
    return jax.random.key(seed, impl=_IMPLEMENTATION)


def wrap_key(data: jax.Array) -> jax.Array:
    """The random key of its data, uint32 [..., 2]."""
    return jax.random.wrap_key_data(data, impl=_IMPLEMENTATION)


def fix_settings() -> None:
    """Sets what this project is made for, as a command does that owns its process; says what that overrides."""
    for setting in other_settings():
        print(f"jaxgen: {setting} of the environment is not used", file=sys.stderr)
    for name, value in _SETTINGS.items():
        jax.config.update(name, value)


def other_settings() -> list[str]:
    """Settings of this process that are not those this project is made for, as NAME=value."""
    found = {name: jax.config.values[name] for name in _SETTINGS}
    if found["jax_transfer_guard"]:  # which sets those that follow
        found |= {name: None for name in found if name.startswith("jax_transfer_guard_")}
    return [f"{name.upper()}={found[name]}" for name, value in _SETTINGS.items() if found[name] != value]
