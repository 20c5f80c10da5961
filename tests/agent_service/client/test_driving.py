"""A model driven by a run: which rates it drives, how they act, and that all is undone."""

import copy
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

# First, since transformers imports torchvision, which does not load beside every torch.
import trainer_service.training.vision as torchvision  # isort: skip
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from transformers.models.bart.modeling_bart import BartEncoderLayer

from agent_service.client import AgentClient, Dropout, GaussianNoise, Hyperparameter, Mode
from agent_service.client.model.steered import SteeredModel
from agent_service.domain.errors import InvalidArgument
from tests.agent_service.specs import DROPOUT as RATE

NOISE = Hyperparameter(name="noise", low=0.0, high=1.0)
DEEP = Hyperparameter(name="deep", low=0.0, high=0.5)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.compiler.reset()


class DropPath(nn.Module):
    """timm's."""

    def __init__(self, drop_prob: float, scale_by_keep: bool = True) -> None:
        super().__init__()
        self.drop_prob, self.scale_by_keep = drop_prob, scale_by_keep

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1 - self.drop_prob
        mask = x.new_empty((len(x), 1)).bernoulli_(keep)
        return x * (mask / keep if self.scale_by_keep else mask)


DropPath.__module__ = "timm.layers.drop"


class Attention(nn.Module):
    """A user's own, which passes its rate to a function."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout_p = 0.3
        self.margin = 0.5
        self.heads = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, self.dropout_p, self.training)


class OwnLoss(nn.Module):
    """Its `p` is the exponent of a norm, as in torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.p = 1.0


