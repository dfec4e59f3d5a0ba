"""Whatever an option, a study file or a configuration holds: a study, or one line that says what is wrong and where."""

import contextlib
import dataclasses
import json
import math
import subprocess
import sys
from typing import Literal, get_args, get_origin

import numpy as np
import pytest
from federations import MemoryArchive, ragged_federation
from hypothesis import given
from hypothesis import strategies as st

from mmfl_jax import Federation, Simulation, Study, UserError, memory
from mmfl_jax.archives.base import ModalitySpec
from mmfl_jax.cli.arguments import parse
from mmfl_jax.cli.studies import Run
from mmfl_jax.options import read
from mmfl_jax.study import OPTIONS, build, load_study
from mmfl_jax.study.unused import unused

INF, NAN = math.inf, math.nan
NUMBERS = [name for name, option in OPTIONS.items() if option.kind in (int, float)]
CHOICES = [name for name, option in OPTIONS.items() if get_origin(option.kind) is Literal]


def refused(call, *arguments, **values):
    """Return the line of what is refused."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"client_learning_rate": INF}, "--client-learning-rate inf: must be a finite number above 0"),
        ({"client_learning_rate": 1e39}, "--client-learning-rate 1e+39: must be a finite number above 0"),
        ({"client_learning_rate": 1e-50}, "--client-learning-rate 1e-50: must be a finite number above 0"),
        ({"mim_weight": NAN}, "--mim-weight nan: must be a finite number not below 0"),
        ({"mim_temperature": 0}, "--mim-temperature 0: must be a finite number above 0"),
        ({"local_epochs": -INF}, "--local-epochs -inf: must be a finite number above 0"),
        ({"local_steps": 2**31}, "--local-steps 2147483648: must be a whole number from 0 to 2147483647"),
        ({"batch_size": 10**30}, "--batch-size 1000000000000000000000000000000: must be a whole number from 1"),
        ({"seed": -1}, "--seed -1: must be a whole number from 0 to 2147483647"),
        ({"samples": 10**6000}, "--samples int of 19932 bits: must be a whole number from 0"),
        ({"rounds": 2.5}, "--rounds 2.5: must be a whole number"),
        ({"rounds": 2.0}, "--rounds 2.0: must be a whole number"),
        ({"rounds": True}, "--rounds True: must be a whole number"),
        ({"rounds": "ten"}, "--rounds 'ten': must be a whole number"),
        ({"rounds": None}, "--rounds None: must be a whole number"),
        ({"mim_weight": True}, "--mim-weight True: must be a finite number"),
        ({"flips": "no"}, "--flips 'no': must be True or False"),
        ({"flips": 1}, "--flips 1: must be True or False"),
        ({"modalities": ("s1", "s2")}, "--modalities ('s1', 's2'): must be a text"),
        ({"image_size": 4}, "--image-size 4: must be 0 (their own size), or a whole number from 8"),
        ({"bands": 11}, "--bands 11: must be one of 10, 12"),
        ({"fusion": "product"}, "--fusion 'product' is unknown; one of mean, sum, max, concat"),
        ({"dropout": 1.0}, "--dropout 1.0: must be a number from 0 to below 1"),
        ({"partition": "dirichlet:nan"}, "--partition 'dirichlet:nan': ALPHA must be a positive number"),
        ({"participation": "0"}, "--participation '0' is nobody"),
        ({"ruonds": 3}, "a study has no option 'ruonds'; did you mean rounds?"),
        *(({"name": name}, f"--name {name!r}: must be a file name") for name in ("", ".", "..", "../x", "/x", "a\\b")),
        ({"name": "x\0"}, "--name 'x\\x00': must be a file name"),
        ({"name": "x" * 300}, "(302 characters): must be a file name"),
    ],
)
def test_what_an_option_cannot_be_is_one_line(values, line):
    assert line in refused(Study.of, **values)
    assert line in refused(Study().replace, **values)


def test_groups_and_options_by_name_are_not_confused():
    assert refused(Study, rounds=2) == "Study(rounds=...): takes groups; Study.of(rounds=...) takes options by name"
    assert "method='mf'): must be MethodOptions(...)" in refused(Study, method="mf")
    training = Study().training
    assert "TrainingOptions has no option 'round'; did you mean rounds?" in refused(type(training), round=3)
    assert Study(training=dataclasses.replace(training, rounds=3)) == Study.of(rounds=3)


def test_numpys_numbers_are_meant():
    study = Study.of(rounds=np.int64(3), mim_weight=np.float32(0.5), seed=np.uint8(7), local_epochs=2)
    assert (study.training.rounds, study.method.mim.mim_weight, study.training.seed) == (3, 0.5, 7)
    assert Study.of(**json.loads(json.dumps(study.flat()))) == study


@given(st.data())
def test_any_number_is_a_study_or_refused(data):
    name = data.draw(st.sampled_from(NUMBERS))
    kinds = st.integers() | st.floats() | st.sampled_from([2**31 - 1, 2**31, 10**30, 1e39, 1e-45, -0.0, True, None])
    value = data.draw(kinds)
    with contextlib.suppress(UserError):
        check_taken(name, value, Study.of(**{name: value}))


def check_taken(name, value, study):
    kept = study.flat()[name]
    assert kept == type(kept)(value)
    assert type(kept) is OPTIONS[name].kind
    # What is taken is a number to the device too, and a rate is above 0 there.
    assert np.isfinite(np.float32(kept))
    assert np.float32(kept) > 0 or name not in ("client_learning_rate", "mim_temperature", "local_epochs")
    assert type(kept) is float or abs(kept) < 2**31


@given(st.data())
def test_any_text_of_the_command_line_is_a_study_or_refused(data):
    name = data.draw(st.sampled_from([*NUMBERS, *CHOICES, "name", "partition", "participation"]))
    text = data.draw(st.text(max_size=20) | st.floats().map(repr) | st.integers().map(str))
    with contextlib.suppress(UserError):
        Study.of(**{name: read(OPTIONS[name].kind, text)})


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_is_taken(name):
    for choice in get_args(OPTIONS[name].kind):
        assert Study.of(**{name: read(OPTIONS[name].kind, str(choice))}).flat()[name] == choice


def test_what_the_engine_makes_of_choices_is_what_there_is_to_choose():
    assert set(build.CLIENT_OPTIMIZERS) == set(get_args(OPTIONS["client_optimizer"].kind))
    assert {"none", *build.ATTACKS, "label_flip"} == set(get_args(OPTIONS["attack"].kind))


FILES = {
    "from mmfl_jax import Study\nstudy = Study.of(\n    archive='twin',\n    ruonds=3,\n)\n": (
        "line 4: a study has no option 'ruonds'; did you mean rounds?"
    ),
    "from mmfl_jax import Study\nstudy = Study.of(\n    seed=1,\n    rounds='ten',\n)\n": (
        "line 4: rounds='ten': must be a whole number from 0 to 2147483647"
    ),
    "from mmfl_jax import Study\nstudy = Study.of(rounds=2.5)\n": "line 2: rounds=2.5: must be a whole number",
    "from mmfl_jax import Study\nstudy = Study.of(rounds=True)\n": "line 2: rounds=True: must be a whole number",
    "from mmfl_jax import Study\nstudy = Study.of(modalities=('s1', 's2'))\n": "line 2: modalities=('s1', 's2'): must",
    "from mmfl_jax import Study\nstudy = Study.of(flips='no')\n": "line 2: flips='no': must be True or False",
    "from mmfl_jax import Study\nbase = {'fusion': 'x'}\nstudy = Study.of(**base)\n": "line 3: fusion='x' is unknown;",
    "from mmfl_jax import Study\nstudy = Study.of(client_learning_rate=float('inf'))\n": "client_learning_rate=inf",
    "from mmfl_jax import Study\nstudy = Study(rounds=3)\n": "line 2: Study(rounds=...): takes groups; Study.of(",
    "\n1 / 0\n": "line 2: ZeroDivisionError: division by zero",
    "def f():\n    return f()\nf()\n": "line 2: RecursionError: maximum recursion depth",
    "raise ValueError\n": "line 1: ValueError",
    "raise ValueError('two\\nlines')\n": "line 1: ValueError: two lines",
    "study = (\n": "line 1: '(' was never closed",
    "\nimport no_such_module\n": "line 2: ModuleNotFoundError: No module named 'no_such_module'",
    "import sys\nsys.exit(0)\n": "line 2: a study file must not leave Python",
    "study = 3\n": "assigns no `study = Study.of(...)`",
    "": "assigns no `study = Study.of(...)`",
    b"study = '\xe9'\n": "line 1: (unicode error) 'utf-8' codec can't decode byte",
    b"study = 3\0\n": "source code ",
}


@pytest.mark.parametrize("text", FILES)
def test_what_is_wrong_with_a_study_file_is_said_with_its_line(text, tmp_path):
    path = tmp_path / "mine.py"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    line = refused(load_study, str(path))
    assert line.startswith(str(path))
    assert FILES[text] in line


def test_one_broken_file_does_not_hide_the_other_studies(tmp_path, monkeypatch):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "broken.py").write_bytes(b"study = \xff\xfe(")
    monkeypatch.chdir(tmp_path)
    assert load_study("quickstart").name == "quickstart"


def test_a_configuration_has_groups_and_one_of_before_still_opens(tmp_path):
    study = Study.of(name="mine", rounds=3, fusion="sum", mim_weight=0.5, client_learning_rate=1e-2)
    path = tmp_path / "config.json"
    path.write_text(study.to_json())
    assert json.loads(path.read_text())["method"]["mim"]["mim_weight"] == 0.5
    assert Study.from_json(path) == study
    # As it was written before options stood in groups; what it lacks has its default.
    flat = {name: value for name, value in study.flat().items() if name != "concurrency"}
    assert flat["method"] == "mf+fw+mim"
    path.write_text(json.dumps(flat))
    assert Study.from_json(path) == study


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b'{"rounds": 2', "Expecting"),
        (b"[3]", "expected an object, found list"),
        (b'{"ruonds": 2}', "did you mean rounds?"),
        (b'{"training": {"rounds": "2"}}', "config.json: rounds '2': must be a whole number"),
        (b'{"training": {"client_learning_rate": Infinity}}', "config.json: client_learning_rate inf: must be a"),
        (b"\xe9", "decode"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "recursion"),
    ],
)
def test_a_configuration_that_is_none_is_one_line(text, line, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(text)
    said = refused(Study.from_json, path)
    assert said.startswith(str(path))
    assert line in said


def test_flags_are_flat_and_help_has_groups_with_defaults_and_choices(capsys):
    arguments = ["--batch-size", "8", "--mim-weight=0", "--fusion", "max", "--flips", "--seed", "3"]
    chosen = parse(Run, "mmfl-jax run mine", arguments, Run(study=Study.of(rounds=7))).study
    assert chosen == Study.of(rounds=7, batch_size=8, mim_weight=0.0, fusion="max", flips=True, seed=3)
    with pytest.raises(SystemExit) as left:
        parse(Run, "mmfl-jax run mine", ["--help"], Run(study=Study.of(rounds=7)))
    said = " ".join(capsys.readouterr().out.split())
    assert not left.value.code
    for group in ("data", "federation", "method", "method.mim", "algorithm", "training", "execution"):
        assert f"study.{group} options" in said
    assert "--rounds INT Rounds. (default: 7)" in said
    assert "--fusion {mean,sum,max,concat}" in said


class Series:
    """What is asked of an archive here."""

    name, modalities = "series", {"s1": ModalitySpec((17, 2), ("VV", "VH"))}
    task, class_names = "multiclass", ("wheat", "maize")
    source = property(lambda self: self)


def test_an_option_that_changes_nothing_is_told():
    study = Study.of(method="mf", image_size=64, mim_weight=0.5, malicious=0.4, mask_dates=0.1, local_steps=2)
    study = study.replace(dice_weight=0.5)
    lines = unused(study, Series(), set(study.flat()))
    assert lines == [
        "--image-size 64 changes nothing: archive series has no images",
        "--dice-weight 0.5 changes nothing: archive series has no labels by pixel",
        "--mim-weight 0.5 changes nothing: --method mf has no mim",
        "--malicious 0.4 changes nothing: there is no --attack",
    ]
    # What a study brings along for its other methods is not.
    assert unused(study, Series(), set()) == lines[:2]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"width": 10**9}, "--width 1000000000 (weights"),
        ({"archive": "twin", "samples": 10**9}, "--samples 1000000000 (their labels and attributes)"),
        ({"archive": "twin", "samples": 4000, "image_size": 10**6}, "--samples 4000 of --image-size 1000000 (their"),
    ],
)
def test_what_does_not_fit_the_machine_is_refused_before_anything_is_read(options, line, small_machine):
    said = refused(build.check, Study.of(**options))
    assert said.startswith(line)
    assert said.endswith("of memory needed, this machine has 16.0 GiB")


@pytest.fixture
def small_machine(monkeypatch):
    """Sixteen GiB of memory, wherever the tests run."""
    monkeypatch.setattr(memory, "available_bytes", lambda: 16 << 30)


@pytest.fixture(scope="module")
def series():
    """Four clients of two series."""
    return Federation.split(MemoryArchive(), "by:region", clients=4)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"batch_size": 10**9}, "--batch-size 1000000000 of samples s1 5x2, s2 5x3: 55.9 GiB"),
        (
            {"mim_size": 10**9, "method": "mf+mim"},
            "weights of a model, of one client and their gradient (--width 8, --mim",
        ),
        (
            {"local_epochs": 3e38},
            "--local-epochs 3e+38: 1.05e+39 local steps a round, of --batch-size 4; together at most",
        ),
        ({"local_steps": 2**30}, "--local-steps 1073741824: 1.07e+09 local steps a round, of --batch-size 4; together"),
        ({"rounds": 2**31 - 1, "algorithm": "centralized"}, "--rounds 2147483647: each has 7 steps of the server"),
    ],
)
def test_what_a_federation_makes_too_large_is_refused_before_images_are_read(options, line, series, small_machine):
    study = Study.of(**{"method": "mf", "width": 8, "batch_size": 4, **options})
    assert refused(Simulation, study, series).startswith(line)


def test_what_clients_keep_counts(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 100_000)
    federation = ragged_federation([1] * 200, [("s1",)] * 200)
    study = Study.of(method="mf", width=8, batch_size=4, algorithm="scaffold", client_optimizer="sgd")
    said = refused(Simulation, study, federation)
    assert said.startswith("--algorithm scaffold: what 200 clients keep from round to round: ")


# Imports what the command line does until a study's options are known.
LIGHT = """
import sys
from mmfl_jax.cli.studies import Run, parse
from mmfl_jax.study import Study, load_study
from mmfl_jax import UserError
for options in (["--rounds", "ten"], ["--client-learning-rate", "inf"], ["--ruonds", "3"], ["--rounds", "3"]):
    try:
        parse(Run, "mmfl-jax run quickstart", options, Run(study=load_study("quickstart")))
    except UserError as error:
        print(error)
heavy = {"jax", "jaxlib", "flax", "optax", "orbax", "matplotlib", "pyarrow", "rasterio", "tensorflow_datasets"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


def test_an_option_is_refused_before_jax_is_imported():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
