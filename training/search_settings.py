"""Settings of a differentiable search. No torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from supernet import Settings


class DifferentiableSettings(Settings):
    """How a shared network is searched. The defaults are those of PC-DARTS (Xu et al. 2020), and what stops collapse.

    Attributes:
        epochs: over half of the training images.
        warmup: the first epochs in which the weights alone learn.
        batch_size: images a step, of each half.
        learning_rate: of the weights, falling along a cosine.
        weight_decay: L2 penalty on the weights.
        architecture_rate: of the logits, by Adam.
        architecture_decay: L2 penalty on the logits.
        relaxation: ``mixture`` computes every operation and weighs it; ``sampled`` draws one architecture a step, with
            a gradient for what was drawn (Dong and Yang 2019), at a fraction of the time and memory.
        partial: a mixed operation sees the first of so many parts of the channels; 1: all of them.
        strengths: edge normalisation: the inputs of a node compete, too.
        temperature: logits are divided by it, from the first epoch to the last, falling geometrically.
        beta_decay: weight of the regulariser of beta-DARTS at the last epoch, to which it rises linearly; 0 is none.
        most_skips: identities that a cell may keep where accuracy counts more than cost; None sets no cap.
        pieces: each batch is passed in so many pieces: less memory, the same steps but for the batch norms.
        precision: arithmetic of the forward pass, as of a recipe.
    """

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 50
    warmup: Annotated[int, Field(ge=0, le=10_000)] = 15
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 256
    learning_rate: Annotated[float, Field(gt=0, le=100)] = 0.1
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 3e-4
    architecture_rate: Annotated[float, Field(gt=0, le=10)] = 6e-4
    architecture_decay: Annotated[float, Field(ge=0, lt=1)] = 1e-3
    relaxation: Literal["mixture", "sampled"] = "mixture"
    partial: Annotated[int, Field(ge=1, le=64)] = 4
    strengths: bool = True
    temperature: tuple[Annotated[float, Field(gt=0, le=1000)], Annotated[float, Field(gt=0, le=1000)]] = (1.0, 1.0)
    beta_decay: Annotated[float, Field(ge=0, le=1000)] = 0.0
    most_skips: Annotated[int, Field(ge=0, le=100)] | None = 2
    pieces: Annotated[int, Field(ge=1, le=1024)] = 1
    precision: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _learns(self) -> DifferentiableSettings:
        if self.warmup >= self.epochs:
            raise ValueError(
                f"warmup: {self.warmup} of {self.epochs} epochs leave none in which the architecture learns; "
                f"expected less"
            )
        return self
