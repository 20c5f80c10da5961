"""Study files: presets are studies, and errors name line and field."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from agent_service.domain.errors import InvalidArgument
from trainer_service.study.methods.fixed import Fixed
from trainer_service.study.methods.registry import KINDS
from trainer_service.study.spec import StudySpec
from trainer_service.study.study_file import (
    WrongStudy,
    as_toml,
    parse_study,
    presets,
    read_study,
)
from trainer_service.study.suite import Suite
from trainer_service.training.spec import TrainingSpec

TEXT = """
seeds = 3
budget = 8
references = ["d"]

[training]
dataset = "digits"
chunks = 40

[[methods]]
name = "d"
kind = "fixed"
method = "d"

[[methods]]
name = "grid"
kind = "grid"
values = [0.1, 0.2]

[[methods]]
name = "rd"
kind = "ppo"
[methods.ppo]
rollout_size = 64
gamma = 0.9

[[methods]]
name = "replay"
kind = "replay"
of = "rd"
"""


@pytest.mark.parametrize("name", presets())
def test_a_preset_is_a_study(name: str) -> None:
    """It can be read, and compares more than the paper's table."""
    read = read_study(name)
    studies = [problem.study for problem in read.problems] if isinstance(read, Suite) else [read]

    for spec in studies:
        assert len(spec.methods) >= 6
        assert spec.seeds >= 5


def test_a_file_is_what_it_says(tmp_path: Path) -> None:
    """Tables become the study's parts, in order."""
    file = tmp_path / "study.toml"
    file.write_text(TEXT)
    spec = read_study(str(file))

    assert isinstance(spec, StudySpec)
    assert [entry.name for entry in spec.methods] == ["d", "grid", "rd", "replay"]
    assert spec.training.chunks == 40
    assert spec.entry("rd").ppo.gamma == 0.9  # type: ignore[attr-defined]
    assert [entry.tuned_children(spec) for entry in spec.methods] == [0, 8, 8, 0]


GRID, REPLAY = 'kind = "grid"', 'kind = "replay"\nof = "rd"'
WRONG = [
    ("seeds = 3", "seeds = ", "line 2"),
    ("seeds = 3", "seeds = 0", "line 2: seeds: 0 is not in"),
    ("seeds = 3", "# \u2028\u0085 \nseeds = 0", "line 3: seeds: 0 is not in"),
    ("seeds = 3", 'tests = ["rd"]\nseeds = 5', "line 3: seeds: 5 are too few.*give 6 or more"),
    ("budget = 8", "budget = 9", r"line 18: methods\[2\].values: 2 values cannot share 9"),
    ("budget = 8", "budget = 1001", "line 3: budget: 1001 is not in"),
    ('references = ["d"]', 'references = ["e"]', "line 4: references: 'e' is not one of the"),
    ("[training]", "[trainings]", "line 6: trainings: is not known here"),
    (TEXT, '[[methods]]\nname = "d"', "line 1: training: is missing"),
    ("dataset", "data_set", "line 7: training.data_set: is not known here; known are"),
    ("chunks = 40", "chunks = 0", "line 8: training.chunks: 0 must be at least 1"),
    ("chunks = 40", "chunks = 40\nepochs = 2", "line 8: training.chunks: set either"),
    ("chunks = 40", "chunks = 40\nseed = 1", "line 9: training.seed: is set for each child"),
    (GRID, f"{GRID}\nbudget = 1001", r"line 18: methods\[2\].budget: 1001 is not in \[1, 1000\]"),
    (GRID, f"{GRID}\nbudget = 3", r"line 19: methods\[2\].values: 2 values cannot share 3"),
    (GRID, 'kind = "gird"', r"line 17: methods\[2\].kind: 'gird' is not one of"),
    (GRID, 'kind = ["grid"]', r"line 17: methods\[2\].kind: .* is not one of"),
    (GRID, "", r"line 15: methods\[2\].kind: None is not one of"),
    ("[0.1, 0.2]", "[0.1, 1.2]", r"line 18: methods\[2\].values: 1.2 is not in \[0.0, 0.9\]"),
    ('method = "d"', 'method = "rd"', r"line 13: methods\[1\].method: rd has a controller"),
    (
        'method = "d"',
        'method = "d"\nvalues.dropout = 2',
        r"line 14: methods\[1\].values.dropout: 2",
    ),
    ('method = "d"', 'method = "x"', r"line 13: methods\[1\].method: .x. is not one of"),
    ("[methods.ppo]", "high = 1\n[methods.ppo]", r"line 23: methods\[3\].high: 1.0 is not in"),
    ("gamma = 0.9", "gamma = 9", r"line 25: methods\[3\].ppo.gamma: 9.0 is not in"),
    ("rollout_size = 64", "rollout_size = 640", r"methods\[3\].ppo: .* in \[methods.ppo\] below"),
    ('of = "rd"', 'of = "d"', r"line 30: methods\[4\].of: 'd' is no learned method"),
    (REPLAY, 'kind = "pbt"\nround_chunks = 7', r"line 30: methods\[4\].round_chunks: 7 does not"),
    ('name = "grid"', 'name = "d"', r"line 16: methods\[2\].name: 'd' is there twice"),
    ('name = "grid"', 'name = "Grid"', r"line 16: methods\[2\].name: 'Grid' does not match"),
    (TEXT, "a = " + "[" * 100_000, ""),
    (TEXT, "a = " + "9" * 5000, ""),
    (TEXT, "methods = [1]\n[training]\nchunks = 2", r"line 1: methods\[1\].kind: None is not"),
]


