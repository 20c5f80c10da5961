"""A model that is steered: what drives what, that nothing else changes, and that all is undone."""

import copy
import io
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from agent_service.client import Dropout, GaussianNoise, Hyperparameter
from agent_service.client.model.steered import SteeredModel
from agent_service.domain.errors import InvalidArgument

RATE = Hyperparameter(name="dropout", low=0.0, high=0.9)
NOISE = Hyperparameter(name="noise", low=0.0, high=1.0)


class DropPath(nn.Module):
    """As timm's."""

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


class Functional(nn.Module):
    """Hands a rate of its own to a function."""

    def __init__(self) -> None:
        super().__init__()
        self.p = 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, self.p, self.training)


def network() -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            first=nn.Linear(6, 8),
            drop=nn.Dropout(0.3),
            block=nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Dropout(0.1, inplace=True)),
            head=nn.Linear(8, 3),
        )
    )


OWN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Dropout": (lambda: nn.Dropout(0.5), (64, 64)),
    "Dropout1d": (lambda: nn.Dropout1d(0.5), (64, 64, 4)),
    "Dropout2d": (lambda: nn.Dropout2d(0.5), (64, 64, 2, 2)),
    "Dropout3d": (lambda: nn.Dropout3d(0.5), (64, 64, 2, 2, 2)),
    "AlphaDropout": (lambda: nn.AlphaDropout(0.5), (64, 64)),
    "FeatureAlphaDropout": (lambda: nn.FeatureAlphaDropout(0.5), (64, 64, 2)),
    "DropPath": (lambda: DropPath(0.5), (4096, 3)),
    "Functional": (lambda: Functional(), (64, 64)),
}


def dropped(y: torch.Tensor) -> float:
    """Return the share that was taken away of what were ones: it lies below all else."""
    return float((y < y.max() - 1e-4).double().mean())


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("kind", OWN)
def test_each_kind_of_dropout_follows_the_value(kind: str, is_compiled: bool) -> None:
    """The share of what is dropped is the value's, whole channels and samples where it is so."""
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
            assert float(y.mean()) == pytest.approx(1.0, abs=0.06 if rate < 0.5 else 0.12)
        flat = y.flatten(2) if kind[-2:] in ("1d", "2d", "3d") or kind[:3] == "Fea" else None
        if flat is not None:
            assert (flat == flat[:, :, :1]).all(), "a channel is dropped as one"
        if kind == "DropPath":
            assert (y == y[:, :1]).all(), "a sample is dropped as one"
    torch.compiler.reset()


def test_alpha_dropout_keeps_mean_and_variance_when_compiled() -> None:
    """Self-normalizing: standard normal features stay of mean 0 and variance 1."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.AlphaDropout(0.5))
    steered = SteeredModel(model, [RATE])
    steered.apply({"dropout": 0.4})
    y = torch.compile(model, backend="eager")(torch.randn(1000, 400))
    torch.compiler.reset()

    assert float(y.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(y.var()) == pytest.approx(1.0, abs=0.01)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of the import of inductor
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_new_value_recompiles_nothing(backend: str) -> None:
    """Twenty values run through one graph, also those that are set before a backward pass."""
    torch.compiler.reset()
    model = network()
    steered = SteeredModel(
        model,
        [RATE, NOISE],
        sites={"first": GaussianNoise("noise"), "head": Dropout("dropout")},
        drives={"dropout": "*"},
    )
    compiled = torch.compile(model, backend=backend)
    torch._dynamo.utils.counters.clear()
    outputs = []
    for step in range(20):
        steered.apply({"dropout": 0.04 * step, "noise": 0.05 * step})
        outputs.append(compiled(torch.ones(4, 6)))
        steered.apply({"dropout": 0.5, "noise": 0.5})
        outputs[-1].sum().backward()
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch.compiler.reset()

    assert graphs == 1
    assert len({float(y.detach().sum()) for y in outputs}) == 20


def test_modules_alone_take_any_number_of_values_in_one_graph() -> None:
    """Of an encoder layer, whose attention hands its rate to a function."""
    torch.compiler.reset()
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    steered = SteeredModel(layer, [RATE], drives={"dropout": "*:p"})
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch._dynamo.utils.counters.clear()
    for step in range(10):
        steered.apply({"dropout": 0.05 * step})
        compiled(torch.ones(4, 5, 8))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch.compiler.reset()

    assert (graphs, layer.self_attn.dropout) == (1, 0.1)


@pytest.mark.parametrize("make", [nn.Dropout, nn.Dropout1d, nn.AlphaDropout])
def test_a_compiled_rate_is_exact_under_a_default_of_half_precision(
    make: Callable[[float], nn.Module],
) -> None:
    """The share that is dropped, and the scale of what stays; bfloat16 rounds what is kept to 1."""
    torch.manual_seed(0)
    model, rate = nn.Sequential(make(0.5)), 0.0015
    torch.set_default_dtype(torch.bfloat16)
    try:
        SteeredModel(model, [RATE]).apply({"dropout": rate})
        y = torch.compile(model, backend="eager")(torch.ones(400, 400, 1, dtype=torch.float32))
    finally:
        torch.set_default_dtype(torch.float32)
        torch.compiler.reset()

    assert dropped(y) == pytest.approx(rate, abs=0.0005)
    if make is not nn.AlphaDropout:
        assert float(y.max()) == pytest.approx(1 / (1 - rate), rel=1e-6)


def test_a_compiled_rate_of_0_drops_nothing_in_half_precision() -> None:
    """One in 256 of bfloat16's random numbers is 0."""
    ones = torch.ones(100, 100, dtype=torch.bfloat16)
    model = nn.Sequential(nn.Dropout(0.5))
    SteeredModel(model, [RATE]).apply({"dropout": 0.0})
    y = torch.compile(model, backend="eager")(ones)
    torch.compiler.reset()

    assert torch.equal(y, ones)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of the import of inductor
