"""The simulation against queueing theory, and plans against the simulation."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutorial.capacity import GATEWAY_VARIATION, Gateway, Model, fit_batches, plan, simulate

GATEWAY = Gateway(cpu_seconds=0.004, price_per_hour=0.05)
FAST_GATEWAY = Gateway(cpu_seconds=1e-6, price_per_hour=0.05)
MODEL = Model(fixed_seconds=0.005, image_seconds=0.007, price_per_hour=0.3, largest_batch=8)
SLOW = Model(fixed_seconds=0.02, image_seconds=0.07, price_per_hour=0.1)
GPU = Model(fixed_seconds=0.004, image_seconds=0.0005, price_per_hour=1.0, pads=True)
ONE = {"gateways": 1, "models": 1}


@settings(deadline=None)  # a busy machine is no failure
@given(fixed=st.floats(1e-4, 1), image=st.floats(1e-4, 1))
def test_fit_batches_finds_both_costs(fixed, image):
    sizes = [1, 2, 4, 8]
    found = fit_batches(sizes, [fixed + image * size for size in sizes])
    assert found == pytest.approx((fixed, image), rel=1e-6)


def test_fit_batches_gives_no_negative_cost():
    fixed, image = fit_batches([1, 2, 4], [0.1, 0.21, 0.43])
    assert fixed == 0
    assert image > 0


def test_seconds_counts_the_images_that_fill_a_batch():
    assert MODEL.seconds(5) == pytest.approx(0.04)
    assert [GPU.seconds(images) for images in (1, 5, 32)] == pytest.approx([0.0045, 0.008, 0.02])


def test_simulate_without_queues_adds_up_the_costs():
    found = simulate(GATEWAY, MODEL, rate=0.1, overhead=0.003, images=2000, **ONE)
    assert found.latencies.mean() == pytest.approx(0.003 + 0.004 + 0.012, rel=0.01)
    assert found.mean_batch == 1


@pytest.mark.parametrize("load", [0.3, 0.8])
@pytest.mark.parametrize(
    ("gateway", "model", "variation"),
    [
        (FAST_GATEWAY, Model(0.01, 0.0, 0.3, largest_batch=1), 0),
        (Gateway(0.01, 0.05), Model(1e-6, 0.0, 0.3), GATEWAY_VARIATION),
    ],
    ids=["model", "gateway"],
)
def test_simulate_agrees_with_queueing_theory(gateway, model, variation, load):
    """Pollaczek and Khinchine's formula for one server that needs 0.01 s on average."""
    found = simulate(gateway, model, rate=100 * load, **ONE, images=50_000)
    waited = found.latencies.mean() - 0.01
    assert waited == pytest.approx((1 + variation**2) * 0.01 * load / (2 * (1 - load)), rel=0.1)
    if not variation:
        assert found.model_busy == pytest.approx(load, rel=0.03)


def test_simulate_lets_a_first_image_wait_for_the_timeout():
    model = Model(0.005, 0.007, 0.3, timeout=0.05)
    found = simulate(FAST_GATEWAY, model, rate=0.1, images=200, **ONE)
    assert found.percentile(50) == pytest.approx(0.05 + 0.012, abs=1e-4)


def test_simulate_starts_a_full_batch_at_once():
    model = Model(0.005, 0.007, 0.3, largest_batch=2, timeout=60)
    found = simulate(FAST_GATEWAY, model, rate=1, images=1000, **ONE)
    assert found.mean_batch == 2
    assert found.percentile(99) < 10


def test_simulate_of_too_many_images_fills_every_batch():
    found = simulate(GATEWAY, MODEL, rate=2000, gateways=8, models=2, images=5000)
    assert 0.95 < found.model_busy <= 1
    assert 7.8 < found.mean_batch <= 8
    assert found.latencies[-1] > 5 * found.latencies[0]


@pytest.mark.parametrize(
    ("model", "rate", "p99"),
    [(SLOW, 20, 0.4), (SLOW, 50, 1.0), (MODEL, 1000, 0.15), (GPU, 3000, 0.1)],
)
def test_plan_is_fast_enough_and_not_much_too_large(model, rate, p99):
    found = plan(GATEWAY, model, rate=rate, p99=p99, spare=0)

    def late(models):
        result = simulate(GATEWAY, model, rate=rate, gateways=found.gateways, models=models)
        return result.percentile(99) > p99

    assert not late(found.models)
    assert late(found.models // 2)


def test_plan_counts_and_pays_for_spare_replicas():
    tight, safe = (plan(GATEWAY, MODEL, rate=100, p99=0.2, spare=spare) for spare in (0, 2))
    assert (safe.gateways, safe.models) == (tight.gateways + 2, tight.models + 2)
    assert f"{tight.gateways} needed" in str(safe)
    assert safe.price_per_hour - tight.price_per_hour == pytest.approx(2 * (0.05 + 0.3))
    assert safe.price_per_million == pytest.approx(safe.price_per_hour / 0.36)