@pytest.mark.parametrize(("old", "new", "error"), WRONG)
def test_an_error_names_line_and_field(old: str, new: str, error: str) -> None:
    """In one line, before anything is begun."""
    assert old in TEXT
    with pytest.raises(WrongStudy, match=rf"study\.toml(, |: ).*{error}") as raised:
        parse_study(TEXT.replace(old, new, 1), "study.toml")

    assert "\n" not in str(raised.value)


PROBLEMS = """
[[problems]]
name = "few"
training_size = 100
label_noise = 0.3

[[problems]]
name = "long"
epochs = 3
seeds = 5
"""
MANY = TEXT.replace("\n[[methods]]", PROBLEMS + "\n[[methods]]", 1)


def suite_of(text: str) -> Suite:
    suite = parse_study(text, "study.toml")
    assert isinstance(suite, Suite)
    return suite


def test_problems_change_the_training_that_they_share() -> None:
    """Each is a study of the same methods; a length takes the place of the shared one."""
    suite = suite_of('title = "Both"' + MANY)
    few, long = (problem.study for problem in suite.problems)
    shared = TrainingSpec(chunks=40)

    assert suite.names == ["few", "long"]
    assert few.training == replace(shared, training_size=100, label_noise=0.3)
    assert long.training == replace(shared, chunks=None, epochs=3)
    assert (few.seeds, long.seeds) == (3, 5)
    assert few.methods == long.methods
    assert (suite.title, few.title) == ("Both", "Both: few")
    assert suite.shown == ("grid",), "the first that is no reference"


@pytest.mark.parametrize("text", [MANY, MANY.replace("seeds = 5", ""), 'title = "Both"' + MANY])
def test_a_suite_is_written_as_it_is_read(text: str) -> None:
    """With every default, what is shared once."""
    suite = suite_of(text)
    written = as_toml(suite)

    assert suite_of(written) == suite
    assert written.count("dataset") == 1
    assert written.count("training_size") == 1, "the other has them all"


def test_the_shared_training_need_not_be_whole() -> None:
    """Where each problem has the rest; the table may be left out."""
    text = MANY.replace("chunks = 40", "").replace("label_noise = 0.3", "chunks = 30")
    assert suite_of(text).problems[0].study.training.chunks == 30

    alone = text.replace('[training]\ndataset = "digits"', "")
    assert suite_of(alone) == suite_of(text)