def test_compiled_dropout_draws_the_masks_of_an_unsteered_one() -> None:
    """At the same rate and seed, in float32 under torch's default backend."""
    steered, own = nn.Sequential(nn.Dropout(0.1)), nn.Sequential(nn.Dropout(0.37))
    SteeredModel(steered, [RATE]).apply({"dropout": 0.37})
    outputs = []
    for model in (steered, own):
        torch.compiler.reset()
        torch.manual_seed(0)
        outputs.append(torch.compile(model, backend="inductor")(torch.ones(50, 50)))
    torch.compiler.reset()

    assert torch.equal(*outputs)


def test_nothing_is_active_in_evaluation() -> None:
    """In eval mode a steered model gives what it gave before."""
    model = network().eval()
    x = torch.randn(5, 6)
    before = model(x)
    steered = SteeredModel(
        model, [RATE, NOISE], sites={"first": GaussianNoise("noise")}, drives={"dropout": "*"}
    )
    steered.apply({"dropout": 0.9, "noise": 1.0})

    assert torch.equal(model(x), before)


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """Return all that a module has but its tensors and submodules: rates, modes, hooks, methods."""
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
def test_whatever_is_inserted_and_taken_out_leaves_the_model_as_it_was(
    places: list[str],
    kinds: list[type[Dropout | GaussianNoise]],
    own: bool,
    rates: list[float],
    frozen: list[str],
) -> None:
    """Outputs, state, hooks, attributes and modes are as before; while it is in, the keys are."""
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


def test_a_steered_model_can_be_saved_copied_and_loaded() -> None:
    """Whole by pickle, by its state, and by deepcopy, as of an average of weights."""
    model = network()
    steered = SteeredModel(model, [RATE], sites={"head": Dropout()}, drives={"dropout": "*"})
    steered.apply({"dropout": 0.5})
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False).eval()
    copied = copy.deepcopy(model).eval()
    fresh = network()
    fresh.load_state_dict(model.state_dict())
    x = torch.randn(3, 6)
    steered.remove()

    for other in (loaded, copied, fresh.eval()):
        assert torch.equal(other(x), model.eval()(x))


def test_a_model_of_transformers_kind_is_driven_whole() -> None:
    """Dropout modules and the attention's own rate of torch's encoder layer take the value."""
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    steered = SteeredModel(model, [RATE])
    steered.apply({"dropout": 0.4})

    assert model.self_attn.dropout == model.dropout.p == model.dropout2.p == 0.4
    steered.remove()
    assert model.self_attn.dropout == model.dropout.p == 0.1


def test_hyperparameters_drive_the_modules_that_they_are_given() -> None:
    """Patterns of names part a model between two hyperparameters."""
    model = network()
    other = Hyperparameter(name="deep", low=0.0, high=0.5)
    steered = SteeredModel(model, [RATE, other], drives={"dropout": "drop", "deep": "block.*"})
    steered.apply({"dropout": 0.7, "deep": 0.2})

    assert [model.get_submodule(n).p for n in ("drop", "block.2")] == [0.7, 0.2]


