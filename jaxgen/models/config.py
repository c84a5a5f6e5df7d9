"""What every model's config has in common."""

from typing import TYPE_CHECKING, Any

from flax import nnx

from jaxgen.data.spec import DataSpec


class ModelConfig:
    """Base of the frozen dataclasses that configure a model and build it."""

    if TYPE_CHECKING:  # a field of some models; a property here would become a field's default value

        @property
        def labels(self) -> tuple[str, ...]:
            """Names of the labels that condition the model."""
    else:
        labels = ()

    def make(self, data: DataSpec, *, dtype: Any, rngs: nnx.Rngs) -> nnx.Module:
        """Builds the module for data of this spec; matrix products run in `dtype`, parameters are float32."""
        raise NotImplementedError
