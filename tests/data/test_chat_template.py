"""Chat templates: what Jinja may do, and which characters are whose."""

import open_tokenizers
import pytest

from data.chat_template import ChatTemplate, TemplateError

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "  1 + 1? "},
    {"role": "assistant", "content": " 2 "},
    {"role": "user", "content": "sure?"},
    {"role": "assistant", "content": "yes"},
]


def pieces(rendered, spans):
    return [rendered.text[a:b] for a, b in spans]


def test_content_and_responses_are_found_in_one_pass():
    seen = ChatTemplate(open_tokenizers.CHATML, {}).conversation(TURNS)
    assert pieces(seen, seen.content) == ["Be brief.", "1 + 1?", "2", "sure?", "yes"]
    assert pieces(seen, seen.responses) == [" 2", "yes"]
    assert "<|im_start|>user\n  1 + 1? <|im_end|>" in seen.text and not seen.marked


def test_a_template_may_trim():
    seen = ChatTemplate(open_tokenizers.HEADERS, {"bos_token": "<s>"}).conversation(TURNS)
    assert seen.text.startswith("<s><|im_start|>system\n\nBe brief.<|im_end|>")
    assert pieces(seen, seen.responses) == ["2", "yes"]


def test_generation_blocks_say_it_themselves():
    seen = ChatTemplate(open_tokenizers.MARKED, {}).conversation(TURNS)
    assert seen.marked
    assert pieces(seen, seen.responses) == [" 2 <|im_end|>", "yes<|im_end|>"]


def test_what_only_the_last_answer_shows_is_learnt():
    seen = ChatTemplate(open_tokenizers.THINK, {}).conversation(TURNS)
    assert pieces(seen, seen.responses) == [" 2", "<think>\n\n</think>\n\nyes"]


def test_thoughts_within_an_answer_are_learnt_where_they_are_shown():
    thought = "<think>\nfirst this, then that\n</think>\n\nyes"
    turns = [m | {"content": thought} if m["role"] == "assistant" else m for m in TURNS]
    seen = ChatTemplate(open_tokenizers.REASON, {}).conversation(turns)
    assert pieces(seen, seen.responses) == ["yes", thought]
    assert pieces(seen, seen.content)[-3:] == ["yes", "sure?", thought]
    seen = ChatTemplate(open_tokenizers.REASON, {}).conversation(TURNS)
    assert pieces(seen, seen.responses) == [" 2", "<think>\n\n</think>\n\nyes"]


@pytest.mark.parametrize(
    "source, message",
    [
        ("{% for m in messages %}{{ m.content }}", "does not parse"),
        ("{{ raise_exception('no system please') }}", "no system please"),
        ("{{ messages.append(1) }}", "refuses"),
        ("{{ ''.__class__.__mro__ }}", "refuses"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}{{ '' }}", None),
        ("{% for m in messages %}{{ m.content[:2] }}{% endfor %}", "changes a message"),
        ("{{ messages[0].content }}", "wrote 0 of 2 answers"),
        (
            "{% for m in messages %}A{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %}B{% endif %}",
            "otherwise than it asks",
        ),
    ],
)
def test_what_cannot_be_told_is_an_error(source, message):
    if message is None:  # case is no matter of marks
        ChatTemplate(source, {}).conversation(TURNS)
        return
    with pytest.raises(TemplateError, match=message):
        ChatTemplate(source, {}).conversation(TURNS)


def test_the_tools_that_templates_use():
    source = (
        "{{ strftime_now('%d %b %Y') }}|{{ messages[0] | tojson }}|"
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.role }}"
        "{% endfor %}|{{ tools is none }}"
    )
    text = ChatTemplate(source, {}, "2026-11-25").text([{"role": "user", "content": "é"}], False)
    assert text == '25 Nov 2026|{"role": "user", "content": "é"}|user|True'


def test_whitespace_around_blocks_is_cut_as_templates_expect():
    source = "{% for m in messages %}\n    {{ m.content }}\n  {% endfor %}\nend"
    text = ChatTemplate(source, {}).text([{"role": "user", "content": "a"}], False)
    assert text == "    a\nend"