class Keeping(nn.Dropout):
    """Its number is the probability to keep."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 1 - self.p, self.training)


def network() -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            first=nn.Linear(6, 8),
            drop=nn.Dropout(0.3),
            block=nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Dropout(0.1, inplace=True)),
            head=nn.Linear(8, 3),
        )
    )


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1)


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


def vision_transformer() -> Any:
    return torchvision.models.VisionTransformer(8, 4, 1, 1, 4, 4, num_classes=2)


# Selection


KINDS: dict[str, tuple[Callable[[], nn.Module], set[str], set[str]]] = {
    "zero": (lambda: nn.Sequential(nn.Dropout(0.0), nn.Dropout(0.1)), {"1:p"}, {"0:p"}),
    "subclasses": (
        lambda: nn.Sequential(
            type("Named", (nn.Dropout,), {})(0.1),
            type("DropPath", (nn.Dropout,), {})(0.2),
            Keeping(0.9),
        ),
        {"0:p"},
        {"1:p", "2:p"},
    ),
    "user's own": (lambda: nn.Sequential(nn.Dropout(0.1), Attention()), {"0:p"}, {"1:dropout_p"}),
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
    "losses": (
        lambda: nn.Sequential(
            nn.Dropout(0.1),
            nn.MultiMarginLoss(p=1),
            nn.TripletMarginLoss(p=1.0),
            nn.PairwiseDistance(p=1.0),
            OwnLoss(),
        ),
        {"0:p"},
        set(),
    ),
    "encoder": (encoder, {"self_attn:dropout", "dropout:p", "dropout1:p", "dropout2:p"}, set()),
    "BART": (bart, {":dropout", ":activation_dropout"}, {"self_attn:dropout"}),
    "Swin": (swin, {":attention_dropout", ":dropout"}, set()),
    "DenseNet": (
        densenet,
        {f"features.denseblock{n}.denselayer1:drop_rate" for n in (1, 2)},
        set(),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_rates_that_are_known_to_act_are_driven(kind: str) -> None:
    """Others keep their values; the end of the run restores all."""
    make, driven, left_alone = KINDS[kind]
    model = make()
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    steered = SteeredModel(model, [RATE])
    steered.apply({"dropout": 0.7})

    described = steered.description
    assert {f"{found.module}:{found.attribute}" for found in described.driven} == driven
    assert {f"{found.module}:{found.attribute}" for found in described.left_alone} == left_alone
    for found in described.driven:
        assert getattr(model.get_submodule(found.module), found.attribute) == 0.7
        assert found.own == before[found.module][found.attribute]
    for found in described.left_alone:
        assert getattr(model.get_submodule(found.module), found.attribute) == found.own
    steered.remove()
    assert {name: vars(module) for name, module in model.named_modules()} == before


@pytest.mark.parametrize(
    ("pattern", "rates"),
    [
        ("1", [0.3, 0.7, 0.5, 0.0]),
        ("1:dropout_p", [0.3, 0.7, 0.5, 0.0]),
        ("*:dropout_p", [0.3, 0.7, 0.5, 0.0]),
        (["drop", "1"], [0.3, 0.7, 0.5, 0.0]),
        (["nowhere", "*:margin"], [0.3, 0.3, 0.7, 0.0]),
        ("2", [0.3, 0.3, 0.5, 0.7]),
    ],
)
def test_rates_left_alone_are_driven_by_name(pattern: str | list[str], rates: list[float]) -> None:
    """By a module's name without wildcards, or any attribute's, whatever it looks like."""
    model = nn.Sequential(nn.Dropout(0.3), Attention(), nn.Dropout(0.0))
    SteeredModel(model, [RATE], drives={"dropout": pattern}).apply({"dropout": 0.7})

    assert [model[0].p, model[1].dropout_p, model[1].margin, model[2].p] == rates


def test_an_attribute_that_may_not_act_is_described_as_such() -> None:
    """Torchvision's VisionTransformer keeps its constructor's rates, and never reads them."""
    named = SteeredModel(vision_transformer(), [RATE], drives={"dropout": ":attention_dropout"})

    assert ":attention_dropout (0): not known to act" in str(named.description)


@pytest.mark.parametrize(
    ("make", "hyperparameters", "arguments", "message"),
    [
        (network, [RATE], {"sites": {"haed": Dropout()}}, "not a module .* it has first, drop"),
        (network, [RATE], {"sites": {"head": Dropout("rate")}}, "'rate' is not one of"),
        (network, [RATE], {"drives": {"rate": "*"}}, "'rate' is not one of"),
        (network, [RATE], {"drives": {"dropout": "x"}}, "'x' matches .* drop:p, block.2:p$"),
        (network, [RATE], {"drives": {"dropout": "drop:r"}}, "'drop:r' matches .* is drop:p$"),
        (network, [RATE, DEEP], {"drives": {"dropout": "*"}}, "deep.*drives nothing"),
        (
            network,
            [RATE, DEEP],
            {"drives": {"dropout": "*", "deep": "block.*"}},
            "'block.2:p' is driven by",
        ),
        (network, [RATE, DEEP], {}, "specify which modules each"),
        (network, [NOISE], {}, "must be in"),
        (lambda: nn.Linear(2, 2), [RATE], {}, "add some by sites="),
        (lambda: nn.Dropout(0.0), [RATE], {}, r":p \(0\) is 0 .* drives=\{'dropout': ':p'\}"),
        (Attention, [RATE], {}, r"dropout_p \(0.3\) not known .*\{'dropout': ':dropout_p'\}"),
        (lambda: nn.LSTM(4, 4), [RATE], {}, r":dropout \(0\) acts between .* one; add some by"),
        (lambda: nn.LSTM(4, 4), [RATE], {"drives": {"dropout": ":dropout"}}, "drives nothing"),
        (nn.TripletMarginLoss, [RATE], {"drives": {"dropout": ":p"}}, "drives nothing"),
        (Attention, [RATE], {"drives": {"dropout": ":heads"}}, "drives nothing"),
        (vision_transformer, [RATE], {}, r"drives=\{'dropout': 'encoder.dropout:p'\}"),
    ],
)
def test_a_mistake_is_named_with_its_fix_and_changes_nothing(
    make: Callable[[], nn.Module],
    hyperparameters: list[Hyperparameter],
    arguments: dict[str, Any],
    message: str,
) -> None:
    """Wrong names, hyperparameters that drive nothing, and ranges that do not fit."""
    model = make()
    with pytest.raises(InvalidArgument, match=message):
        SteeredModel(model, hyperparameters, **arguments)

    assert not any(m._forward_hooks or "__reduce_ex__" in vars(m) for m in model.modules())


def test_an_error_halfway_undoes_the_modules_before_it() -> None:
    """Of two modules of which another run drives the second, the first is restored."""
    model = network()
    other = SteeredModel(model.get_submodule("block"), [RATE])
    with pytest.raises(InvalidArgument, match="finish that one first"):
        SteeredModel(model, [RATE])

    assert vars(model.get_submodule("drop")).keys() == vars(nn.Dropout()).keys()
    other.remove()
    assert vars(model.get_submodule("block.2")).keys() == vars(nn.Dropout()).keys()


def test_patterns_divide_a_model_between_hyperparameters() -> None:
    model = network()
    steered = SteeredModel(model, [RATE, DEEP], drives={"dropout": "drop", "deep": "block.*"})
    steered.apply({"dropout": 0.7, "deep": 0.2})

    assert [model.get_submodule(n).p for n in ("drop", "block.2")] == [0.7, 0.2]


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # which Dynamo reads of its inputs
@pytest.mark.parametrize(
    "wrapped",
    [lambda block: torch.compile(block, backend="eager"), checkpoint_wrapper],
    ids=["compiled", "checkpointed"],
)
def test_a_wrapped_part_keeps_its_names(wrapped: Callable[[nn.Module], nn.Module]) -> None:
    """A compiled block, or one with activation checkpointing, and what is inside."""
    model = network()
    dropout: Any = model.get_submodule("block.2")
    model.add_module("block", wrapped(model.get_submodule("block")))
    steered = SteeredModel(
        model, [RATE, NOISE], sites={"block": GaussianNoise("noise")}, drives={"dropout": "block.*"}
    )
    steered.apply({"dropout": 0.7, "noise": 0.5})
    x = torch.ones(4, 6)
    first, second = model(x), model(x)
    (first.sum() + second.sum()).backward()
    assert dropout.p == 0.7
    assert model.get_submodule("drop").p == 0.3
    assert not torch.equal(first, second)

    steered.remove()
    assert dropout.p == 0.1


def test_a_replaced_module_is_released_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """By its name; the others stay driven."""
    old, kept, new = nn.Dropout(0.1), nn.Dropout(0.2), nn.Dropout(0.3)
    model = nn.Sequential(old, kept)
    steered = SteeredModel(model, [RATE])
    steered.apply({"dropout": 0.5})
    model[0] = new
    steered.apply({"dropout": 0.6})
    steered.apply({"dropout": 0.7})

    assert [old.p, kept.p, new.p] == [0.1, 0.7, 0.3]
    assert caplog.text.count("'0' was removed from the model") == 1


def test_a_run_describes_the_rates_that_it_drives(
    client: AgentClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Names, own values, and reasons of others; in one line of the log, the first of many."""
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
        SteeredModel(nn.Sequential(*(nn.Dropout(0.1) for _ in range(100))), [RATE])

    assert described.splitlines() == [
        "dropout drives",
        "  0:p (0.27)",
        "left alone",
        "  1:dropout_p (0.3): not known to act as a drop rate",
    ]
    assert "dropout drives 0:p (0.27); left alone 1:dropout_p (0.3)" in caplog.messages
    assert caplog.messages[-1].endswith("7:p (0.1) and 92 more")


