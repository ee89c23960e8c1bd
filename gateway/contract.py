"""What a client must know of a model that its signature does not say.

Exported from notebooks/03-tf-serving-connect.ipynb: change the notebook, then run `make export`.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path


class ContractError(ValueError):
    """A contract that cannot be used; the message says which, and why."""


@dataclass(frozen=True)
class Contract:
    """What a client must know of a model that its signature does not say."""

    model_name: str
    signature_name: str
    preprocessing: str  # how pixels become numbers, a name that gateway.images knows
    labels: tuple[str, ...]  # in the order of the model's output
    scores: str  # "logits" or "probabilities"

    @classmethod
    def read(cls, path: str | Path) -> "Contract":
        """Read contract.json; raises ContractError where it is missing or incomplete."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            if wrong := {field.name for field in fields(cls)} ^ set(found):
                raise ValueError(f"missing in it, or unknown: {', '.join(sorted(wrong))}")
            lists = isinstance(found["labels"], list)
            if not lists or found["scores"] not in ("logits", "probabilities"):
                raise ValueError("labels are a list, scores logits or probabilities")
            return cls(**found | {"labels": tuple(found["labels"])})
        except (OSError, ValueError, TypeError) as error:
            raise ContractError(
                f"cannot use the contract {path}: {error}; notebook 01 writes a good one"
            ) from error
