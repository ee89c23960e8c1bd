"""Read reference.json: what known pictures, and the model's answers to them, look like."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from gateway.contract import Contract
from gateway.errors import ContractError

# The upper bounds of the bins; one more bin, "more", has no bound.
BOUNDS = {
    "top_probability": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
    "entropy": (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),  # 1: all labels equally likely
    "brightness": (40, 60, 80, 100, 120, 140, 160, 180, 200, 220),  # mean of the pixels, 0 to 255
    "contrast": (20, 30, 40, 50, 60, 70, 80, 90),  # their standard deviation
    "longer_side": (200, 300, 400, 600, 1000, 2000, 4000),  # of the picture as it came, in pixels
    "aspect_ratio": (1.05, 1.2, 1.3, 1.4, 1.6, 2.0),  # its longer side through the shorter one
}
MORE = "more"


def bins(contract: Contract) -> dict[str, list[str]]:
    """Return the names of the bins of each signal: upper bounds, and the contract's labels."""
    bounded = {signal: [*map(str, bounds), MORE] for signal, bounds in BOUNDS.items()}
    return bounded | {"label": list(contract.labels)}


@dataclass(frozen=True)
class Reference:
    """Describe known pictures, and the model's answers to them."""

    pictures: int = 0  # how many there were
    unsure_below: float = 0.0  # the model is not sure of a best label that is less likely
    shares: dict[str, dict[str, float]] = field(default_factory=dict)  # by signal, then by bin

    @classmethod
    def beside(cls, contract_path: str | Path, contract: Contract) -> "Reference":
        """Read reference.json beside the contract; return an empty reference if there is none.

        Raises ContractError if it cannot be used, or is of other labels.
        """
        path = Path(contract_path).with_name("reference.json")
        if not path.exists():
            return cls()
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
            names = {signal: list(each) for signal, each in found.shares.items()}
            if names and names != bins(contract):
                raise ValueError("its signals, bins or labels are not this gateway's")
            shares = [share for each in found.shares.values() for share in each.values()]
            if not all(0 <= share <= 1 for share in [*shares, found.unsure_below]):
                raise ValueError("shares and unsure_below are numbers from 0 to 1")
            return found
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ContractError(
                f"cannot use {path}: {error}. Write it again with"
                " `python -m gateway.operations.measure_reference`, or delete it"
            ) from error