# Rates that act


OWN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Dropout": (lambda: nn.Dropout(0.5), (64, 64)),
    "Dropout1d": (lambda: nn.Dropout1d(0.5), (64, 64, 4)),
    "Dropout2d": (lambda: nn.Dropout2d(0.5), (64, 64, 2, 2)),
    "Dropout3d": (lambda: nn.Dropout3d(0.5), (64, 64, 2, 2, 2)),
    "AlphaDropout": (lambda: nn.AlphaDropout(0.5), (64, 64)),
    "FeatureAlphaDropout": (lambda: nn.FeatureAlphaDropout(0.5), (64, 64, 2)),
    "DropPath": (lambda: DropPath(0.5), (4096, 3)),
    "DropPath unscaled": (lambda: DropPath(0.5, scale_by_keep=False), (4096, 3)),
    "Attention": (Attention, (64, 64)),
}


def dropped(y: torch.Tensor) -> float:
    """Return the share of dropped ones: they lie below all others."""
    return float((y < y.max() - 1e-4).double().mean())


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("kind", OWN)
def test_each_kind_of_dropout_follows_the_value(kind: str, is_compiled: bool) -> None:
    """It drops that share, of elements, channels or samples; in evaluation it drops nothing."""
    torch.manual_seed(0)
    make, shape = OWN[kind]
    model = nn.Sequential(make())
    steered = SteeredModel(model, [RATE], drives={"dropout": "0"})
    run = torch.compile(model, backend="eager") if is_compiled else model
    x = torch.ones(shape)
    for rate in (0.0, 0.25, 0.75):
        steered.apply({"dropout": rate})
        y = run(x)

        assert dropped(y) == pytest.approx(rate, abs=0.03)
        if "Alpha" not in kind:
            mean = 1 - rate if "unscaled" in kind else 1.0
            assert float(y.mean()) == pytest.approx(mean, abs=0.06 if rate < 0.5 else 0.12)
        flat = y.flatten(2) if kind[-2:] in ("1d", "2d", "3d") or kind[:3] == "Fea" else None
        if flat is not None:
            assert (flat == flat[:, :, :1]).all(), "a channel is dropped as one"
        if "DropPath" in kind:
            assert (y == y[:, :1]).all(), "a sample is dropped as one"
    model.eval()
    assert torch.equal(run(x), x)


