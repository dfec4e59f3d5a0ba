"""Weights of CLIP from safetensors files, in the names of OpenAI and open_clip or in those of Hugging Face."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmfl_jax.errors import UserError
from mmfl_jax.memory import check_fits
from mmfl_jax.models.clip.config import CONFIG_FILES, VIT_B_32, CLIPConfig, TowerConfig, read_config
from mmfl_jax.models.clip.names import HUGGING_FACE, OPENAI, NameMap
from mmfl_jax.models.clip.towers import CLIP
from mmfl_jax.models.variables import Template

# Of a directory with several files the first of these, with the sizes that its own library wrote beside it; where
# open_clip's is there, ``model.safetensors`` may be a vision model alone.
FILES = {"open_clip_model.safetensors": CONFIG_FILES[::-1], "model.safetensors": CONFIG_FILES}
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CONVERT = (
    "convert it once where torch is: safetensors.torch.save_file(torch.load(FILE, weights_only=True), "
    "'model.safetensors'), with torch.jit.load(FILE).state_dict() for OpenAI's own files"
)
FLOATS = ("float16", "bfloat16", "float32", "float64")
# What NumPy can hold; integers are buffers of older files.
READABLE = ("F16", "BF16", "F32", "F64", "BOOL", *(f"{kind}{bits}" for kind in "IU" for bits in (8, 16, 32, 64)))
NOT_WEIGHTS = re.compile(r"input_resolution|context_length|vocab_size|attn_mask|.*\.position_ids")
HEAD_WIDTH = 64  # of all of OpenAI's models: no tensor's shape tells the number of heads
# Parameters whose shapes tell the sizes, and their axes.
TELLING = {
    "vision/position_embedding": 2,
    "vision/patch_embedding/kernel": 4,
    "vision/transformer/blocks/up/bias": 1,
    "text/position_embedding": 2,
    "text/token_embedding/embedding": 2,
    "text/transformer/blocks/up/bias": 1,
    "text/projection/kernel": 2,
}
LISTED = 6


def load(path: str | Path, config: CLIPConfig | None = None, dtype: jnp.dtype | None = None) -> CLIP:
    """Load a CLIP model from a local file or directory.

    Args:
      path: a ``.safetensors`` file, or a directory with one. Which names it uses is found by looking.
      config: the sizes; by default from ``config.json`` or ``open_clip_config.json`` beside the file, else from the
        tensors' shapes, with heads of 64 channels and QuickGELU.
      dtype: computes in it; the weights are brought to float32, whatever the file holds.

    Raises:
      UserError: no such file, a pickled one, another architecture, missing tensors, sizes that differ from the config.
    """
    file, beside = _find(Path(path))
    return build(read_safetensors(file), config or (read_config(beside) if beside else None), dtype, str(file))


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Read all tensors of a safetensors file by name, in the precision they are stored in.

    Raises:
      UserError: no such file, a pickled one, a damaged one, or the library is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; a local .safetensors file of CLIP is needed")
    with path.open("rb") as file:
        start = file.read(9)
    is_pickled = path.suffix in PICKLED or start.startswith((b"PK", b"\x80"))
    if is_pickled and start[8:] != b"{":  # safetensors: eight bytes of any value, then JSON
        raise UserError(f"{path}: a pickled file, which may run code when it is opened; {CONVERT}")
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: reading it needs safetensors; pip install 'mmfl_jax[clip]'") from error
    try:
        with safe_open(path, framework="np") as tensors:
            names = tensors.keys()
            kinds = {name: tensors.get_slice(name).get_dtype() for name in names}
            if odd := next((name for name in names if kinds[name] not in READABLE), None):
                raise UserError(f"{path}: {odd} holds {kinds[odd]}; save the weights as one of: F16, BF16, F32, F64")
            check_fits(f"{path}: {len(names)} tensors", path.stat().st_size)
            return {name: tensors.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: no safetensors file, or a damaged one ({error})") from error


def build(
    tensors: Mapping[str, np.ndarray],
    config: CLIPConfig | None = None,
    dtype: jnp.dtype | None = None,
    origin: str = "tensors",
) -> CLIP:
    """Build a CLIP model of tensors by name.

    Args:
      tensors: in the names of OpenAI, open_clip or Hugging Face.
      config: as for ``load``; None takes the sizes of the tensors' shapes.
      dtype: computes in it.
      origin: what messages call the tensors.

    Raises:
      UserError: another architecture, missing tensors, sizes that differ from the config, tensors of no floats.
    """
    names = _names_of(tensors, origin)
    found = _sizes(names, tensors, config, origin)
    template = Template.of(lambda: CLIP(found, dtype, rngs=nnx.Rngs(0)))
    sources = {path: _sources(names, path, found) for path in template.params}
    used = {name for blocks in sources.values() for parts in blocks for name in parts}
    _refuse(names, used - set(tensors), set(tensors) - used, origin)
    params = {}
    for path, blocks in sources.items():
        shape = template.params[path][1].shape
        values = [_value(names, path, parts, tensors, shape["/blocks/" in path :], origin) for parts in blocks]
        params[path] = jnp.asarray(np.stack(values).reshape(shape))
    module = template.module(params, {})
    assert isinstance(module, CLIP)
    return module


def _sources(names: NameMap, path: str, config: CLIPConfig) -> list[list[str]]:
    """Return the names that make a parameter, one list for each block it is stacked of."""
    if "/blocks/" not in path:
        return [names.sources(path)]
    layers = (config.vision if path.startswith("vision/") else config.text).layers
    return [names.sources(path, block) for block in range(layers)]


def _value(
    names: NameMap, path: str, parts: list[str], tensors: Mapping[str, np.ndarray], shape: tuple[int, ...], origin: str
) -> np.ndarray:
    """Return float32 of a shape, of the tensors that make a parameter (of one block)."""
    for name in parts:
        if tensors[name].dtype.name not in FLOATS:
            raise UserError(f"{origin}: {name} holds {tensors[name].dtype}; one of: {', '.join(FLOATS)}")
    value = names.convert(path, [tensors[name] for name in parts])
    if value.shape != shape:
        raise UserError(f"{origin}: {', '.join(parts)}: {value.shape} for {path}; the other tensors need {shape}")
    with np.errstate(over="ignore"):
        value = value.astype(np.float32, copy=False)
    if not (finite := np.isfinite(value)).all():
        found = f"{(~finite).sum()} of {value.size} weights"
        raise UserError(f"{origin}: {', '.join(parts)}: {found} are no finite numbers; the file is damaged or diverged")
    return value


def _find(path: Path) -> tuple[Path, Path | None]:
    """Return the file of the weights and, where there is one, the file of the sizes beside it."""
    if not path.is_dir():
        return path, _first(path.parent, FILES.get(path.name, CONFIG_FILES))
    chosen = _first(path, FILES)
    if chosen is None:
        others = sorted(path.glob("*.safetensors"))
        if len(others) != 1:
            pickled = [file for file in sorted(path.iterdir()) if file.suffix in PICKLED]
            if not others and pickled:
                return pickled[0], None  # refused with the line that tells how to convert it
            raise UserError(f"{path}: {len(others)} .safetensors files; one is needed, or {' or '.join(FILES)}")
        chosen = others[0]
    return chosen, _first(path, FILES.get(chosen.name, CONFIG_FILES))


def _first(directory: Path, names: Iterable[str]) -> Path | None:
    return next((directory / name for name in names if (directory / name).is_file()), None)


def _names_of(tensors: Iterable[str], origin: str) -> NameMap:
    for names, prefixes in ((HUGGING_FACE, ("vision_model.", "text_model.")), (OPENAI, ("visual.", "transformer."))):
        if any(name.startswith(prefixes) for name in tensors):
            return names
    raise UserError(f"{origin}: no CLIP in the names of OpenAI, open_clip or Hugging Face; found: {_list(tensors)}")


def _sizes(names: NameMap, tensors: Mapping[str, np.ndarray], known: CLIPConfig | None, origin: str) -> CLIPConfig:
    """Return the sizes that the shapes tell, with what they cannot tell from ``known``; refuse what differs."""
    telling = {path: names.sources(path)[0] for path in TELLING}
    _refuse(names, set(telling.values()) - set(tensors), (), origin)

    def shape(path: str) -> tuple[int, ...]:
        found, axes = tensors[telling[path]].shape, TELLING[path]
        if len(found) != axes:
            raise UserError(f"{origin}: {telling[path]} has shape {found}; {axes} axes are needed")
        return found

    def tower(name: str, width: int) -> TowerConfig:
        template = re.escape(names.modules[f"{name}/transformer/blocks/out"]).replace(r"\{\}", r"(\d+)")
        numbers = [found[1] for tensor in tensors if (found := re.match(template, tensor))]
        if odd := next((number for number in numbers if len(number) > 6 or int(number) > len(tensors)), None):
            raise UserError(f"{origin}: a block of the {name} tower has number {odd[:20]}, more than there are tensors")
        blocks = list(map(int, numbers))
        heads = width // HEAD_WIDTH
        if known:  # of another width, any number does: it is refused below
            heads = getattr(known, name).heads if width == getattr(known, name).width else 1
        if not known and width % HEAD_WIDTH:
            raise UserError(f"{origin}: no shape tells the heads of width {width}; put config.json beside it")
        (mlp_width,) = shape(f"{name}/transformer/blocks/up/bias")
        return TowerConfig(width, max(blocks, default=0) + 1, heads, mlp_width)

    tokens, vision_width = shape("vision/position_embedding")
    context, text_width = shape("text/position_embedding")
    patch = shape("vision/patch_embedding/kernel")[-1]
    found = dataclasses.replace(
        known or VIT_B_32,
        vision=tower("vision", vision_width),
        text=tower("text", text_width),
        image_size=math.isqrt(max(tokens - 1, 0)) * patch,
        patch_size=patch,
        context_length=context,
        vocabulary=shape("text/token_embedding/embedding")[0],
        projection=shape("text/projection/kernel")[0 if names.projection_transposed else 1],
    )
    if known and found != known:
        ours, theirs = _flat(found), _flat(known)
        differing = [
            f"{field} {size} (config: {theirs[field]})"
            for field, size in ours.items()
            if size != theirs[field] and not field.endswith("heads")
        ]
        raise UserError(f"{origin}: weights of other sizes than the config: {', '.join(differing)}")
    return found


def _flat(config: CLIPConfig) -> dict[str, Any]:
    fields = dataclasses.asdict(config)
    towers = {f"{name}.{field}": size for name in ("vision", "text") for field, size in fields.pop(name).items()}
    return {**towers, **fields}


def _refuse(names: NameMap, missing: Iterable[str], others: Iterable[str], origin: str) -> None:
    others = [name for name in others if not NOT_WEIGHTS.fullmatch(name)]
    parts = [f"missing {_list(missing)}"] if missing else []
    parts += [f"unknown {_list(others)}"] if others else []
    if parts:
        raise UserError(f"{origin}: not CLIP's two transformers in the names of {names.name}: {'; '.join(parts)}")


def _list(names: Iterable[str]) -> str:
    """Return the first names and how many there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - LISTED} more" if len(ordered) > LISTED else ""
    return f"{', '.join(ordered[:LISTED]) or 'nothing'}{more}"
