"""Callbacks of Lightning, Transformers and Ignite: runs follow trainings, models follow actions."""

import copy
import logging
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from agent_service import torchvision_operators  # noqa: F401  # first: libraries import torchvision
from agent_service.client import AgentClient, Problem
from agent_service.client.model import Validation
from agent_service.client.model.lifecycle import Fitting, RunLifecycle
from agent_service.domain.errors import AgentError
from agent_service.v1 import agent_pb2 as pb
from agent_service.wire.convert import problem_from_message

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
CLASSES = 3
RATE = 0.25


@pytest.fixture(autouse=True)
def _quiet() -> None:
    for name in ("lightning.pytorch", "lightning.fabric", "ignite"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def data(count: int) -> TensorDataset:
    torch.manual_seed(0)
    x = torch.randn(count, 4)
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(RATE), nn.Linear(8, CLASSES))


def reported_losses(client: AgentClient) -> list[float]:
    return [loss for t in client.transitions(run_id="r") for loss in t.next_state]


def outcomes(client: AgentClient) -> list[int]:
    """Return the outcomes of all runs, oldest first; 0 for an active one."""
    return [int(run.outcome) for run in client.list_runs()][::-1]


def rate_of(model: nn.Module) -> float:
    return next(float(m.p) for m in model.modules() if isinstance(m, nn.Dropout))


@pytest.mark.parametrize("name", ["lightning", "transformers"])
def test_a_callback_can_be_imported_first(name: str) -> None:
    """Also with a torch without torchvision's compiled operators, as `make demo` installs it."""
    code = f"from agent_service.client.{name} import ReinforcedRegularization"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


# Hugging Face's Trainer


def items(length: int = 6, labels: Callable[[Tensor, int], Tensor] | None = None) -> list[Any]:
    torch.manual_seed(0)
    words = [torch.randint(1, 20, (length,)) for _ in range(40)]
    own = labels or (lambda _words, i: torch.tensor(i % CLASSES))
    return [{"input_ids": w, "labels": own(w, i)} for i, w in enumerate(words)]


def small(kind: str) -> Any:
    """Return a small model: GPT-2 divides by `num_items_in_batch`, BERT does not."""
    import transformers as hf

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    if kind == "gpt2":
        return hf.GPT2LMHeadModel(
            hf.GPT2Config(vocab_size=20, n_embd=16, n_layer=1, n_head=2, n_positions=16)
        )
    words = hf.BertConfig(vocab_size=20, intermediate_size=16, **sizes)
    words.num_labels = 1 if kind == "regression" else CLASSES
    is_tagger = kind == "tagger"
    return (hf.BertForTokenClassification if is_tagger else hf.BertForSequenceClassification)(words)


def trainer_of(
    client: AgentClient,
    model: Any,
    dataset: list[Any],
    folder: Path,
    *,
    run_id: str | None = "r",
    callbacks: tuple[Any, ...] = (),
    collate: Any = None,
    score: Any = None,
    compute_loss_func: Any = None,
    **changes: Any,
) -> Any:
    from transformers import Trainer, TrainingArguments

    from agent_service.client.transformers import ReinforcedRegularization, Validation

    arguments: dict[str, Any] = {
        "report_to": [],
        "disable_tqdm": True,
        "logging_strategy": "no",
        "use_cpu": True,
        "max_steps": 8,
        "per_device_train_batch_size": 2,
        "save_strategy": "no",
    }
    loader: Any = DataLoader(dataset, 4, collate_fn=collate)  # type: ignore[arg-type]
    own = ReinforcedRegularization(
        client, "c", Validation(loader, batches=2), run_id=run_id, score=score
    )
    return Trainer(
        model,
        TrainingArguments(str(folder), **(arguments | changes)),
        data_collator=collate,
        train_dataset=dataset,
        callbacks=[own, *callbacks],
        compute_loss_func=compute_loss_func,
    )


def passes_of(model: Any) -> list[tuple[Tensor, Tensor, float]]:
    """Return a list that collects logits, labels and drop rate of the training's passes."""
    passes: list[tuple[Tensor, Tensor, float]] = []

    def collect(_model: nn.Module, _args: Any, kwargs: Any, output: Any) -> None:
        if model.training and kwargs.get("labels") is not None:
            passes.append((output.logits.detach(), kwargs["labels"], rate_of(model)))

    model.register_forward_hook(collect, with_kwargs=True)
    return passes


