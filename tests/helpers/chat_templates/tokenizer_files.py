"""Small tokenizers with the special tokens of the templates."""

# ruff: noqa: E501 (lines of training text)

import json

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

# Special tokens that the templates write.
SPECIALS = [
    "<s>",
    "</s>",
    "<pad>",
    "<|im_start|>",
    "<|im_end|>",
    "[INST]",
    "[/INST]",
    "<|begin|>",
    "<|header|>",
    "<|/header|>",
    "<|eot|>",
    "<|turn|>",
    "<|/turn|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "<|eos|>",
    "<|prompter|>",
    "<|User|>",
    "<|Assistant|>",
    "<|tool|>",
    "<|role|>",
    "<|/role|>",
    "<|endrole|>",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "<|msg|>",
    "<|channel|>",
    "<|return|>",
    "<|call|>",
    "<|START|>",
    "<|END|>",
    "<|BOT|>",
    "<|HUMAN|>",
    "<|SYS|>",
    "<|sep|>",
    "[TOOLS]",
    "[/TOOLS]",
    "<|observation|>",
    "<|im_user|>",
    "<|im_assistant|>",
    "<|im_system|>",
    "<|middle|>",
]
# Added tokens that are not special, as the markers of thoughts and tool calls often are.
ADDED = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>"]
TEXTS = [
    "The capital of France is Paris, and Lyon is not. What is it? Be brief, please.\n\n\n",
    "user assistant system model User: Assistant: ### Instruction: ### Response:\nhello hello yes\n",
    "  two  spaces   three, tabs\tand 1234567890 numbers (brackets) [INST] <tags> {braces} ``` == \n",
]


def byte_level(
    source: str | None = None, vocab_size: int = 480, trim_offsets: bool = True
) -> dict[str, bytes]:
    """Files of a byte-level BPE with `SPECIALS`."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner = _train(inner, vocab_size, pre_tokenizers.ByteLevel.alphabet())
    inner.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    return as_files(inner, source)


def metaspace(
    source: str | None = None, vocab_size: int = 480, scheme: str = "first", split: bool = True
) -> dict[str, bytes]:
    """Files of a BPE that writes spaces as SentencePiece does, with bytes for unknown characters.

    Args:
      scheme: which texts get a space before them: "always", "first", "never"; or "normalizer",
        which older conversions use.
    """
    inner = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    if scheme == "normalizer":
        inner.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", scheme, split)
    inner.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    first = ["<unk>", *(f"<0x{b:02X}>" for b in range(256))]
    return as_files(_train(inner, vocab_size, ["\u2581", "\n"], first), source)


def _train(inner, vocab_size, alphabet, first=()):
    inner.train_from_iterator(
        TEXTS * 3,
        trainers.BpeTrainer(
            vocab_size=vocab_size + len(first),
            special_tokens=list(first),
            initial_alphabet=list(alphabet),
            show_progress=False,
        ),
    )
    # The trainer makes the first tokens special, and bytes are not.
    spec = json.loads(inner.to_str())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] == "<unk>"]
    inner = tokenizers.Tokenizer.from_str(json.dumps(spec))
    inner.add_special_tokens(SPECIALS)
    inner.add_tokens(ADDED)
    return inner


def as_files(inner: tokenizers.Tokenizer, source: str | None) -> dict[str, bytes]:
    """{name: bytes} of a tokenizer; `source`: its chat template, or None."""
    config = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    if source is not None:
        config["chat_template"] = source
    return {
        "tokenizer.json": inner.to_str().encode(),
        "tokenizer_config.json": json.dumps(config).encode(),
    }