FEW, LONG = 'name = "few"', 'name = "long"'
WRONG_PROBLEMS = [
    ("training_size = 100", "training_size = 0", r"line 12: problems\[1\].training_size: 0 must"),
    ("epochs = 3", "chunks = 0", r"line 17: problems\[2\].chunks: 0 must be at least 1"),
    ("epochs = 3", "chunks = 3\nepochs = 3", r"line 17: problems\[2\].chunks: set either"),
    ("epochs = 3", "size = 3", r"line 17: problems\[2\].size: is not known.* name, seeds, dataset"),
    ("epochs = 3", "seed = 3", r"line 17: problems\[2\].seed: is not known here"),
    ("seeds = 5", "seeds = 0", r"line 18: problems\[2\].seeds: 0 is not in"),
    ("seeds = 3", "seeds = 0", r"line 2: seeds: for problem few: 0 is not in"),
    ("chunks = 40", "chunks = 40\nbatch_size = 0", r"line 9: training.batch_size: 0 must be"),
    ("chunks = 40", "chunks = 40\nchunk = 0", r"line 9: training.chunk: is not known here"),
    ("chunks = 40", "", r"line 10: problems\[1\].chunks: set either"),
    (FEW, "", r"line 10: problems\[1\].name: is missing"),
    (FEW, 'name = "Few"', r"line 11: problems\[1\].name: 'Few' does not match"),
    (FEW, 'name = "pictures"', r"line 11: problems\[1\].name: pictures is the folder of"),
    (LONG, FEW, r"line 16: problems\[2\].name: 'few' is there twice"),
    (PROBLEMS, "[problems]\nfew = 1\n", r"line 9: problems: is no list of tables"),
    (TEXT, f"problems = []\n{TEXT}", r"line 1: problems: is empty"),
    ("gamma = 0.9", "gamma = 9", r"line 35: methods\[3\].ppo.gamma: 9.0 is not in"),
    ("label_noise = 0.3", "chunks = 4", r"line 33: methods\[3\].ppo: for problem few: 8 children"),
    ('name = "grid"', 'name = "best-default"', r"line 26: methods\[2\].name: best-default is what"),
]


@pytest.mark.parametrize(("old", "new", "error"), WRONG_PROBLEMS)
def test_an_error_of_a_problem_names_line_and_field(old: str, new: str, error: str) -> None:
    """There where it is written: with the problem, or for all of them."""
    text = MANY if old in MANY else TEXT
    assert old in text
    with pytest.raises(WrongStudy, match=rf"study\.toml, .*{error}") as raised:
        parse_study(text.replace(old, new, 1), "study.toml")

    assert "\n" not in str(raised.value)


def test_a_suite_goes_on_with_more_problems_methods_and_seeds() -> None:
    """Not with fewer problems, or with one that trains otherwise."""
    suite = suite_of(MANY)
    more = MANY + PROBLEMS.replace("few", "few-2").replace("long", "long-2")
    grown = suite_of(more.replace("seeds = 3", "seeds = 4"))

    assert grown.goes_on_with(suite)
    assert not suite.goes_on_with(grown)
    assert not suite_of(MANY.replace("0.3", "0.4", 1)).goes_on_with(suite)


def test_a_file_of_any_editor_is_the_same_study(tmp_path: Path) -> None:
    """With a byte order mark and other line ends; without a mark it is refused by name."""
    file = tmp_path / "study.toml"
    text = ("# größe" + TEXT).replace("\n", "\r\n")
    file.write_bytes(text.encode("utf-16"))
    assert read_study(str(file)) == parse_study(TEXT, "study")

    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(WrongStudy, match=r"study\.toml: is not in UTF-8.*save it as UTF-8$"):
        read_study(str(file))


def test_a_study_has_a_bounded_number_of_methods() -> None:
    """A picture of them all has to be drawn."""
    methods = tuple(Fixed(name=f"m{n}", method="vanilla") for n in range(201))

    with pytest.raises(InvalidArgument, match="methods: 201 are too many"):
        StudySpec(training=TrainingSpec(chunks=1), methods=methods)


def test_an_unknown_name_is_refused_with_the_presets() -> None:
    """A file that is not there, and is no preset."""
    with pytest.raises(WrongStudy, match=r"digitz is no file, and none of the presets .*digits"):
        read_study("digitz")


def test_every_kind_has_a_word() -> None:
    """The table of kinds is that of their own words."""
    for word, kind in KINDS.items():
        assert [f.default for f in fields(kind) if f.name == "kind"] == [word]
