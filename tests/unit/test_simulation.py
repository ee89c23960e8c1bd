"""The simulation obeys the rules of the servers it stands for, and agrees with the formulas."""

from dataclasses import replace

import numpy as np
import pytest

from tutorial.capacity import Batching, Demand, GatewayTier, Headroom, ModelTier, plan, predict
from tutorial.simulation import fewest_models, simulate

GATEWAY = GatewayTier(cpu_seconds=0.004, price_per_hour=0.05)
IDLE_GATEWAY = GatewayTier(cpu_seconds=1e-6, price_per_hour=0.05)
SMALL = ModelTier(fixed_seconds=0.005, per_image_seconds=0.007, price_per_hour=0.3)
LARGE = ModelTier(fixed_seconds=0.036, per_image_seconds=0.087, price_per_hour=0.3)
GPU = ModelTier(fixed_seconds=0.004, per_image_seconds=0.0005, price_per_hour=1.0, gpu=True)
ONE = {"gateways": 1, "models": 1}


def test_a_seed_is_a_result():
    busy = {"images_per_second": 50, "images": 1000}
    results = [
        simulate(GATEWAY, SMALL, Batching(max_batch_size=8), **ONE, **busy, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert np.array_equal(results[0].latencies, results[1].latencies)
    assert not np.array_equal(results[0].latencies, results[2].latencies)


def test_nobody_waits_where_nobody_else_is():
    steady = replace(GATEWAY, variation=0.0)
    settings = {"images_per_second": 0.1, "overhead_seconds": 0.003, "images": 200}
    found = simulate(steady, SMALL, Batching(max_batch_size=8), **settings, **ONE)
    assert found.percentile(50) == pytest.approx(0.003 + 0.004 + 0.012)
    assert found.mean_batch == 1


def test_a_first_image_waits_for_the_timeout():
    batching = Batching(max_batch_size=8, batch_timeout_seconds=0.05)
    found = simulate(IDLE_GATEWAY, SMALL, batching, images_per_second=0.1, **ONE, images=200)
    assert found.percentile(50) == pytest.approx(0.05 + 0.012, abs=1e-4)
    assert found.queue_seconds == pytest.approx(0.05)


def test_a_full_batch_waits_for_nobody():
    batching = Batching(max_batch_size=2, batch_timeout_seconds=60)
    found = simulate(IDLE_GATEWAY, SMALL, batching, images_per_second=1, **ONE, images=1000)
    assert found.mean_batch == 2
    assert found.percentile(99) < 10


@pytest.mark.parametrize("load", [0.3, 0.8])
def test_batches_of_one_are_the_queue_of_the_textbooks(load):
    model = replace(SMALL, fixed_seconds=0.01, per_image_seconds=0.0)
    batching = Batching(max_batch_size=1)
    found = simulate(
        IDLE_GATEWAY, model, batching, images_per_second=100 * load, **ONE, images=15_000
    )
    assert found.queue_seconds == pytest.approx(0.01 * load / (2 * (1 - load)), rel=0.1)
    assert found.model_utilisation == pytest.approx(load, rel=0.03)


def test_too_much_fills_batches_and_keeps_all_busy_and_no_more():
    batching = Batching(max_batch_size=4, num_batch_threads=2)
    model = replace(SMALL, batch_threads=2)
    settings = {"gateways": 2, "models": 2, "images_per_second": 1000, "images": 5000}
    found = simulate(GATEWAY, model, batching, **settings)
    assert 0.95 < found.model_utilisation <= 1
    assert 3.9 < found.mean_batch <= 4
    assert found.latencies[-1] > 5 * found.latencies[0]


@pytest.mark.parametrize("model", [SMALL, LARGE, GPU], ids=["small", "large", "gpu"])
@pytest.mark.parametrize("load", [0.1, 0.8])
@pytest.mark.parametrize("limit", [1, 32])
def test_the_formula_agrees_for_one_model(model, load, limit):
    """Up to 15% too slow: busy gateways let images go one by one, more evenly than they came."""
    batching = Batching(max_batch_size=limit)
    rate = load * model.images_per_second(limit)
    where = {"images_per_second": rate, "gateways": 1 + int(rate * 0.004 / 0.6), "models": 1}
    expected = predict(GATEWAY, model, batching, **where)
    found = simulate(GATEWAY, model, batching, **where, images=8_000)
    assert 0.93 < expected.p99_seconds / found.percentile(99) < 1.15
    assert expected.model_utilisation == pytest.approx(found.model_utilisation, abs=0.03)
    assert expected.mean_batch == pytest.approx(found.mean_batch, rel=0.1)


@pytest.mark.parametrize(
    ("model", "rate", "p99"),
    [(LARGE, 20, 0.3), (LARGE, 50, 1.0), (SMALL, 1000, 0.15), (GPU, 3000, 0.1)],
)
def test_the_plan_is_enough_and_seldom_too_much(model, rate, p99):
    demand = Demand(images_per_second=rate, p99_seconds=p99)
    found = plan(demand, GATEWAY, model, Headroom(lost_replicas=0))
    gateways, models = found.gateways.needed, found.models.needed
    least = fewest_models(
        demand, GATEWAY, model, found.batching, gateways=gateways, at_most=models, images=6_000
    )
    assert least <= models <= max(least + 1, 1.5 * least)  # half more, where hardly any may wait
