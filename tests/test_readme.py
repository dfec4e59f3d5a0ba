"""README's Python runs as printed, on fewer samples and rounds."""

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_python_of_the_readme_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 2
    first = blocks[0].replace("samples=2000", "samples=160").replace("image_size=32", "image_size=8")
    scope: dict = {}
    for block in (first.replace('encoder="resnet8", rounds=5', 'encoder="mlp", rounds=1'), blocks[1]):
        exec(compile(block, "README.md", "exec"), scope)
    printed = capsys.readouterr().out.splitlines()
    assert float(printed[0]) > 0
    assert set(eval(printed[1])) == {"s1", "s2", "s1+s2"}
    assert 0 <= float(printed[2]) <= 1
