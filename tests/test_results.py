"""The README's results are those of the kept studies, and these are what their code made."""

import re
import shutil
from pathlib import Path

import pytest

from tests.trainer_service.study.simulated import draw_nothing
from trainer_service.study.report.report import write_report

ROOT = Path(__file__).parent.parent
LATER = "was made by another commit than most"
STUDIES = sorted(path.parent for path in (ROOT / "tests" / "data" / "results").glob("*/study.json"))


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the report of each kept study, as Markdown, made again from its results."""
    assert STUDIES
    texts = {}
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        for kept in STUDIES:
            folder = tmp_path_factory.mktemp("results") / kept.name
            shutil.copytree(kept, folder)
            texts[kept.name] = write_report(folder).text.read_text()
    return texts


def section(title: str) -> list[str]:
    text = (ROOT / "README.md").read_text()
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0].splitlines()


@pytest.mark.parametrize("kept", STUDIES, ids=lambda path: path.name)
def test_kept_results_are_as_they_were_made(reports: dict[str, str], kept: Path) -> None:
    """Signed, under the spec planned, by one policy a method, and by commits as they stand."""
    flags = reports[kept.name].split("\n## Flags\n")[1].split("\n## ")[0]
    words = re.findall(r"^\| \S+ \| \S+ \d+ \| (.+) \|$", flags, re.MULTILINE)

    # Rows that were added to a study later are of a later commit, and the report says so.
    assert set(words) <= {LATER}
    assert words or "Each result is as it was written" in flags


def test_the_readme_tells_the_results_of_the_kept_studies(reports: dict[str, str]) -> None:
    """Each line of its tables is one of a report's."""
    told = [line for line in section("Results") if line.startswith("| ") and "---" not in line]
    lines = {line for report in reports.values() for line in report.splitlines()}

    assert len(told) > 20
    assert [line for line in told if line not in lines] == []
