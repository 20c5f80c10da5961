"""Which rates of a model a run drives, which it leaves alone, and what it says of both."""

import logging
from collections.abc import Callable
from typing import Any

# First, since transformers imports torchvision, which does not load beside every torch.
import trainer_service.training.vision as torchvision  # isort: skip
import pytest
import torch
import transformers
from torch import nn
from transformers.models.bart.modeling_bart import BartEncoderLayer

from agent_service.client import AgentClient, Dropout, Hyperparameter, Mode
from agent_service.client.model.steered import SteeredModel
from agent_service.domain.errors import InvalidArgument
from tests.agent_service.client.test_steered import DropPath
from tests.agent_service.specs import spec

RATE = Hyperparameter(name="dropout", low=0.0, high=0.9)


class Attention(nn.Module):
    """A user's own, which hands its rate to a function."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout_p = 0.3
        self.margin = 0.5
        self.heads = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, self.dropout_p, self.training)


class Norms(nn.Module):
    """Losses, whose `p` is the exponent of a norm, and one of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.1)
        self.margin = nn.MultiMarginLoss(p=1)
        self.triplet = nn.TripletMarginLoss(p=1.0)
        self.distance = nn.PairwiseDistance(p=1.0)
        self.own = OwnLoss()


class OwnLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = 1.0


class Quiet(nn.Dropout):
    """A user's own kind of torch's."""


def bart() -> nn.Module:
    config = transformers.BartConfig(
        d_model=8, encoder_attention_heads=2, encoder_ffn_dim=8, dropout=0.1, activation_dropout=0.2
    )
    return BartEncoderLayer(config)


def swin() -> Any:
    module = torchvision.models.swin_transformer.ShiftedWindowAttention
    return module(8, [2, 2], [0, 0], 2, attention_dropout=0.1, dropout=0.2)


def densenet() -> Any:
    return torchvision.models.DenseNet(4, (1, 1), 4, drop_rate=0.2, num_classes=3)