def test_a_compiled_model_is_steered_inside() -> None:
    """Who compiled first gives the compiled model, with the names of the plain one."""
    model = network()
    compiled: Any = torch.compile(model, backend="eager")
    SteeredModel(compiled, [RATE], sites={"head": Dropout()})

    assert len(model.get_submodule("head")._forward_hooks) == 1


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # which Dynamo reads of its inputs
@pytest.mark.parametrize(
    "wrapped",
    [lambda block: torch.compile(block, backend="eager"), checkpoint_wrapper],
    ids=["compiled", "checkpointed"],
)
def test_what_wraps_a_part_does_not_change_its_names(
    wrapped: Callable[[nn.Module], nn.Module],
) -> None:
    """A compiled block, or one whose activations are computed again, is met by its plain names."""
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
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sites": {"haed": Dropout()}}, "is not a module of the model; it has first, drop"),
        ({"sites": {"head": Dropout("rate")}}, "'rate' is not one of"),
        ({"drives": {"rate": "*"}}, "'rate' is not one of"),
        ({"drives": "block.*"}, r"patterns by hyperparameter, as \{'dropout': 'block.\*'\}"),
        ({"drives": {"dropout": "nowhere.*"}}, "drives nothing"),
        ({"drives": {"dropout": "*"}, "and": RATE}, "drives nothing"),
        ({"drives": {"dropout": "*", "deep": "block.*"}, "and": RATE}, "'block.2:p' is driven by"),
        ({"and": RATE}, "specify which modules each"),
        ({"of": NOISE}, "must be in"),
    ],
)
def test_a_wrong_use_names_the_mistake_and_changes_nothing(
    arguments: dict[str, object], message: str
) -> None:
    """Names that are not there, what drives nothing, and ranges that do not fit."""
    model = network()
    deep = Hyperparameter(name="deep", low=0.0, high=0.5)
    given = [arguments.pop("of", RATE), *([deep] if arguments.pop("and", None) else [])]
    with pytest.raises(InvalidArgument, match=message):
        SteeredModel(model, given, **arguments)  # type: ignore[arg-type]

    assert not any(m._forward_hooks or "__reduce_ex__" in vars(m) for m in model.modules())


def test_a_model_without_dropout_is_told_of_sites() -> None:
    """The error says what to do."""
    with pytest.raises(InvalidArgument, match=r"add some by sites="):
        SteeredModel(nn.Linear(2, 2), [RATE])


def test_an_error_in_the_middle_undoes_what_came_before() -> None:
    """Of two modules of which the second is another run's, the first is left alone."""
    model = network()
    other = SteeredModel(model.get_submodule("block"), [RATE])
    with pytest.raises(InvalidArgument, match="finish that one first"):
        SteeredModel(model, [RATE])

    assert vars(model.get_submodule("drop")).keys() == vars(nn.Dropout()).keys()
    other.remove()
    assert vars(model.get_submodule("block.2")).keys() == vars(nn.Dropout()).keys()


class Keeping(nn.Dropout):
    """Its number is the probability to keep."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 1 - self.p, self.training)


def test_a_subclass_with_a_forward_of_its_own_is_left_alone_unless_named() -> None:
    """Its number may mean something else; stochastic depth by its name keeps its course."""
    paths = type("DropPath", (nn.Dropout,), {})
    plain = type("Named", (nn.Dropout,), {})
    model = nn.Sequential(Keeping(0.9), paths(0.1), plain(0.25))
    steered = SteeredModel(model, [RATE])
    steered.apply({"dropout": 0.5})

    assert [module.p for module in model] == [0.9, 0.1, 0.5]
    assert [found.module for found in steered.description.left_alone] == ["0", "1"]
    steered.remove()
    SteeredModel(model, [RATE], drives={"dropout": "0"}).apply({"dropout": 0.5})
    assert model[0].p == 0.5


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
    """One of an unknown kind passes as it is, with one warning."""

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


def test_a_run_may_start_in_inference_mode() -> None:
    model = network()
    with torch.inference_mode():
        steered = SteeredModel(model, [RATE])
    steered.apply({"dropout": 0.5})
    assert model[1].p == 0.5
