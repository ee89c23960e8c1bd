"""How many replicas of each tier a load needs, with which batches, and what that costs.

The gateway's replicas are queues before a few cores; the model's are queues that are emptied in
batches. `predict` says how long images take in given numbers of both, `plan` turns that round, and
tutorial.simulation says how far `predict` is off. Images arrive one by one and independently of
each other (a Poisson process), and every replica of a tier gets the same share.
"""

from tutorial.capacity.measured import Compared, Measured, compare, read_measured
from tutorial.capacity.planning import Plan, TierPlan, plan
from tutorial.capacity.queues import Prediction, erlang_c, predict
from tutorial.capacity.tiers import (
    Batching,
    CannotBeMet,
    Demand,
    GatewayTier,
    Headroom,
    ModelTier,
    fit_batches,
)

__all__ = [
    "Batching",
    "CannotBeMet",
    "Compared",
    "Demand",
    "GatewayTier",
    "Headroom",
    "Measured",
    "ModelTier",
    "Plan",
    "Prediction",
    "TierPlan",
    "compare",
    "erlang_c",
    "fit_batches",
    "plan",
    "predict",
    "read_measured",
]