def test_compiled_alpha_dropout_keeps_mean_and_variance() -> None:
    """Self-normalizing: standard normal features keep mean 0 and variance 1."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.AlphaDropout(0.5))
    SteeredModel(model, [RATE]).apply({"dropout": 0.4})
    y = torch.compile(model, backend="eager")(torch.randn(1000, 400))

    assert float(y.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(y.var()) == pytest.approx(1.0, abs=0.01)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of the import of inductor
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_new_value_recompiles_nothing(backend: str) -> None:
    """Twenty values run in one graph, also those that are set before a backward pass.

    Names are those of the model inside the compiled one.
    """
    compiled: Any = torch.compile(network(), backend=backend, fullgraph=True)
    steered = SteeredModel(
        compiled,
        [RATE, NOISE],
        sites={"first": GaussianNoise("noise"), "head": Dropout("dropout")},
        drives={"dropout": "*"},
    )
    torch._dynamo.utils.counters.clear()
    outputs = []
    for step in range(20):
        steered.apply({"dropout": 0.04 * step, "noise": 0.05 * step})
        outputs.append(compiled(torch.ones(4, 6)))
        steered.apply({"dropout": 0.5, "noise": 0.5})
        outputs[-1].sum().backward()

    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert len({float(y.detach().sum()) for y in outputs}) == 20


@pytest.mark.parametrize("make", [nn.Dropout, nn.Dropout1d, nn.AlphaDropout])
def test_a_compiled_rate_is_exact_in_half_precision(make: Callable[[float], nn.Module]) -> None:
    """bfloat16 would round what is kept to 1, and one in 256 of its random numbers is 0."""
    torch.manual_seed(0)
    model, rate = nn.Sequential(make(0.5)), 0.0015
    run = torch.compile(model, backend="eager")
    torch.set_default_dtype(torch.bfloat16)
    try:
        steered = SteeredModel(model, [RATE])
        steered.apply({"dropout": rate})
        y = run(torch.ones(400, 400, 1, dtype=torch.float32))
        steered.apply({"dropout": 0.0})
        assert torch.equal(run(torch.ones(100, 100, 1)), torch.ones(100, 100, 1))
    finally:
        torch.set_default_dtype(torch.float32)

    assert dropped(y) == pytest.approx(rate, abs=0.0005)
    if make is not nn.AlphaDropout:
        assert float(y.max()) == pytest.approx(1 / (1 - rate), rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of the import of inductor
def test_compiled_dropout_draws_the_masks_of_a_model_without_a_run() -> None:
    """At the same rate and seed, in float32, with torch's default backend."""
    steered, own = nn.Sequential(nn.Dropout(0.1)), nn.Sequential(nn.Dropout(0.37))
    SteeredModel(steered, [RATE]).apply({"dropout": 0.37})
    outputs = []
    for model in (steered, own):
        torch.compiler.reset()
        torch.manual_seed(0)
        outputs.append(torch.compile(model, backend="inductor")(torch.ones(50, 50)))

    assert torch.equal(*outputs)


@pytest.mark.parametrize("is_compiled", [False, True])
def test_dropout_in_place_stays_in_place(is_compiled: bool) -> None:
    """It changes and returns its input."""
    model = nn.Sequential(nn.Dropout(0.3, inplace=True))
    SteeredModel(model, [RATE]).apply({"dropout": 0.5})
    x = torch.ones(64, 8)
    y = torch.compile(model, backend="eager")(x) if is_compiled else model(x)

    assert torch.equal(x, y)
    assert set(x.flatten().tolist()) == {0.0, 2.0}


class Borrower(nn.Module):
    """Uses dropout's forward pass without being dropout."""

    p, inplace = 0.5, False
    forward = nn.Dropout.forward


def while_another_is_driven(_patch: pytest.MonkeyPatch) -> nn.Module:
    SteeredModel(nn.Dropout(0.25), [RATE]).apply({"dropout": 0.75})
    return nn.Dropout(0.5)


def after_a_run(_patch: pytest.MonkeyPatch) -> nn.Module:
    SteeredModel(nn.Dropout(0.25), [RATE]).remove()
    return nn.Dropout(0.5)


