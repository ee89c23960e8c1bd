"""Formulas against textbooks, plans against common sense, field names against the manifests."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tutorial import TutorialError, services
from tutorial.capacity import (
    Batching,
    CannotBeMet,
    Demand,
    GatewayTier,
    Headroom,
    Measured,
    ModelTier,
    compare,
    erlang_c,
    fit_batches,
    plan,
    predict,
    read_measured,
)
from tutorial.capacity.queues import MEMORY, arrivals, batch_queue, following, gateway_wait

GATEWAY = GatewayTier(cpu_seconds=0.004, price_per_hour=0.05)
MODEL = ModelTier(
    fixed_seconds=0.005,
    per_image_seconds=0.007,
    price_per_hour=0.3,
    cores=2,
    largest_batch=8,  # small batches are planned faster
)
GPU = ModelTier(
    fixed_seconds=0.004,
    per_image_seconds=0.0005,
    price_per_hour=1.0,
    gpu=True,
    max_unavailable=1,
    max_surge=0,
)
RATES = st.floats(0.1, 20_000)


def demand(rate: float, p99: float = 0.2, per_call: int = 8) -> Demand:
    return Demand(
        images_per_second=rate, p99_seconds=p99, overhead_seconds=0.003, images_per_call=per_call
    )


# Formulas


@given(fixed=st.floats(1e-4, 1), per_image=st.floats(1e-4, 1))
def test_a_fit_finds_what_batches_were_made_from(fixed, per_image):
    sizes = [1, 2, 4, 8, 16]
    found = fit_batches(sizes, [fixed + size * per_image for size in sizes])
    assert found == pytest.approx((fixed, per_image), rel=1e-6)


@pytest.mark.parametrize("seconds", [[1.0, 2.5], [3.0, 2.5]], ids=["dear images", "cheap images"])
def test_no_cost_is_negative(seconds):
    assert min(fit_batches([1, 2], seconds)) == 0


@pytest.mark.parametrize(
    ("sizes", "seconds"), [([8], [1.0]), ([1, 1], [1.0, 1.1]), ([1, 2], [1.0]), ([1, 2], [0, 1])]
)
def test_a_fit_needs_two_sizes_and_their_times(sizes, seconds):
    with pytest.raises(TutorialError, match="two sizes"):
        fit_batches(sizes, seconds)


def test_erlangs_formula():
    assert erlang_c(1, 0.3) == pytest.approx(0.3)
    assert erlang_c(2, 0.75) == pytest.approx(9 / 14)
    assert erlang_c(500, 0.5) < 1e-9


@pytest.mark.parametrize("load", [0.2, 0.9])
def test_one_core_and_steady_work_is_pollaczeks_and_khinchines_queue(load):
    steady = replace(GATEWAY, variation=0.0)
    waits, seconds = gateway_wait(steady, load * steady.images_per_second())
    assert waits * seconds == pytest.approx(0.004 * load / (2 * (1 - load)))


@pytest.mark.parametrize("load", [0.2, 0.9])
def test_batches_of_one_are_that_queue_too(load):
    found = batch_queue(MODEL, Batching(max_batch_size=1), load / 0.012)
    assert found.queue_seconds == pytest.approx(0.012 * load / (2 * (1 - load)), rel=0.01)
    assert found.utilisation == pytest.approx(load)
    assert found.shares.sum() == pytest.approx(1)


@given(
    mean=st.floats(0.01, 100),
    gateways=st.integers(1, 50),
    models=st.integers(1, 50),
)
@settings(deadline=None)
def test_taking_turns_spreads_arrivals_less_and_loses_none(mean, gateways, models):
    [shares] = arrivals(np.array([mean]), 400, gateways, models)
    numbers = np.arange(400)
    assert shares.sum() == pytest.approx(1)
    assert shares @ numbers == pytest.approx(mean, rel=1e-6)
    variance = shares @ (numbers - mean) ** 2
    bound = mean / models + gateways / (4 * MEMORY)
    assert variance <= min(mean, bound + 1) + 1e-6  # 1: trials are whole numbers


def test_after_an_image_its_gateway_goes_on_to_other_models_first():
    means = np.array([0.1, 0.5, 5.0])
    assert following(means, 1, 1) == pytest.approx(means)
    assert following(means, 1, 20) == pytest.approx([0, 0, 4.5], abs=0.05)
    assert following(means, 100, 20) == pytest.approx(0.99 * means, abs=0.05)


def test_more_than_a_tier_can_do_takes_for_ever():
    numbers = {"gateways": 1, "models": 1}
    found = predict(GATEWAY, MODEL, Batching(max_batch_size=8), images_per_second=1e4, **numbers)
    assert found.p99_seconds == math.inf
    assert (found.gateway_utilisation, found.model_utilisation) == (1, 1)


# Plans


def test_next_to_nothing_needs_one_of_each_and_the_headroom():
    found = plan(demand(0.1), GATEWAY, MODEL, Headroom(lost_replicas=1))
    assert [(tier.needed, tier.replicas) for tier in (found.gateways, found.models)] == [(1, 2)] * 2
    assert found.cost_per_hour == pytest.approx(2 * 0.05 + 2 * 0.3)
    assert found.cost_per_million == pytest.approx(0.7 / 360 * 1e6)
    assert "2 gateways (1 needed), 2 models (1 needed)" in found.summary()


@given(rate=RATES)
@settings(deadline=None, max_examples=15)
def test_the_demand_is_met_before_and_after_a_loss(rate):
    found = plan(demand(rate), GATEWAY, MODEL)
    for prediction in (found.expected, found.after_loss):
        assert prediction.p99_seconds <= 0.2
        assert 0 < prediction.gateway_utilisation <= 1
        assert 0 < prediction.model_utilisation <= 1


@given(rate=RATES, more=st.floats(1, 3))
@settings(deadline=None, max_examples=15)
def test_more_load_never_needs_fewer_replicas(rate, more):
    little, much = (plan(demand(each), GATEWAY, MODEL) for each in (rate, rate * more))
    assert little.gateways.needed <= much.gateways.needed
    assert little.models.needed <= much.models.needed


def test_less_patience_never_needs_fewer_models():
    needed = [
        plan(demand(1000, p99), GATEWAY, MODEL).models.needed for p99 in (0.08, 0.1, 0.2, 1.0)
    ]
    assert needed == sorted(needed, reverse=True)
    assert needed[0] > needed[-1]


def test_what_cannot_be_had_is_said_and_what_can():
    with pytest.raises(CannotBeMet, match="p99 of 15 ms cannot be had") as caught:
        plan(demand(10, 0.015), GATEWAY, MODEL)
    least = int(re.search(r"nothing to do is (\d+) ms", str(caught.value))[1])
    assert least > 0.003 + 0.004 + 0.012
    plan(demand(10, least / 1000), GATEWAY, MODEL)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (lambda: demand(0), "images_per_second is 0"),
        (lambda: demand(10, math.nan), "p99_seconds is nan"),
        (lambda: replace(GATEWAY, cpu_seconds=0.0), "cpu_seconds is 0.0"),
        (lambda: replace(MODEL, largest_batch=0), "largest_batch is 0"),
    ],
)
def test_what_is_not_more_than_zero_is_named(wrong, name):
    with pytest.raises(TutorialError, match=name):
        wrong()


def test_gifts_are_planned_too():
    free = replace(GATEWAY, price_per_hour=0.0), replace(MODEL, price_per_hour=0.0)
    assert plan(demand(100), *free).cost_per_hour == 0


def test_a_batch_must_hold_what_a_caller_may_send():
    with pytest.raises(CannotBeMet, match="largest batch has 8"):
        plan(demand(10, per_call=32), GATEWAY, MODEL)
    nothing_saved = replace(MODEL, fixed_seconds=0.0)
    assert plan(demand(10, per_call=1), GATEWAY, nothing_saved).batching.max_batch_size == 1


@given(
    needed=st.integers(1, 500),
    zones=st.integers(2, 5),
    lost=st.integers(0, 3),
    unavailable=st.integers(0, 1),
)
def test_a_zone_may_be_lost_during_a_rollout(needed, zones, lost, unavailable):
    tier = replace(MODEL, max_unavailable=unavailable)
    replicas = Headroom(lost_replicas=lost, zones=zones).replicas(needed, tier)
    assert replicas - max(lost, math.ceil(replicas / zones)) - unavailable >= needed


def test_one_zone_cannot_be_spared():
    with pytest.raises(TutorialError, match="two zones"):
        Headroom(zones=1).replicas(3, MODEL)


def test_a_gpu_is_scaled_by_images_and_needs_no_room_for_a_surge():
    found = plan(demand(5000), GATEWAY, GPU).models
    assert found.target_percent is None
    assert found.room == found.replicas == found.needed + 2  # one lost, one in a rollout


def test_processors_do_not_tell_where_batches_hide_the_load():
    steep = replace(MODEL, fixed_seconds=0.05, per_image_seconds=0.001)
    assert plan(demand(500, 0.5), GATEWAY, steep).models.target_percent is None
    flat = replace(MODEL, fixed_seconds=0.0)
    assert 0 < plan(demand(500, 0.5), GATEWAY, flat).models.target_percent <= 100


# What goes into files


def follow(path: str, value):
    """The value at a path such as spec.metrics[0].type."""
    for key in re.findall(r"\w+", path):
        value = value[int(key) if key.isdecimal() else key]
    return value


def test_every_field_to_change_is_in_the_manifests():
    changes = plan(demand(100), GATEWAY, replace(MODEL, fixed_seconds=0.0)).changes()
    assert len(changes) == 8
    for where in changes:
        file, path = where.split(": ")
        manifest = next(yaml.safe_load_all((services.ROOT / file).read_text()))
        assert follow(path, manifest), where


def test_batch_settings_have_the_form_of_the_file():
    text = plan(demand(1000, per_call=32), GATEWAY, GPU).batching.text()
    values = dict(re.findall(r"^(\w+) \{ value: (\d+) \}$", text, re.MULTILINE))
    theirs = (services.ROOT / "serving/batching.txt").read_text()
    assert list(values) == re.findall(r"^(\w+) \{ value: \d+ \}", theirs, re.MULTILINE)
    assert values["max_batch_size"] == "32"
    assert int(values["max_enqueued_batches"]) >= 2
    sizes = re.findall(r"^allowed_batch_sizes: (\d+)$", text, re.MULTILINE)
    assert sizes == ["1", "2", "4", "8", "16", "32"]


# Measured figures


def test_this_repositorys_figures_are_read():
    measured = read_measured(services.ROOT / "benchmarks")
    fixed, per_image = fit_batches(measured.sizes, measured.seconds)
    assert fixed >= 0 and per_image > 0
    assert 0 < measured.gateway_cpu_seconds < 0.1
    assert 0 < measured.overhead_seconds < 0.1


@pytest.fixture
def figures(tmp_path):
    """A folder of made-up figures, with a curve of two points."""
    server = {"overhead_without_model": {"overhead_ms": {"median": 3.0}}}
    scale = {
        "machine": {"cpus": 2},
        "batches": {"sizes": [1, 2, 4], "seconds": [0.012, 0.019, 0.033]},
        "gateway_cpu_seconds": 0.004,
        "curve": [
            {"offered": 20, "answered": 20, "p50": 0.02, "p99": 0.05, "gateways": 1},
            {"offered": 900, "answered": 120, "p50": 2.0, "p99": 5.0, "gateways": 3},
        ],
    }
    (tmp_path / "model_server.json").write_text(json.dumps(server))
    (tmp_path / "scale.json").write_text(json.dumps(scale))
    return tmp_path


def test_a_curve_is_compared_point_by_point(figures):
    measured = read_measured(figures)
    assert measured.files == ("model_server.json", "scale.json")
    assert fit_batches(measured.sizes, measured.seconds) == pytest.approx((0.005, 0.007))
    first, second = compare(measured, GATEWAY, MODEL, Batching(max_batch_size=32))
    assert first.p50_error == pytest.approx(first.predicted_p50 / 0.02 - 1)
    assert first.p99_error == pytest.approx(first.predicted_p99 / 0.05 - 1)
    assert 0.015 < first.predicted_p50 < 0.03 < first.predicted_p99 < 0.06
    assert second.predicted_p99 == math.inf
    assert second.gateways == 3


def test_tiers_on_one_machine_slow_each_other_down():
    curve = ({"offered": 60, "answered": 60, "p50": 0.03, "p99": 0.1, "gateways": 1},)
    many, two = (Measured((1, 2), (0.012, 0.019), 0.004, 0.003, cpus, curve) for cpus in (1000, 2))
    batching = Batching(max_batch_size=32)
    [apart], [together] = (compare(each, GATEWAY, MODEL, batching) for each in (many, two))
    assert together.predicted_p99 > 1.1 * apart.predicted_p99


def test_figures_that_are_not_there_are_asked_for(tmp_path):
    with pytest.raises(TutorialError, match="no figures can be read"):
        read_measured(tmp_path)
    (tmp_path / "model_server.json").write_text("{}")
    with pytest.raises(TutorialError, match="overhead_without_model"):
        read_measured(tmp_path)
