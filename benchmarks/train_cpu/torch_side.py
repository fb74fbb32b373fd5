"""The PyTorch side of the race: a GPT-2 of nanoGPT's form, trained by nanoGPT's loop on a CPU.

    python torch_side.py SETTINGS FOLDER

SETTINGS is a JSON object of the fields of `Settings`. Writes FOLDER/metrics.jsonl: a record of the
loss every `log_every` steps, and one of kind `eval` at the end, with the held-out loss in nats a
character over all of the held-out text, in rows of `context` characters. Imports only torch, so
that another Python may run it. Eager mode, float32.

The model and the loop follow github.com/karpathy/nanoGPT: biases off, tied embeddings, learned
positions, GELU, AdamW with decay 0.1 for matrices, gradients clipped at 1, linear warm-up and a
cosine to a tenth.
"""

import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Settings:
    """A run. `train`, `heldout`: text files. `evaluate`: whether to score the held-out text."""

    train: str
    heldout: str
    layers: int
    heads: int
    width: int
    context: int
    batch: int
    steps: int
    log_every: int
    evaluate: bool
    lr: float = 1e-3
    warmup: int = 100
    beta2: float = 0.99
    seed: int = 0


class Attention(nn.Module):
    def __init__(self, s: Settings):
        super().__init__()
        self.heads = s.heads
        self.qkv = nn.Linear(s.width, 3 * s.width, bias=False)
        self.out = nn.Linear(s.width, s.width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(x).split(C, dim=2)
        q, k, v = (a.view(B, T, self.heads, C // self.heads).transpose(1, 2) for a in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).contiguous().view(B, T, C))


class Block(nn.Module):
    def __init__(self, s: Settings):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(s.width, bias=False), Attention(s)
        self.norm2 = nn.LayerNorm(s.width, bias=False)
        self.up = nn.Linear(s.width, 4 * s.width, bias=False)
        self.out = nn.Linear(4 * s.width, s.width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.out(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    def __init__(self, s: Settings, vocabulary: int):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, s.width)
        self.positions = nn.Embedding(s.context, s.width)
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.layers))
        self.norm = nn.LayerNorm(s.width, bias=False)
        for name, p in self.named_parameters():
            if p.ndim > 1:
                scale = (2 * s.layers) ** -0.5 if name.endswith("out.weight") else 1.0
                nn.init.normal_(p, std=0.02 * scale)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.reshape(-1))


def learning_rate(s: Settings, step: int) -> float:
    if step < s.warmup:
        return s.lr * (step + 1) / (s.warmup + 1)
    share = (step - s.warmup) / max(s.steps - s.warmup, 1)
    return s.lr * (0.1 + 0.45 * (1 + math.cos(math.pi * share)))


def heldout_loss(model: GPT, ids: torch.Tensor, context: int) -> float:
    """Nats a character, each predicted from those before it in its row."""
    rows = (len(ids) - 1) // context
    inputs, targets = (ids[i : i + rows * context].view(rows, context) for i in (0, 1))
    with torch.no_grad():
        sums = [model(x, y).item() * len(x) for x, y in zip(inputs.split(64), targets.split(64))]
    return sum(sums) / rows


def main(settings: str, folder: str) -> None:
    s = Settings(**json.loads(settings))
    torch.manual_seed(s.seed)
    texts = [Path(name).read_text(encoding="utf-8") for name in (s.train, s.heldout)]
    number = {c: i for i, c in enumerate(sorted(set("".join(texts))))}
    train, heldout = (torch.tensor([number[c] for c in text]) for text in texts)
    model = GPT(s, len(number))
    params = list(model.parameters())
    groups = [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=s.lr, betas=(0.9, s.beta2))
    begun = time.time()
    with open(Path(folder, "metrics.jsonl"), "w", buffering=1) as file:

        def record(kind, step, loss):
            values = {"step": step, "kind": kind, "loss": loss}
            values["elapsed_seconds"] = round(time.time() - begun, 3)
            file.write(json.dumps(values) + "\n")

        for step in range(s.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(s, step)
            starts = torch.randint(len(train) - s.context, (s.batch,))
            x, y = (torch.stack([train[i + d : i + d + s.context] for i in starts]) for d in (0, 1))
            loss = model(x, y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if (step + 1) % s.log_every == 0:
                record("train", step + 1, loss.item())
        if s.evaluate:
            record("eval", s.steps, heldout_loss(model, heldout, s.context))
    about = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    Path(folder, "about.json").write_text(json.dumps(about))


if __name__ == "__main__":
    main(*sys.argv[1:])
