"""Built-in tokenizers as Hugging Face files, for exported models."""

from __future__ import annotations

import json

import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from data.text.base import SPACE
from data.text.builtin import BOS, EOS, PAD, SPECIAL, UNK, BuiltinTokenizer
from data.text.hf_tokenizer import byte_alphabet

# The built-in chat format (data/text/builtin.py) as a template.
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def hf_files(tokenizer: BuiltinTokenizer, max_length: int) -> dict[str, bytes]:
    """{name: bytes} of `tokenizer.json` and the files beside it, with the same ids and chats.

    Two exceptions: a literal ▁ (SentencePiece's character for a space) is read as a space, and a
    character that a `char` tokenizer does not know becomes <unk> rather than an error.
    """
    make = {"sentencepiece": _sentencepiece, "char": _char, "byte": _byte}[tokenizer.kind]
    inner = make(tokenizer)
    inner.add_special_tokens(list(tokenizer.specials))
    bos = SPECIAL[BOS]
    inner.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, BOS)]
    )
    config = dict(
        bos_token=bos,
        eos_token=SPECIAL[EOS],
        pad_token=SPECIAL[PAD],
        unk_token=SPECIAL[UNK],
        chat_template=_TEMPLATE,
        clean_up_tokenization_spaces=False,
        tokenizer_class="PreTrainedTokenizerFast",
        model_max_length=max_length,
    )
    return {
        "tokenizer.json": inner.to_str().encode(),
        "tokenizer_config.json": json.dumps(config, indent=2).encode(),
        "generation_config.json": json.dumps({"bos_token_id": BOS, "eos_token_id": EOS}).encode(),
    }


def _sentencepiece(tokenizer):
    """SentencePiece merges the neighbours whose concatenation scores highest, however it splits;
    BPE ranks pairs, so every split of a piece becomes a merge, in order of the scores."""
    sp = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    vocab = {sp.id_to_piece(i): i for i in range(sp.get_piece_size())}
    words = [p for p, i in vocab.items() if not (sp.is_byte(i) or sp.is_control(i) or i == UNK)]
    merges = []
    for piece in sorted(words, key=lambda p: -sp.get_score(vocab[p])):
        for cut in range(1, len(piece)):
            if piece[:cut] in vocab and piece[cut:] in vocab:
                merges.append((piece[:cut], piece[cut:]))
    inner = tokenizers.Tokenizer(
        models.BPE(vocab, merges, unk_token=SPECIAL[UNK], fuse_unk=True, byte_fallback=True)
    )
    inner.normalizer = normalizers.Replace(" ", SPACE)
    inner.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return inner


def _char(tokenizer):
    vocab = {name: i for i, name in enumerate(tokenizer.specials)}
    vocab |= {c: i for i, c in enumerate(tokenizer.model.decode(), start=len(vocab))}
    inner = tokenizers.Tokenizer(models.BPE(vocab, [], unk_token=SPECIAL[UNK]))
    inner.decoder = decoders.Fuse()
    return inner


def _byte(tokenizer):
    vocab = {name: i for i, name in enumerate(tokenizer.specials)}
    vocab |= {c: b + len(tokenizer.specials) for c, b in byte_alphabet().items()}
    inner = tokenizers.Tokenizer(models.BPE(vocab, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return inner
