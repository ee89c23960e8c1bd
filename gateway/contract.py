"""Read what a client must know about a model that its signature does not say."""

import json
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

import numpy as np

from gateway.errors import ContractError
from gateway.preprocessing import SCALINGS, scaling
from gateway.resizing import MODES, RESIZES

SCORES = ("logits", "probabilities", "independent")


@dataclass(frozen=True)
class Contract:
    """Describe a model beyond its signature, as contract.json does."""

    model_name: str
    signature_name: str
    preprocessing: str  # how pixels become numbers: a name that gateway.preprocessing knows
    labels: tuple[str, ...]  # in the order of the model's output
    scores: str  # one of SCORES; independent: one sigmoid for each label, or one for two labels
    resize: str = "nearest"  # one of RESIZES
    shrink_jpegs: bool = False  # whether a large JPEG is averaged while it is decoded
    colours: int = 3  # 1 for grey pictures, 3 for red, green and blue, 4 with transparency

    @classmethod
    def read(cls, path: str | Path) -> "Contract":
        """Read contract.json. Raises ContractError if it is missing or incomplete.

        A contract of an older version has no `resize`, `shrink_jpegs` and `colours`.
        """
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            required = {field.name for field in fields(cls) if field.default is MISSING}
            known = {field.name for field in fields(cls)}
            if wrong := required - set(found) | set(found) - known:
                raise ValueError(f"missing in it, or unknown: {', '.join(sorted(wrong))}")
            contract = cls(**found | {"labels": tuple(found["labels"])})
            texts = isinstance(found["labels"], list) and all(
                isinstance(text, str) and text for text in contract.labels
            )
            if not texts or len(set(contract.labels)) < len(contract.labels):
                raise ValueError("labels are a list of different texts")
            if contract.scores not in SCORES:
                raise ValueError(f"scores are one of {', '.join(SCORES)}")
            if contract.resize not in RESIZES or not isinstance(contract.shrink_jpegs, bool):
                raise ValueError(f"resize is one of {', '.join(RESIZES)}; shrink_jpegs a boolean")
            if type(contract.colours) is not int or contract.colours not in MODES:
                raise ValueError("colours are 1, 3 or 4")
            chosen = scaling(contract.preprocessing)
            if contract.colours != 3 and chosen in (SCALINGS["caffe"], SCALINGS["torch"]):
                raise ValueError(f"preprocessing {contract.preprocessing!r} is for 3 colours")
            return contract
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ContractError(
                f"cannot use the contract {path}: {error}; notebook 01 writes a good one"
            ) from error

    def score_each(self, scores: np.ndarray) -> np.ndarray:
        """Return one score for each label, from a model's scores (N, outputs).

        A model of two labels may have one output, the second label's score.
        """
        if len(self.labels) != 2 or scores.shape[1:] != (1,):
            return scores
        first = np.zeros_like(scores) if self.scores == "logits" else 1 - scores
        return np.concatenate([first, scores], axis=1)

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return probabilities for scores of shape (…, labels): the softmax of logits."""
        if self.scores != "logits":
            return scores
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True), dtype=np.float64)
        return powers / powers.sum(axis=-1, keepdims=True)
