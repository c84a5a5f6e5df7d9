"""What every model's config has in common."""

from typing import TYPE_CHECKING, Any, Self

from flax import nnx

from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec


class ModelConfig:
    """Base of the frozen dataclasses that configure a model and build it."""

    if TYPE_CHECKING:  # a field of some models; a property here would become a field's default value

        @property
        def labels(self) -> tuple[str, ...]:
            """Names of the labels that condition the model."""
    else:
        labels = ()

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams that the model reads, beside the steps."""
        return ()

    def make(self, data: DataSpec, *, dtype: Any, rngs: nnx.Rngs) -> nnx.Module:
        """Builds the module for data of this spec; matrix products run in `dtype`, parameters are float32."""
        raise NotImplementedError

    def with_refinements(self, refinements: int) -> Self:
        """The same with so many iterations of Griffin-Lim behind its sound. Raises UserError where it makes none of frames."""
        raise UserError(f"--refinements is {refinements}, but a {type(self).__name__} is no vocoder; leave it out.")