def padded(batch: list[Any]) -> dict[str, Tensor]:
    kinds = {"input_ids": 0, "labels": -100}
    return {
        name: nn.utils.rnn.pad_sequence([item[name] for item in batch], True, pad)
        for name, pad in kinds.items()
    }


def ragged() -> list[Any]:
    """Return sentences of 4 to 8 words, whose first word has no label."""
    made = [items(4 + i % 5, lambda words, i: words % CLASSES)[i] for i in range(40)]
    for item in made:
        item["labels"][0] = -100
    return made


def next_words(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()


MODELS: dict[str, tuple[Callable[[], list[Any]], Any, Callable[..., Any]]] = {
    "gpt2": (lambda: items(labels=lambda w, _i: w.clone()), None, next_words),
    "tagger": (ragged, padded, lambda logits, labels: (logits.flatten(0, 1), labels.flatten())),
}


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("kind", MODELS)
def test_a_trainers_losses_and_scores_are_those_of_its_passes(
    client: AgentClient, tmp_path: Path, kind: str, passes: int
) -> None:
    """Whatever the model divides its loss by: 20 batches an epoch, 3 a step, 2 in the last step."""
    make, collate, aligned = MODELS[kind]
    model, dataset = small(kind), make()
    own, seen = rate_of(model), passes_of(model)
    trainer_of(
        client, model, dataset, tmp_path, collate=collate, gradient_accumulation_steps=passes
    ).train()

    batches = [aligned(logits, labels) for logits, labels, _ in seen]
    losses = [float(functional.cross_entropy(*batch)) for batch in batches]
    bounds = [*range(0, 20, passes), 20, 20 + passes] if passes > 1 else range(9)
    steps = [losses[a:b] for a, b in pairwise(bounds)]
    assert reported_losses(client) == pytest.approx([sum(s) / len(s) for s in steps], rel=1e-5)
    first = next(iter(client.transitions(run_id="r")))
    logits, labels = (torch.cat(parts) for parts in zip(*batches[: 4 * passes], strict=True))
    counted = labels != -100
    expected = f1_score(labels[counted], logits.argmax(1)[counted], average="macro")
    assert first.scores.training == pytest.approx(expected)
    assert client.get_run("r").outcome == pb.OUTCOME_TERMINATED
    assert len({rate for *_, rate in seen}) == 2, "each chunk has its action"
    assert rate_of(model) == own


def test_the_losses_of_a_regression_are_reported(client: AgentClient, tmp_path: Path) -> None:
    """Its mean squared error is divided by nothing, although the model accepts the number."""
    dataset = items(labels=lambda _words, i: torch.tensor(float(i % 3)))
    model = small("regression")
    seen = passes_of(model)
    trainer_of(client, model, dataset, tmp_path, score="r2", gradient_accumulation_steps=2).train()

    losses = [float(functional.mse_loss(logits.squeeze(), labels)) for logits, labels, _ in seen]
    means = [(a + b) / 2 for a, b in zip(losses[::2], losses[1::2], strict=True)]
    assert reported_losses(client) == pytest.approx(means, rel=1e-5)


def of_outputs(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    return functional.cross_entropy(outputs.logits, labels)


@pytest.mark.parametrize("setting", ["label_smoothing_factor", "compute_loss_func"])
def test_a_loss_that_the_trainer_computes_is_refused_before_the_training(
    client: AgentClient, tmp_path: Path, setting: str
) -> None:
    """The model gets no labels then; nothing is trained, and the model is restored."""
    model = small("bert")
    before = [p.clone() for p in model.parameters()]
    options: dict[str, Any] = {setting: 0.1 if setting == "label_smoothing_factor" else of_outputs}
    trainer = trainer_of(client, model, items(), tmp_path, **options)
    with pytest.raises(TypeError, match=setting):
        trainer.train()

    assert all(map(torch.equal, before, model.parameters()))
    assert rate_of(model) == 0.1


@pytest.mark.parametrize(
    ("run_id", "ends", "chunks"),
    [
        (None, [pb.OUTCOME_TRUNCATED, pb.OUTCOME_TERMINATED], [1, 2]),
        ("r", [pb.OUTCOME_TERMINATED], [3]),
    ],
)
def test_an_interrupted_training_can_be_started_again(
    client: AgentClient, tmp_path: Path, run_id: str | None, ends: list[int], chunks: list[int]
) -> None:
    """The next `train` truncates the run left open, as no callback sees the exception.

    A run that the script named continues.
    """
    from transformers import TrainerCallback

    class Once(TrainerCallback):
        is_done = False

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 5 and not self.is_done:
                self.is_done = True
                raise KeyboardInterrupt

    model = small("bert")
    trainer = trainer_of(client, model, items(), tmp_path, run_id=run_id, callbacks=(Once(),))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.train()

    assert outcomes(client) == ends
    assert [run.reported_chunks for run in client.list_runs()][::-1] == chunks
    assert rate_of(model) == 0.1


def test_a_model_can_be_copied_and_pickled_during_the_training(
    client: AgentClient, tmp_path: Path
) -> None:
    """Nothing of the callback is in the copies, and their passes are not recorded."""
    from transformers import TrainerCallback

    class Ema(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            written = pickle.dumps(kwargs["model"])
            assert b"agent_service" not in written
            for made in (copy.deepcopy(kwargs["model"]), pickle.loads(written)):
                made(**{name: tensor[None] for name, tensor in items()[0].items()})

            pickle.dumps(own)

    trainer = trainer_of(client, small("bert"), items(), tmp_path, callbacks=(Ema(),))
    (own,) = (c for c in trainer.callback_handler.callbacks if hasattr(c, "_lifecycle"))
    trainer.train()

    assert client.get_run("r").reported_chunks == 2


def test_a_search_for_a_batch_size_is_one_run(client: AgentClient, tmp_path: Path) -> None:
    """auto_find_batch_size starts over; the steps recorded before are forgotten."""
    model = small("bert")
    sizes = []

    class Large(type(model)):  # type: ignore[misc]
        def forward(self, input_ids: Any = None, labels: Any = None, **rest: Any) -> Any:
            sizes.append(len(input_ids))
            if len(input_ids) == 8 and sizes.count(8) == 3:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
            return super().forward(input_ids=input_ids, labels=labels, **rest)

    model.__class__ = Large
    changes: dict[str, Any] = {"auto_find_batch_size": True, "per_device_train_batch_size": 8}
    trainer_of(client, model, items(), tmp_path, **changes).train()

    assert sizes.count(8) == 3
    assert outcomes(client) == [pb.OUTCOME_TERMINATED]
    assert client.get_run("r").reported_chunks == 2
    assert rate_of(model) == 0.1


def test_sentences_of_as_many_words_as_classes_are_scored_by_word(
    client: AgentClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The classes of a Trainer's model are last, so nothing is ambiguous, and no warning logged."""
    model, dataset = small("tagger"), items(CLASSES, lambda words, _i: words % CLASSES)
    seen = passes_of(model)
    trainer_of(client, model, dataset, tmp_path).train()

    first = next(iter(client.transitions(run_id="r")))
    logits, labels = (torch.cat(parts) for parts in list(zip(*seen[:4], strict=True))[:2])
    expected = f1_score(labels.flatten(), logits.argmax(-1).flatten(), average="macro")
    assert first.scores.training == pytest.approx(expected)
    assert "classes in the second dimension" not in caplog.text


# Lightning


def fit(
    client: AgentClient,
    folder: Path,
    module: Any,
    *,
    ckpt_path: Any = None,
    callbacks: tuple[Any, ...] = (),
    run_id: str | None = "r",
    **changes: Any,
) -> Any:
    from lightning.pytorch import Trainer

    from agent_service.client.lightning import ReinforcedRegularization, Validation

    options: dict[str, Any] = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_epochs": 1,
        "accelerator": "cpu",
        "enable_checkpointing": False,
    }
    own = ReinforcedRegularization(
        client, "c", Validation(DataLoader(data(40), 8), batches=2), run_id=run_id
    )
    trainer = Trainer(
        callbacks=[own, *callbacks], default_root_dir=str(folder), **(options | changes)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(
            module,
            DataLoader(data(80), 8),
            ckpt_path=ckpt_path,
            weights_only=None if ckpt_path is None else False,
        )


@pytest.fixture
def modules() -> Any:
    from lightning.pytorch import LightningModule

    class Module(LightningModule):
        """A network that collects losses and drop rates of its passes."""

        def __init__(self) -> None:
            super().__init__()
            self.net = network()
            self.losses: list[float] = []
            self.rates: list[float] = []

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(x)
            return logits

        def training_step(self, batch: Any, index: int) -> Any:
            x, labels = batch
            logits = self(x)
            loss = functional.cross_entropy(logits, labels)
            self.losses.append(loss.item())
            self.rates.append(rate_of(self))
            return {"loss": loss, "logits": logits, "labels": labels}

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    return Module


def test_a_step_with_fewer_passes_has_their_mean_loss(
    client: AgentClient, tmp_path: Path, modules: Any
) -> None:
    """Ten batches, four a step: Lightning divides the losses of the last two by four as well."""
    module = modules()
    fit(client, tmp_path, module, accumulate_grad_batches=4, max_epochs=4)

    means = []
    for epoch in range(4):
        passes = module.losses[10 * epoch : 10 * epoch + 10]
        means += [sum(p) / len(p) for p in (passes[:4], passes[4:8], passes[8:])]
    assert reported_losses(client) == pytest.approx(means, rel=1e-5)
    assert len(set(module.rates[:14])) == 1, "one action for the 14 passes of the first chunk"
    assert module.rates[14] != module.rates[13]
    assert rate_of(module) == RATE
    assert outcomes(client) == [pb.OUTCOME_TERMINATED]


def test_a_skipped_batch_is_not_recorded(client: AgentClient, tmp_path: Path, modules: Any) -> None:
    """training_step returns None: for a whole step, and for one of accumulated passes."""

    class Skips(modules):  # type: ignore[misc]
        def training_step(self, batch: Any, index: int) -> Any:
            return None if index in (2, 6, 7) else super().training_step(batch, index)

    module = Skips()
    fit(client, tmp_path, module, accumulate_grad_batches=2, max_epochs=2)

    a, b, c, d, e, f, g = module.losses[:7]
    assert reported_losses(client)[:4] == pytest.approx([(a + b) / 2, c, (d + e) / 2, (f + g) / 2])


def test_manual_optimization_with_two_optimizers_makes_one_step_per_batch(
    client: AgentClient, tmp_path: Path, modules: Any
) -> None:
    """As for a GAN: with the returned loss, undivided; returning None does not skip there."""

    class Two(modules):  # type: ignore[misc]
        automatic_optimization = False

        def configure_optimizers(self) -> Any:
            halves = self.net[0], self.net[3]
            return [torch.optim.SGD(half.parameters(), lr=0.01) for half in halves]

        def training_step(self, batch: Any, index: int) -> Any:
            outputs = super().training_step(batch, index)
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(outputs["loss"])
            for optimizer in self.optimizers():
                optimizer.step()
            return outputs

    class Silent(Two):
        def training_step(self, batch: Any, index: int) -> Any:
            super().training_step(batch, index)

    module = Two()
    fit(client, tmp_path, module)
    assert reported_losses(client) == pytest.approx(module.losses[:8])
    with pytest.raises(TypeError, match="from training_step"):
        fit(client, tmp_path, Silent(), run_id=None)


def test_a_fit_resumed_under_a_finished_run_is_refused_before_it_trains(
    client: AgentClient, tmp_path: Path, modules: Any
) -> None:
    """An exception truncated the run; the checkpoint can be resumed under another id."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Breaks(modules):  # type: ignore[misc]
        def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
            if index == 5:
                raise RuntimeError("preempted")

    checkpoint = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=2, save_last=True)
    module, again = Breaks(), modules()
    with pytest.raises(RuntimeError, match="preempted"):
        fit(client, tmp_path, module, callbacks=(checkpoint,), enable_checkpointing=True)
    path = tmp_path / "last.ckpt"
    assert rate_of(module) == RATE
    with pytest.raises(AgentError, match="is finished"):
        fit(client, tmp_path, again, ckpt_path=path, max_epochs=2)
    assert again.losses == []
    fit(client, tmp_path, again, ckpt_path=path, max_epochs=2, run_id="r-2")

    assert outcomes(client) == [pb.OUTCOME_TRUNCATED, pb.OUTCOME_TERMINATED]


# Ignite


def engine_of(
    client: AgentClient, model: nn.Module, step: Any = None, loader: Any = None, **options: Any
) -> Any:
    from ignite.engine import Engine

    from agent_service.client.ignite import ReinforcedRegularization

    def train(_engine: Any, batch: Any) -> Any:
        x, labels = batch
        logits = model(x)
        return functional.cross_entropy(logits, labels), logits, labels

    engine = Engine(step or train)
    validation = Validation(DataLoader(data(40), 8) if loader is None else loader, batches=2)
    ReinforcedRegularization(client, "c", model, validation, **options).attach(engine)
    return engine


@pytest.mark.parametrize("skip", [False, True])
def test_a_terminated_engine_ends_its_run(client: AgentClient, skip: bool) -> None:
    """Also if it skips its completion; the model is restored, and another engine can train it."""
    from ignite.engine import Events

    model, rates = network(), []
    first = engine_of(client, model)
    first.add_event_handler(
        Events.ITERATION_COMPLETED(once=6), lambda: first.terminate(skip_completed=skip)
    )
    first.add_event_handler(Events.ITERATION_STARTED, lambda: rates.append(rate_of(model)))
    first.run(DataLoader(data(80), 8), max_epochs=1)
    assert len(set(rates[:4])) == 1
    assert rates[4] != rates[3], "the second chunk has the next action"
    assert rate_of(model) == RATE
    engine_of(client, model).run(DataLoader(data(80), 8), max_epochs=1)

    ended = pb.OUTCOME_TRUNCATED if skip else pb.OUTCOME_TERMINATED
    assert outcomes(client) == [ended, pb.OUTCOME_TERMINATED]


def test_a_training_whose_script_swallows_exceptions_keeps_its_run(client: AgentClient) -> None:
    """Its handler is called as without the callback, whether a batch or the validation fails."""
    from ignite.engine import Events

    model, seen = network(), []
    logits, labels = torch.randn(8, CLASSES), torch.randint(CLASSES, (8,))
    steps = iter(range(99))

    def step(_engine: Any, _batch: Any) -> Any:
        loss = next(steps)
        if loss == 2:
            raise RuntimeError("one bad batch")
        return float(loss), logits, labels

    class Fails:
        def __iter__(self) -> Any:
            yield from [data(8).tensors] * 3  # the first try, the first chunk
            raise OSError("disk")

    engine = engine_of(client, model, step, run_id="r", loader=Fails())
    engine.add_event_handler(Events.EXCEPTION_RAISED, lambda error: seen.append(type(error)))
    engine.run(range(10), max_epochs=2)

    assert seen == [RuntimeError, OSError]
    assert reported_losses(client) == [0.0, 1.0, 3.0, 4.0]
    assert outcomes(client) == [pb.OUTCOME_TERMINATED]
    assert rate_of(model) == RATE


def test_a_callback_without_a_run_lets_the_training_continue(client: AgentClient) -> None:
    """An exception that the script handled has ended its run."""
    lifecycle = RunLifecycle(client, "c", Validation([data(8).tensors]), {})
    lifecycle.begin(network())
    lifecycle.fail(RuntimeError())
    lifecycle.add_pass(torch.randn(8, CLASSES), torch.randint(CLASSES, (8,)))
    lifecycle.step([torch.tensor(1.0)])

    assert outcomes(client) == [pb.OUTCOME_TRUNCATED]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_two_callbacks_of_one_engine_pass_on_an_exception(
    client: AgentClient, error: type[BaseException]
) -> None:
    """As for a GAN's two models: both runs end, and the script gets the exception."""
    from agent_service.client.ignite import ReinforcedRegularization

    models = [network(), network()]

    def step(engine: Any, batch: Any) -> Any:
        if engine.state.iteration == 3:
            raise error
        return 1.0, models[0](batch[0]), batch[1]

    engine = engine_of(client, models[0], step)
    validation = Validation([data(8).tensors])
    ReinforcedRegularization(client, "c", models[1], validation).attach(engine)
    with pytest.raises(error):
        engine.run(DataLoader(data(80), 8), max_epochs=2)

    ended = pb.OUTCOME_TRUNCATED if error is RuntimeError else pb.OUTCOME_CANCELLED
    assert outcomes(client) == [ended, ended]
    assert [rate_of(model) for model in models] == [RATE, RATE]


def test_an_engine_records_the_outputs_of_its_function(client: AgentClient) -> None:
    """None is a batch without a step; anything but three values is refused with the fix."""
    model = network()
    logits, labels = torch.randn(8, CLASSES), torch.randint(CLASSES, (8,))
    outputs = iter([None, *[(float(i), logits, labels) for i in range(8)]])
    engine_of(client, model, lambda _engine, _batch: next(outputs), run_id="r").run(
        range(9), max_epochs=1
    )
    assert reported_losses(client) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    with pytest.raises(TypeError, match="output_transform="):
        engine_of(client, model, lambda _engine, _batch: 0.5).run([1], max_epochs=1)


# What the frameworks know


def told(client: AgentClient) -> dict[str, Any]:
    """Return what run "r" says of its training: its problem and its plan."""
    run = client.get_run("r")
    return problem_from_message(run.problem).known() | {"chunks": run.planned_chunks}


def test_a_trainer_tells_optimizer_batches_and_plan(client: AgentClient, tmp_path: Path) -> None:
    """A step of two passes has two batches; AdamW's rate is that before it decays."""
    model = small("bert")
    changes: dict[str, Any] = {"gradient_accumulation_steps": 2, "learning_rate": 1e-3}
    trainer_of(client, model, items(), tmp_path, warmup_steps=4, **changes).train()

    assert told(client) == {
        "classes": CLASSES,
        "training_samples": 40,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "parameters": model.num_parameters(only_trainable=True),
        "sites": sum(isinstance(m, nn.Dropout) for m in model.modules()),
        "chunks": 2,
    }


def test_lightning_tells_optimizer_batches_and_plan(
    client: AgentClient, tmp_path: Path, modules: Any
) -> None:
    """Of what is still to come: three of five epochs, of five steps each."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    class WithAdam(modules):  # type: ignore[misc]
        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=0.01)

    changes: dict[str, Any] = {"accumulate_grad_batches": 2, "enable_checkpointing": True}
    last = ModelCheckpoint(dirpath=tmp_path, filename="last")
    fit(client, tmp_path, WithAdam(), callbacks=(last,), max_epochs=2, run_id=None, **changes)
    fit(client, tmp_path, WithAdam(), ckpt_path=tmp_path / "last.ckpt", max_epochs=5, **changes)

    assert told(client) == {
        "classes": CLASSES,
        "training_samples": 80,
        "batch_size": 16,
        "learning_rate": 0.01,
        "parameters": 67,
        "sites": 1,
        "chunks": 3,
    }


def test_an_engine_tells_batches_and_plan(client: AgentClient) -> None:
    """Its optimizer it does not know, and the script names it; the script's word goes first."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    options: dict[str, Any] = {"optimizer": optimizer, "problem": Problem(training_samples=70)}
    engine = engine_of(client, model, run_id="r", **options)
    engine.run(DataLoader(data(80), 8), max_epochs=2)

    assert told(client) == {
        "classes": CLASSES,
        "training_samples": 70,
        "batch_size": 8,
        "learning_rate": 0.01,
        "parameters": 67,
        "sites": 1,
        "chunks": 5,
    }


def test_a_framework_that_tells_nothing_starts_the_run(client: AgentClient) -> None:
    """Whatever it raises; and a script's own plan stays."""

    def fails() -> Fitting:
        raise AttributeError("of another release")

    for run_id, fitting, options, chunks in (
        ("a", fails, {}, 0),
        ("b", lambda: Fitting(steps=float("inf")), {}, 0),
        ("c", lambda: Fitting(steps=40), {"planned_chunks": 3}, 3),
        ("d", lambda: Fitting(steps=40), {"planned_steps": 20}, 5),
    ):
        validation = Validation([data(8).tensors])
        lifecycle = RunLifecycle(client, "c", validation, {"run_id": run_id, **options})
        lifecycle.begin(network(), fitting=fitting)
        lifecycle.end()
        assert client.get_run(run_id).planned_chunks == chunks
