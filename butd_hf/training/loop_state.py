# SPDX-License-Identifier: Apache-2.0
"""Where a run is, as its checkpoints hold it."""

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass
class LoopState:
    """Where a run is. Saved with every checkpoint."""

    epoch: int = 0
    batch: int = 0  # batches of this epoch that each process has consumed
    step: int = 0  # optimizer steps in all
    best: float | None = None  # best value of the chosen metric
    best_epoch: int = -1
    evaluations: int = 0
    evaluations_without_gain: int = 0
    seconds: float = 0.0  # spent training, over all resumptions
    # what the order of examples depends on: a run cannot be resumed exactly with others
    seed: int = 0
    batch_size: int = 0
    num_processes: int = 1
    gradient_accumulation_steps: int = 1

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a saved state. Raises `ValueError` if that run ordered its examples otherwise."""
        for name in ("seed", "batch_size", "num_processes", "gradient_accumulation_steps"):
            if state[name] != getattr(self, name):
                raise ValueError(f"Cannot resume with {name}={getattr(self, name)}: the run had {state[name]}.")
        for field in fields(self):
            setattr(self, field.name, state.get(field.name, getattr(self, field.name)))  # older runs know fewer


__all__ = ["LoopState"]
