"""Time by layer: a heavy layer is found, times add up, and nothing is left behind."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from attacks.errors import ThreatModelError
from robust.evaluation.latency import OUTSIDE, _by_pass, _Span, layer_latency
from robust.types import Inputs, VictimSpec
from robust.victims import Victim, load_victim
from tests.robust.av_toys import SIGHT, SOUND, linear


class Sleeper(nn.Module):
    """Passes its input on, after a while."""

    def __init__(self, milliseconds: float) -> None:
        super().__init__()
        self.milliseconds = milliseconds

    def forward(self, value: Tensor) -> Tensor:
        time.sleep(self.milliseconds / 1000)
        return value


class Tower(Victim):
    """Nested layers of known time: 1 ms, twice 3 ms in one called twice, 2 ms in none."""

    def __init__(self) -> None:
        super().__init__(VictimSpec("tower", ("a", "b"), clip_seconds=0.001))
        self.quick = Sleeper(1)
        self.block = nn.Sequential(nn.Linear(16, 2), Sleeper(3))
        self.unused = nn.Linear(3, 3)
        self.fail = False

    def forward(self, inputs: Inputs) -> Tensor:
        latent = self.quick(inputs["audio"])
        time.sleep(0.002)
        if self.fail:
            return self.block(latent[:, :3])
        return self.block(latent) + self.block(latent)


def hooks(victim: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in victim.modules())


def test_own_times_of_known_layers() -> None:
    victim = Tower()
    victim.train()
    frame, summary = layer_latency(victim, repeats=7, warmup=1)
    assert list(frame.columns) == [
        "layer",
        "operation",
        "depth",
        "milliseconds",
        "low",
        "high",
        "share",
        "calls",
        "parameters",
    ]
    assert list(frame["layer"]) == ["quick", "block", "block.0", "block.1", OUTSIDE]
    rows = frame.set_index("layer")
    # A sleep is never shorter than asked, and rarely much longer.
    for layer, expected in (("quick", 1), ("block.1", 6), (OUTSIDE, 2)):
        assert expected <= rows["milliseconds"][layer] < 1.5 * expected + 2
    assert rows["milliseconds"]["block"] < rows["milliseconds"]["block.1"] / 4
    assert rows["milliseconds"]["block.0"] < rows["milliseconds"]["block.1"] / 4
    assert rows["calls"].to_dict() == {"quick": 1, "block": 2, "block.0": 2, "block.1": 2, OUTSIDE: 1}
    assert rows["depth"].to_dict() == {"quick": 1, "block": 1, "block.0": 2, "block.1": 2, OUTSIDE: 0}
    assert rows["operation"]["block.1"] == "Sleeper"
    assert rows["parameters"]["block.0"] == 16 * 2 + 2
    assert (frame["low"] <= frame["milliseconds"]).all()
    assert (frame["milliseconds"] <= frame["high"]).all()
    assert frame["share"].sum() == pytest.approx(1)
    assert frame["milliseconds"].sum() == summary["total_milliseconds"]
    assert summary["total_milliseconds"] == pytest.approx(summary["pass_milliseconds"][1], rel=0.1)
    assert summary["total_milliseconds"] == pytest.approx(summary["plain_milliseconds"][1], rel=0.25)
    assert hooks(victim) == 0
    assert victim.training


def test_a_heavy_layer_of_arithmetic_is_found() -> None:
    class Heavy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.light, self.heavy, self.out = nn.Linear(400, 64), nn.Linear(64, 60_000), nn.Linear(60_000, 2)
            self.out.weight.data.zero_()

        def forward(self, audio: Tensor) -> Tensor:
            return self.out(torch.tanh(self.heavy(self.light(audio)))) + audio[:, :2]

    victim = Victim.wrap(Heavy(), sample_rate=400, labels=("a", "b"))
    frame, summary = layer_latency(victim, batch_size=16, repeats=9, threads=1)
    layers = frame.set_index("layer")["milliseconds"]
    assert layers["module.heavy"] > 5 * layers["module.light"]
    assert layers["module"] > 0  # the tanh
    assert summary["threads"] == 1


def test_nothing_is_left_behind_after_an_error() -> None:
    victim = Tower()
    victim.fail = True
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="shapes"):
        layer_latency(victim, warmup=0, threads=1)
    assert hooks(victim) == 0
    assert torch.get_num_threads() == threads
    assert all(parameter.requires_grad for parameter in victim.parameters())

    calls = []

    class Late(Tower):  # fails within the profile itself
        def forward(self, inputs: Inputs) -> Tensor:
            calls.append(hooks(self))
            self.fail = len(calls) == 6
            return super().forward(inputs)

    late = Late()
    with pytest.raises(RuntimeError, match="shapes"):
        layer_latency(late, repeats=3, warmup=1)
    assert calls[-1] > 0
    assert hooks(late) == 0
    assert layer_latency(Tower(), repeats=2)[1]["repeats"] == 2  # and the profiler works on


def test_own_hooks_of_the_victim_stay() -> None:
    victim = Tower()
    seen = []
    handle = victim.quick.register_forward_hook(lambda *_: seen.append(1))
    layer_latency(victim, repeats=2)
    assert seen
    assert hooks(victim) == 1
    handle.remove()


def test_own_time_is_what_no_inner_span_took() -> None:
    spans = [
        _Span("", 0, 100, 100),
        _Span("a", 10, 60, 50),
        _Span("a.b", 20, 30, 10),
        _Span("a.b", 30, 50, 20),
        _Span("c", 60, 90, 30),
        _Span("", 200, 210, 10),
    ]
    first, second = _by_pass(spans[::-1])
    assert dict(first.own) == pytest.approx({"": 0.02, "a": 0.02, "a.b": 0.03, "c": 0.03})
    assert first.calls == {"": 1, "a": 1, "a.b": 2, "c": 1}
    assert dict(second.own) == pytest.approx({"": 0.01})


@pytest.mark.parametrize("setting", [{"batch_size": 0}, {"repeats": 0}, {"warmup": -1}, {"threads": 0}])
def test_refuses_counts_that_cannot_be(setting: dict) -> None:
    with pytest.raises(ThreatModelError, match=f"{next(iter(setting))} must be"):
        layer_latency(linear(SOUND), **setting)


def test_victims_of_two_senses() -> None:
    frame, summary = layer_latency(linear(SOUND, SIGHT), repeats=3)
    assert OUTSIDE in set(frame["layer"])
    frame, summary = layer_latency(load_victim("av-mid", device="cpu"), repeats=5)
    # Whole passes last longer where something else interrupts them; layer by layer the medians leave that out.
    assert 0.5 * summary["pass_milliseconds"][0] < summary["total_milliseconds"] < 1.1 * summary["pass_milliseconds"][2]
    assert {"Conv2d", "Linear"} <= set(frame["operation"])
    assert (frame["milliseconds"] >= 0).all()
    assert summary["clip_seconds"] == 1.0
