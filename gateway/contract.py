"""Read what a client must know about a model that its signature does not say."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

from gateway.errors import ContractError


@dataclass(frozen=True)
class Contract:
    """Describe a model beyond its signature, as contract.json does."""

    model_name: str
    signature_name: str
    preprocessing: str  # how pixels become numbers: a name that gateway.preprocessing knows
    labels: tuple[str, ...]  # in the order of the model's output
    scores: str  # "logits" or "probabilities"

    @classmethod
    def read(cls, path: str | Path) -> "Contract":
        """Read contract.json. Raises ContractError if it is missing or incomplete."""
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
