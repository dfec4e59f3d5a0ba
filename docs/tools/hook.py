"""Build hook of the pages: files of the repository become pages, and ``{{ name }}`` what the code says of itself.

What is generated is asked of the registries, the docstrings and the commands when the pages are built, and so cannot
tell of older code.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))

import generated  # noqa: E402

#: Files that are read on GitHub too, where their links start from the repository.
PAGES = (
    *("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "experiments/RESULTS.md"),
    *("benchmarks/README.md", "benchmarks/results/scaling_cpu.png"),
)
_MARK = re.compile(r"^\{\{ *(\w+) *(.*?) *\}\}$", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that stand outside of ``docs/``."""
    for path in PAGES:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **more: Any) -> str:
    """Put in what is generated, and turn links that hold in the repository into the site's."""
    path = page.file.src_uri
    if path in PAGES:
        markdown = re.sub(r"\]\((?:\.\./)*docs/", "](" + "../" * path.count("/"), markdown)
    else:
        markdown = re.sub(rf"\]\(\.\./({'|'.join(map(re.escape, PAGES))})", r"](\1", markdown)
    return _MARK.sub(lambda mark: _generate(*mark.groups(), path), markdown)


def _generate(name: str, argument: str, path: str) -> str:
    make = generated.MAKERS.get(name)
    if make is None:
        raise PluginError(f"{path}: {{{{ {name} }}}} is unknown; there are {', '.join(generated.MAKERS)}")
    return make(argument) if argument else make()
