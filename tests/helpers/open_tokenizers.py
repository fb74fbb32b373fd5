"""Small tokenizers in the form of open models: byte-level BPE, special tokens, a chat template."""

import json
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>'"
    " + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% endif %}"
)
# A conversation with spaces that a template may trim.
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "  1 + 1? "},
    {"role": "assistant", "content": " 2 "},
    {"role": "user", "content": "sure?"},
    {"role": "assistant", "content": "yes"},
]

# After Llama 3, Gemma, Mistral and Qwen 3: trimmed, with bos, without a generation prompt, and with
# thoughts that only the last answer shows.
HEADERS = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n\\n' }}"
    "{{ m.content | trim }}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n\\n' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% elif m['role'] == 'assistant' %}"
    "{{ ' ' + m['content'] + eos_token }}{% else %}"
    "{{ raise_exception('Only user and assistant roles!') }}{% endif %}{% endfor %}"
)
THINK = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ m.content }}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# After Qwen 3: thoughts in an answer are separated, and kept only in the last answer.
REASON = (
    "{% for m in messages %}{% set content = m.content %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' %}{% set thought = '' %}{% if '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1] %}"
    "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "{% if loop.last %}{{ '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}{% endif %}"
    "{% endif %}{{ content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = [
    "The quick brown fox jumps over the lazy dog. What is the capital of France? Paris.\n\n",
    "user assistant system [INST] [/INST] hello hello yes no thanks, good bye\n",
]


def files(
    template: str | None = CHATML, bos: bool = False, vocab_size: int = 320, **config: Any
) -> dict[str, bytes]:
    """{name: bytes} for `HFTokenizer`. `bos` puts <|endoftext|> before a text."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(TEXTS, trainer)
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    facts = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"} | config
    if template is not None:
        facts["chat_template"] = template
    return {
        "tokenizer.json": inner.to_str().encode(),
        "tokenizer_config.json": json.dumps(facts).encode(),
    }
