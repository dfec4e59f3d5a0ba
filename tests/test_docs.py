"""What README and the pages of docs/ show runs as printed, and their links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        ROOT / "benchmarks" / "README.md",
        ROOT / "experiments" / "RESULTS.md",
    ]
)


def run(page, capsys, **smaller):
    """Run a page's blocks of Python one after the other, and return the lines that they print."""
    scope: dict = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL):
        for option, (before, after) in smaller.items():
            block = block.replace(f"{option}={before!r}", f"{option}={after!r}")
        exec(compile(block, page, "exec"), scope)
    return capsys.readouterr().out.splitlines()


def test_python_of_the_readme_runs(capsys):
    small = {"samples": (2000, 160), "image_size": (32, 8), "encoder": ("resnet8", "mlp"), "rounds": (5, 1)}
    printed = run("README.md", capsys, **small)
    assert float(printed[0]) > 0
    assert set(eval(printed[1])) == {"s1", "s2", "s1+s2"}


def test_own_pieces_run(capsys):
    with_encoder, with_model, sent = map(float, run("docs/extending.md", capsys))
    assert 0 <= with_encoder <= 1
    assert 0 <= with_model <= 1
    assert sent > 0


def test_ports_of_other_frameworks_run_and_learn(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    accuracies = [float(line) for line in run("docs/porting.md", capsys)]
    assert len(accuracies) == 3
    assert min(accuracies) > 0.45  # three classes


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if not path.startswith(("http:", "https:", "mailto:")):
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in anchors(file), f"{page.name} links to {target}"


def anchors(file):
    """Return the anchors of a page's headings, as GitHub makes them; of what is generated, none is linked to."""
    heads = re.findall(r"^#+ (.*)$", file.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
