"""Peak memory of a step of plain SAM and of exact m-SAM at m = 1, for a language model of 50,257 words.

    python benchmarks/msam_memory.py [--width 128] [--layers 4] [--windows 8] [--length 64]

A GPT-2 of transformers, whose table of words is the output layer, too; float32, SGD with momentum. Bytes of tensors
that live at once, at their most (`counting.Counts`), with weights and momentum. The last row holds a table of all words
for each group, in place of the gradients at the words that were seen.
"""

import argparse
import os
from unittest.mock import patch

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from counting import count
from lowland import SAM
from lowland.optim.m_sam.gradients import Factors
from lowland.optim.m_sam.layers.embedding import Words


def peak(asked: argparse.Namespace, m: int | None) -> int:
    """Bytes, in the second step."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=asked.width, n_layer=asked.layers, n_head=4, n_positions=asked.length,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    base = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    optimizer = SAM(base, rho=0.05, model=model) if m is None else SAM(base, rho=0.05, model=model, m=m, audit=False)
    words = torch.randint(config.vocab_size, (asked.windows, asked.length))

    def closure():
        logits = model(words, use_cache=False).logits[:, :-1]
        found = F.cross_entropy(logits.transpose(1, 2), words[:, 1:], reduction="none").mean(1)
        if m is None:
            found = found.mean()
            found.backward()
        return found

    optimizer.step(closure)
    found = count(lambda: optimizer.step(closure)).peak
    if m is not None and optimizer.last is None:
        raise SystemExit("the exact pass was not taken")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    plain = peak(asked, None)
    print("| GPT-2, 50,257 words | peak memory | of plain SAM's |\n|---|---|---|")
    print(f"| plain SAM | {plain / 1e6:.0f} MB | 1 |", flush=True)
    ours = peak(asked, 1)
    print(f"| m = 1 | {ours / 1e6:.0f} MB | {ours / plain:.2f} |", flush=True)
    with patch.object(Words, "pays", lambda *_: False), patch.object(Factors, "pays", lambda *_: False):
        tables = peak(asked, 1)
    print(f"| m = 1, all gradients written out | {tables / 1e6:.0f} MB | {tables / plain:.2f} |", flush=True)


if __name__ == "__main__":
    main()
