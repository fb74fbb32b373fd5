"""PyTorch's side of benchmarks/train_gpu, in its own environment: a Llama and its train step.

    python benchmarks/train_gpu/torch_side.py SHAPE

Imports only torch. SHAPE is a JSON object of the fields of `Shape`. Prints {torch, device,
parameters}; then answers every line of standard input, {steps: number}, with {seconds, loss} of as
many train steps on the same random rows. Compiled by torch.compile, flash attention
(scaled_dot_product_attention), weights and AdamW (fused) in float32, products in bfloat16
(autocast), gradients clipped at 1: as ours.
"""

import contextlib
import json
import sys
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@dataclass(frozen=True)
class Shape:
    """A model, its batch, and whether the step is compiled."""

    vocab_size: int
    embed_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    rope_base: float
    norm_eps: float
    rows: int
    length: int
    compiled: bool


class Norm(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(s.embed_dim)), s.norm_eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return wide.to(x.dtype) * self.weight.to(x.dtype)


def rotary(s: Shape, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(cosines, sines), [T, N]."""
    inverse = s.rope_base ** (-torch.arange(0, s.head_dim, 2, device=device) / s.head_dim)
    angles = torch.outer(torch.arange(s.length, device=device), inverse)
    return torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()


def rotated(x: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    cosines, sines = (table.to(x.dtype) for table in tables)
    first, second = x.chunk(2, -1)
    return x * cosines + torch.cat([-second, first], -1) * sines


class Attention(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.head_dim = s.head_dim
        queries, keys = s.num_heads * s.head_dim, s.num_kv_heads * s.head_dim
        self.q_proj = nn.Linear(s.embed_dim, queries, bias=False)
        self.k_proj = nn.Linear(s.embed_dim, keys, bias=False)
        self.v_proj = nn.Linear(s.embed_dim, keys, bias=False)
        self.o_proj = nn.Linear(queries, s.embed_dim, bias=False)

    def forward(self, x: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        B, T, _ = x.shape
        q, k, v = (
            layer(x).view(B, T, -1, self.head_dim).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotated(q, tables), rotated(k, tables)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1))


class Mlp(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.gate_proj = nn.Linear(s.embed_dim, s.mlp_dim, bias=False)
        self.up_proj = nn.Linear(s.embed_dim, s.mlp_dim, bias=False)
        self.down_proj = nn.Linear(s.mlp_dim, s.embed_dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.input_layernorm, self.self_attn = Norm(s), Attention(s)
        self.post_attention_layernorm, self.mlp = Norm(s), Mlp(s)

    def forward(self, x: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), tables)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """A Llama with a tied vocabulary; its weights have the names of Hugging Face's."""

    def __init__(self, s: Shape, device: torch.device):
        super().__init__()
        self.embed_tokens = nn.Embedding(s.vocab_size, s.embed_dim)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        self.layers = nn.ModuleList(Block(s) for _ in range(s.num_layers))
        self.norm = Norm(s)
        self.tables = rotary(s, device)
        self.to(device)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The mean loss of the next tokens."""
        x = self.embed_tokens(tokens)
        if torch.is_autocast_enabled(x.device.type):  # residuals in bfloat16, as ours
            x = x.to(torch.bfloat16)
        for block in self.layers:
            x = block(x, self.tables)
        logits = F.linear(self.norm(x), self.embed_tokens.weight)[:, :-1]
        return F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())


class Trainer:
    def __init__(self, shape: Shape):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(0)
        self.model = Llama(shape, self.device)
        self.loss = torch.compile(self.model) if shape.compiled else self.model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.tokens = torch.randint(shape.vocab_size, (shape.rows, shape.length)).to(self.device)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def run(self, steps: int) -> dict[str, float]:
        cuda = self.device.type == "cuda"
        attention = sdpa_kernel(SDPBackend.FLASH_ATTENTION) if cuda else contextlib.nullcontext()
        self.synchronize()
        start = time.perf_counter()
        with attention:
            for _ in range(steps):
                with torch.autocast(self.device.type, torch.bfloat16):
                    loss = self.loss(self.tokens)
                loss.backward()
                nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
        self.synchronize()
        return {"seconds": time.perf_counter() - start, "loss": loss.item()}


def main(text: str) -> None:
    trainer = Trainer(Shape(**json.loads(text)))
    name = torch.cuda.get_device_name() if trainer.device.type == "cuda" else "cpu"
    size = sum(p.numel() for p in trainer.model.parameters())
    facts = {"torch": torch.__version__, "device": name, "parameters": size}
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        print(json.dumps(trainer.run(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