def after_a_run_under_a_patch(patch: pytest.MonkeyPatch) -> nn.Module:
    with patch.context() as patched:
        patched.setattr(nn.Dropout, "forward", lambda _module, x: x * 100)
        after_a_run(patch)
    return nn.Dropout(0.5)


def borrower(patch: pytest.MonkeyPatch) -> nn.Module:
    while_another_is_driven(patch)
    return Borrower()


@pytest.mark.parametrize(
    "make", [while_another_is_driven, after_a_run, after_a_run_under_a_patch, borrower]
)
def test_modules_of_no_run_compile_as_before(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[pytest.MonkeyPatch], nn.Module]
) -> None:
    """In one graph, with their own rate, whatever runs did to modules of the same class."""
    torch.manual_seed(0)
    model = torch.compile(make(monkeypatch), backend="eager", fullgraph=True)

    for y in (model(torch.ones(100, 100)), model(input=torch.ones(100, 100))):
        assert set(y.flatten().tolist()) == {0.0, 2.0}
        assert dropped(y) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_graph_from_before_a_run_follows_it_and_serves_again_afterwards(
    is_wrapped: bool,
) -> None:
    """Also if the instance has a forward pass of the user's around the module's."""
    torch.manual_seed(0)
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


class Pair(NamedTuple):
    logits: torch.Tensor
    extra: int


OUTPUTS: dict[str, Callable[[torch.Tensor], Any]] = {
    "named": lambda x: Pair(x, 1),
    "tuple": lambda x: (x, 1),
    "list": lambda x: [x, 1],
    "dictionary": lambda x: {0: x, 1: 1},
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_an_output_at_a_site_keeps_its_type(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """One of an unknown type passes unchanged, with one warning; all do in evaluation."""

    class Site(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return OUTPUTS[kind](x)

    model, ones = nn.Sequential(Site()), torch.ones(64)
    SteeredModel(model, [RATE], sites={"0": Dropout()}).apply({"dropout": 0.5})
    outputs = [model(ones) for _ in range(2)]

    is_known = kind in ("named", "tuple")
    assert type(outputs[0]) is type(OUTPUTS[kind](ones))
    assert outputs[0][1] == 1
    assert bool((outputs[0][0] == 0).any()) is is_known
    assert caplog.text.count("cannot regularize") == (0 if is_known else 1)
    assert torch.equal(model.eval()(ones)[0], ones)


def test_a_run_may_start_in_inference_mode() -> None:
    model = network()
    with torch.inference_mode():
        steered = SteeredModel(model, [RATE])
    steered.apply({"dropout": 0.5})
    assert model[1].p == 0.5


# The end


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """Return a module's attributes but tensors and submodules: rates, modes, hooks, methods."""
    apart = ("_parameters", "_buffers", "_modules")
    return {name: value for name, value in vars(module).items() if name not in apart}


NAMES = ["first", "drop", "block", "block.0", "block.1", "head"]


@given(
    places=st.lists(st.sampled_from(NAMES), unique=True),
    kinds=st.lists(st.sampled_from([Dropout, GaussianNoise]), min_size=6, max_size=6),
    own=st.booleans(),
    rates=st.lists(st.floats(0, 0.9), max_size=3),
    frozen=st.lists(st.sampled_from(NAMES)),
)
def test_the_end_of_a_run_leaves_the_model_as_it_was(
    places: list[str],
    kinds: list[type[Dropout | GaussianNoise]],
    own: bool,
    rates: list[float],
    frozen: list[str],
) -> None:
    """Outputs, state, hooks, attributes and modes; during the run the state's keys are the same."""
    model = network()
    for name in frozen:
        model.get_submodule(name).eval()
    before = copy.deepcopy(model)
    if not places and not own:
        return
    steered = SteeredModel(
        model,
        [RATE],
        sites={n: kind("dropout") for n, kind in zip(places, kinds, strict=False)},
        drives={"dropout": "*"} if own else None,
    )
    for rate in rates:
        steered.apply({"dropout": rate})
        model(torch.ones(2, 6))
    assert model.state_dict().keys() == before.state_dict().keys()
    steered.remove()

    for (name, module), (_, other) in zip(
        model.named_modules(), before.named_modules(), strict=True
    ):
        assert plain_attributes(module) == plain_attributes(other), name
    state = before.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    x = torch.randn(7, 6)
    torch.manual_seed(1)
    after = model(x)
    torch.manual_seed(1)
    assert torch.equal(after, before(x))
