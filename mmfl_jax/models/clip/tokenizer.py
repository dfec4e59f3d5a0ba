"""Tokens of class names and other texts: CLIP's own from a local ``tokenizer.json``, or bytes for demos."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from mmfl_jax.errors import UserError
from mmfl_jax.models.clip.config import CLIPConfig, read_fields

# Of config.json: which tokenizer the weights were trained with, where it is not the tokenizer.json beside them.
FIELD, BYTES = "tokenizer", "bytes"
START, END = "<|startoftext|>", "<|endoftext|>"


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Hold tokenised texts, cut after the end of the longest.

    Attributes:
      ids: int32 ``[n, t]``: start token, text, end token, then zeros, which no text sees.
      end_positions: int32 ``[n]``, where along ``t`` each text has its end token.
    """

    ids: np.ndarray
    end_positions: np.ndarray


class Tokenizer(Protocol):
    """Turn a text into token ids.

    Attributes:
      vocabulary: number of tokens, start and end among them.
      start, end: ids of the tokens that open and close a text.
    """

    vocabulary: int
    start: int
    end: int

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without start and end."""


class BPETokenizer:
    """Byte-pair encoding as the ``tokenizers`` library reads it from a ``tokenizer.json``.

    Raises:
      UserError: the library is not installed, no such file, another format, or no start and end tokens as CLIP's.
    """

    def __init__(self, path: str | Path):
        path = Path(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        if not path.is_file():
            raise UserError(f"{path}: no such file; the local tokenizer.json of the weights is needed")
        try:
            import tokenizers
        except ModuleNotFoundError as error:
            raise UserError(f"{path}: reading it needs tokenizers; pip install 'mmfl_jax[clip]'") from error
        try:
            self._model = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises no narrower one
            raise UserError(f"{path}: no tokenizer.json of the tokenizers library ({error})") from error
        start, end = (self._model.token_to_id(token) for token in (START, END))
        if start is None or end is None:
            raise UserError(f"{path}: no token {START if start is None else END}; CLIP's own tokenizer.json is needed")
        self._model.no_truncation()  # too long a text is refused, not cut in silence
        self._model.no_padding()
        self.start, self.end = int(start), int(end)
        self.vocabulary = self._model.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without start and end."""
        return self._model.encode(text, add_special_tokens=False).ids


class ByteTokenizer:
    """Take each byte of the lower-case text as a token: for tests and demos with random weights alone."""

    vocabulary, start, end = 258, 256, 257

    def __init__(self):
        warnings.warn(
            "CLIP without tokenizer.json: bytes stand for tokens, which no published weights know", stacklevel=2
        )

    def encode(self, text: str) -> list[int]:
        """Return the UTF-8 bytes of a text, in lower case and with single spaces."""
        return list(re.sub(r"\s+", " ", text).strip().lower().encode())


def read_tokenizer(path: str | Path) -> Tokenizer:
    """Return the tokenizer of weights: bytes where the ``config.json`` beside them says so, else ``tokenizer.json``.

    Args:
      path: of the weights' file or folder.

    Raises:
      UserError: as ``BPETokenizer``.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    config = folder / "config.json"
    if config.is_file() and read_fields(config).get(FIELD) == BYTES:
        return silent_bytes()
    return BPETokenizer(folder)


def silent_bytes() -> ByteTokenizer:
    """Return the byte tokenizer without its warning: for weights that were trained with it, or are random."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ByteTokenizer()


def tokenize(texts: Sequence[str], tokenizer: Tokenizer, config: CLIPConfig, reserved: int = 0) -> Tokens:
    """Tokenize texts for a text tower.

    Args:
      texts: class names, say.
      tokenizer: of the tower's own weights.
      config: of the tower.
      reserved: places of the context that prompts will take.

    Raises:
      UserError: no texts, an empty one, one too long for the context, or a tokenizer that the weights do not know.
    """
    if not _matches(tokenizer, config):
        raise UserError(
            f"the tokenizer has {tokenizer.vocabulary} tokens, CLIP's text tower {config.vocabulary}; "
            "take the tokenizer.json that belongs to the weights"
        )
    if not texts:
        raise UserError("CLIP: no texts to tokenize; one class name at least is needed")
    encoded = [tokenizer.encode(text) for text in texts]
    for text, tokens in zip(texts, encoded):
        length = len(tokens) + 2 + reserved
        if not tokens:
            raise UserError(f"CLIP: text {text!r} has no tokens; a name is needed")
        if length > config.context_length:
            prompts = f" and {reserved} of prompts" if reserved else ""
            name = text if len(text) <= 60 else f"{text[:60]}..."
            raise UserError(
                f"CLIP: text {name!r} has {length} tokens with start, end{prompts}; {config.context_length} at most"
            )
    lengths = [len(tokens) + 2 for tokens in encoded]
    ids = np.zeros((len(texts), max(lengths)), np.int32)
    for row, tokens in zip(ids, encoded):
        row[: len(tokens) + 2] = [tokenizer.start, *tokens, tokenizer.end]
    return Tokens(ids, np.asarray(lengths, np.int32) - 1)


def _matches(tokenizer: Tokenizer, config: CLIPConfig) -> bool:
    # Bytes mean nothing to trained embeddings either way, so random ones may well be more.
    if isinstance(tokenizer, ByteTokenizer):
        return tokenizer.vocabulary <= config.vocabulary
    return tokenizer.vocabulary == config.vocabulary
