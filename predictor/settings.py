"""Settings of the graph predictor, apart from it: a recipe is checked without torch."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from supernet import Settings


class GraphPredictorSettings(Settings):
    """Settings of the graph predictor.

    Attributes:
        members: networks in each ensemble, at least 5, so that every label is foreign to one.
        width: hidden channels of a node in one network.
        layers: rounds of messages, each one edge far in both directions.
        reverse_edges: messages go against the edges too, not along them alone.
        epochs: passes over the training graphs; fewer, 10 at least, where that would be more than 1,500 steps.
        batch_size: graphs in a step; fewer where the table would give less than 5 steps an epoch.
        learning_rate: peak of the one-cycle schedule.
        weight_decay: decoupled weight decay of the weights, not the biases.
        pair_weight: share of the ranking loss, the rest is squared error.
        pretraining_steps: steps in which the networks learn to describe unlabelled graphs before they see labels.
        dropout: share of channels dropped in training, of nodes and of whole graphs.
    """

    members: Annotated[int, Field(ge=1, le=64)] = 10
    width: Annotated[int, Field(ge=4, le=1024)] = 16
    layers: Annotated[int, Field(ge=1, le=32)] = 3
    reverse_edges: bool = True
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 60
    batch_size: Annotated[int, Field(ge=2, le=65536)] = 50
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-2
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 1e-2
    pair_weight: Annotated[float, Field(ge=0, le=1)] = 0.8
    pretraining_steps: Annotated[int, Field(ge=0, le=100_000)] = 0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_runs(cls, values: Any) -> Any:  # noqa: ANN401 - whatever a file holds
        """The folders of earlier runs say ``use_features: false``, which is what holds now without ``fit.features``."""
        if isinstance(values, dict) and values.get("use_features") is False:
            return {name: value for name, value in values.items() if name != "use_features"}
        return values