KINDS: dict[str, tuple[Callable[[], nn.Module], set[str], set[str]]] = {
    "a zero": (lambda: nn.Sequential(nn.Dropout(0.0), nn.Dropout(0.1)), {"1:p"}, {"0:p"}),
    "a subclass": (lambda: nn.Sequential(Quiet(0.1)), {"0:p"}, set()),
    "a user's own": (
        lambda: nn.Sequential(nn.Dropout(0.1), Attention()),
        {"0:p"},
        {"1:dropout_p"},
    ),
    "stochastic depth": (
        lambda: nn.Sequential(nn.Dropout(0.1), DropPath(0.2)),
        {"0:p"},
        {"1:drop_prob"},
    ),
    "recurrent": (
        lambda: nn.Sequential(nn.GRU(4, 4, 2, dropout=0.1), nn.LSTM(4, 4)),
        {"0:dropout"},
        {"1:dropout"},
    ),
    "losses": (Norms, {"drop:p"}, set()),
    "attention": (
        lambda: nn.Sequential(nn.MultiheadAttention(4, 2, dropout=0.1)),
        {"0:dropout"},
        set(),
    ),
    "BART": (bart, {":dropout", ":activation_dropout"}, {"self_attn:dropout"}),
    "Swin": (swin, {":attention_dropout", ":dropout"}, set()),
    "DenseNet": (
        densenet,
        {f"features.denseblock{n}.denselayer1:drop_rate" for n in (1, 2)},
        set(),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_driven_goes_by_the_kind_of_module(kind: str) -> None:
    """All rates that are known to act are driven and restored; others keep their values."""
    make, driven, left_alone = KINDS[kind]
    model = make()
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    steered = SteeredModel(model, [RATE])
    steered.apply({"dropout": 0.7})

    told = steered.description
    assert {f"{found.module}:{found.attribute}" for found in told.driven} == driven
    assert {f"{found.module}:{found.attribute}" for found in told.left_alone} == left_alone
    for found in told.driven:
        assert getattr(model.get_submodule(found.module), found.attribute) == 0.7
        assert found.own == before[found.module][found.attribute]
    for found in told.left_alone:
        assert getattr(model.get_submodule(found.module), found.attribute) == found.own
    steered.remove()
    assert {name: vars(module) for name, module in model.named_modules()} == before


@pytest.mark.parametrize(
    "pattern",
    ["1", "1:dropout_p", "*:dropout_p", ["0", "1"], ["nowhere", "*:*_p"]],
)
def test_what_is_left_alone_is_driven_by_its_name(pattern: str | list[str]) -> None:
    """A module's name without wildcards, or an attribute; several of them, too."""
    model = nn.Sequential(nn.Dropout(0.1), Attention())
    SteeredModel(model, [RATE], drives={"dropout": pattern}).apply({"dropout": 0.7})

    assert model[1].dropout_p == 0.7
    assert model[1].margin == 0.5


def test_any_attribute_can_be_named() -> None:
    """Also what does not look like a rate, and a 0; but nothing that acts nowhere, and no norm."""
    model = nn.Sequential(Attention(), nn.Dropout(0.0), nn.LSTM(4, 4), nn.TripletMarginLoss(p=1.0))
    SteeredModel(model, [RATE], drives={"dropout": ["*:margin", "1"]}).apply({"dropout": 0.7})
    assert [model[0].margin, model[0].dropout_p, model[1].p] == [0.7, 0.3, 0.7]

    for nothing in ("2", "2:dropout", "3", "3:p"):
        with pytest.raises(InvalidArgument, match="drives nothing"):
            SteeredModel(nn.Sequential(*model), [RATE], drives={"dropout": nothing})


def test_the_refusal_of_a_model_says_what_to_name() -> None:
    """Rates of 0, of a recurrent net of one layer, and of the user's own module."""
    for model, hint in (
        (nn.Sequential(nn.Dropout(0.0)), r"0:p \(0\) is 0 by .* drives=\{'dropout': '0:p'\}"),
        (Attention(), r"dropout_p \(0.3\) not known .* drives=\{'dropout': ':dropout_p'\}"),
        (nn.LSTM(4, 4), r":dropout \(0\) acts between layers, and there is only one; add some by"),
    ):
        with pytest.raises(InvalidArgument, match=hint):
            SteeredModel(model, [RATE])


def test_a_pattern_that_fits_nothing_is_quoted_beside_what_there_is() -> None:
    """Of the module that it names, or of the model."""
    model = nn.Sequential(nn.Dropout(0.1), nn.Dropout(0.1))
    for pattern, said in (
        ("1:rate", "'1:rate' matches .* is 1:p$"),
        ("x", "'x' matches .* 0:p, 1:p$"),
    ):
        with pytest.raises(InvalidArgument, match=said):
            SteeredModel(model, [RATE], drives={"dropout": pattern})


def test_a_record_that_acts_on_nothing_is_never_what_to_name() -> None:
    """Torchvision's VisionTransformer keeps its constructor's rates, and reads only the blocks'."""
    model: Any = torchvision.models.VisionTransformer(8, 4, 1, 1, 4, 4, num_classes=2)
    with pytest.raises(InvalidArgument, match=r"drives=\{'dropout': 'encoder.dropout:p'\}"):
        SteeredModel(model, [RATE])

    named = SteeredModel(model, [RATE], drives={"dropout": ":attention_dropout"})
    assert ":attention_dropout (0): not known to act" in str(named.description)


def test_a_count_is_no_rate_even_when_it_is_named() -> None:
    """An int of 1, as of heads or groups."""
    with pytest.raises(InvalidArgument, match="drives nothing"):
        SteeredModel(nn.Sequential(Attention()), [RATE], drives={"dropout": "0:heads"})


def test_a_module_that_is_replaced_is_told_and_has_its_own_rate_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once, by its name; the others are driven on."""
    old, kept, new = nn.Dropout(0.1), nn.Dropout(0.2), nn.Dropout(0.3)
    model = nn.Sequential(old, kept)
    steered = SteeredModel(model, [RATE])
    steered.apply({"dropout": 0.5})
    model[0] = new
    steered.apply({"dropout": 0.6})
    steered.apply({"dropout": 0.7})

    assert [old.p, kept.p, new.p] == [0.1, 0.7, 0.3]
    assert caplog.text.count("'0' was removed from the model") == 1


def test_stochastic_depth_that_is_named_keeps_its_scale_compiled_or_not() -> None:
    """The `scale_by_keep=False` of timm leaves what stays as it is."""
    torch.manual_seed(0)
    model = nn.Sequential(DropPath(0.3, scale_by_keep=False))
    SteeredModel(model, [RATE], drives={"dropout": "0"}).apply({"dropout": 0.5})
    for run in (model, torch.compile(model, backend="eager")):
        y = run(torch.ones(4000, 2))
        assert sorted(set(y.flatten().tolist())) == [0.0, 1.0]
        assert float(y.mean()) == pytest.approx(0.5, abs=0.04)
    torch.compiler.reset()


@pytest.mark.parametrize("is_compiled", [False, True])
def test_dropout_in_place_stays_in_place(is_compiled: bool) -> None:
    """What was handed in is changed itself, and what comes back is that."""
    model = nn.Sequential(nn.Dropout(0.3, inplace=True))
    SteeredModel(model, [RATE]).apply({"dropout": 0.5})
    x = torch.ones(64, 8)
    y = torch.compile(model, backend="eager")(x) if is_compiled else model(x)
    torch.compiler.reset()

    assert torch.equal(x, y)
    assert set(x.flatten().tolist()) == {0.0, 2.0}


def test_a_forward_pass_of_the_instance_is_called_and_kept() -> None:
    """As accelerate's hooks and Monte Carlo dropout put it there."""
    dropout = nn.Dropout(0.3)
    model = nn.Sequential(dropout)
    calls = []

    def patched(x: torch.Tensor) -> torch.Tensor:
        calls.append(dropout.p)
        return nn.Dropout.forward(dropout, x)

    dropout.forward = patched  # type: ignore[method-assign, assignment]
    steered = SteeredModel(model, [RATE])
    steered.apply({"dropout": 0.7})
    model(torch.ones(2))
    steered.remove()

    assert calls == [0.7]
    assert vars(dropout)["forward"] is patched


@pytest.mark.parametrize("is_in_run", [False, True])
def test_dropout_that_no_run_drives_keeps_its_rate_when_compiled(is_in_run: bool) -> None:
    """Of another model, while a run drives one of the class and afterwards."""
    torch.manual_seed(0)
    driven, other, ones = nn.Dropout(0.5), nn.Dropout(0.25), torch.ones(100, 100)
    steered = SteeredModel(driven, [RATE])
    steered.apply({"dropout": 0.75})
    if not is_in_run:
        steered.remove()
    model = torch.compile(nn.Sequential(other), backend="eager", fullgraph=True)
    outputs = [model(ones), model(input=ones)]
    torch.compiler.reset()

    for y in outputs:
        assert float((y == 0).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_dropout_is_itself_again_after_a_run_under_a_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled, of no run, where an earlier run and one under a patch of the class drove others."""
    SteeredModel(nn.Dropout(0.5), [RATE]).remove()
    with monkeypatch.context() as patch:
        patch.setattr(nn.Dropout, "forward", lambda _module, x: x * 100)
        SteeredModel(nn.Dropout(0.5), [RATE]).remove()
    y = torch.compile(nn.Dropout(0.5), backend="eager", fullgraph=True)(torch.ones(100))
    torch.compiler.reset()

    assert set(y.tolist()) == {0.0, 2.0}


class Borrower(nn.Module):
    """Has dropout's forward pass, and is none."""

    p, inplace = 0.5, False
    forward = nn.Dropout.forward


def test_a_forward_pass_that_another_class_borrows_compiles_as_before() -> None:
    """In one graph, by the rate of its own."""
    SteeredModel(nn.Dropout(0.25), [RATE])
    y = torch.compile(Borrower(), backend="eager", fullgraph=True)(torch.ones(100))
    torch.compiler.reset()

    assert set(y.tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_graph_from_before_a_run_obeys_it_and_serves_again_afterwards(is_wrapped: bool) -> None:
    """Also where the user's own pass, around the module's, stands in the instance."""
    torch.manual_seed(0)
    torch.compiler.reset()
    dropout, ones = nn.Dropout(0.25), torch.ones(200, 200)
    if is_wrapped:
        own = dropout.forward
        dropout.forward = lambda x: own(x)  # type: ignore[method-assign, assignment]
    model = torch.compile(nn.Sequential(dropout), backend="eager")
    torch._dynamo.utils.counters.clear()

    def check(rate: float) -> None:
        assert float((model(ones) == 0).float().mean()) == pytest.approx(rate, abs=0.02)

    check(0.25)
    steered = SteeredModel(dropout, [RATE])
    for rate in (0.5, 0.75, 0.1):
        steered.apply({"dropout": rate})
        check(rate)
    steered.remove()
    check(0.25)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    torch.compiler.reset()


def test_a_run_describes_what_it_drives(
    client: AgentClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Names, own values, the reason of what is left alone; in short in one line of the log."""
    client.create_controller(spec())
    model = nn.Sequential(nn.Dropout(0.27), Attention())
    with caplog.at_level(logging.INFO, "agent_service.client"):
        with client.run("c", model=model) as run:
            described = str(run.describe())
        with client.run("c", model=model, mode=Mode.SHADOW) as shadow:
            assert "dropout would drive\n  0:p (0.27)" in str(shadow.describe())
        with client.run("c", model=model, sites={"1": Dropout()}) as added:
            assert "dropout drives\n  1 (added by sites=)" in str(added.describe())
            assert "0:p (0.27): sites= was given; name it in drives=" in str(added.describe())
        with client.run("c") as bare:
            assert "no model" in str(bare.describe())

    assert described.splitlines() == [
        "dropout drives",
        "  0:p (0.27)",
        "left alone",
        "  1:dropout_p (0.3): not known to act as a drop rate",
    ]
    assert "dropout drives 0:p (0.27); left alone 1:dropout_p (0.3)" in caplog.messages


def test_the_log_names_a_few_of_many(caplog: pytest.LogCaptureFixture) -> None:
    """A deep network's line stays a line."""
    with caplog.at_level(logging.INFO, "agent_service.client"):
        SteeredModel(nn.Sequential(*(nn.Dropout(0.1) for _ in range(100))), [RATE])

    (line,) = caplog.messages
    assert line.endswith("7:p (0.1) and 92 more")
