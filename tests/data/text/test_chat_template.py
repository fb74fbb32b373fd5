"""Chat templates: the Jinja that they use, and the origin of characters."""

import jinja2
import open_tokenizers
import pytest
from open_tokenizers import TURNS

from data.errors import DataError
from data.text.chat_template import ChatTemplate, TemplateError


def pieces(rendered, spans):
    return [rendered.text[a:b] for a, b in spans]


def test_content_and_responses_are_found_in_one_pass():
    rendered = ChatTemplate(open_tokenizers.CHATML, {}).conversation(TURNS)
    assert pieces(rendered, rendered.content) == [m["content"] for m in TURNS]
    assert pieces(rendered, rendered.responses) == [" 2 ", "yes"]
    assert "<|im_start|>user\n  1 + 1? <|im_end|>" in rendered.text and not rendered.marked


def test_a_template_may_trim():
    rendered = ChatTemplate(open_tokenizers.HEADERS, {"bos_token": "<s>"}).conversation(TURNS)
    assert rendered.text.startswith("<s><|im_start|>system\n\nBe brief.<|im_end|>")
    assert pieces(rendered, rendered.responses) == ["2", "yes"]


def test_generation_blocks_say_it_themselves():
    rendered = ChatTemplate(open_tokenizers.MARKED, {}).conversation(TURNS)
    assert rendered.marked
    assert pieces(rendered, rendered.responses) == [" 2 <|im_end|>", "yes<|im_end|>"]


def test_where_a_template_has_marks_nothing_else_is_learnt():
    source = open_tokenizers.MARKED.replace("m.role == 'assistant' %}{%", "m.content == 'yes' %}{%")
    assert source != open_tokenizers.MARKED
    template = ChatTemplate(source, {})
    rendered = template.conversation(TURNS)
    assert pieces(rendered, rendered.responses) == ["yes<|im_end|>"] and rendered.authors == [4]
    assert template.conversation(TURNS[:3]).responses == []


def test_what_only_the_last_answer_shows_is_learnt():
    rendered = ChatTemplate(open_tokenizers.THINK, {}).conversation(TURNS)
    assert pieces(rendered, rendered.responses) == [" 2 ", "<think>\n\n</think>\n\nyes"]


def test_thoughts_within_an_answer_are_learnt_where_they_are_shown():
    thought = "<think>\nfirst this, then that\n</think>\n\nyes"
    turns = [m | {"content": thought} if m["role"] == "assistant" else m for m in TURNS]
    rendered = ChatTemplate(open_tokenizers.REASON, {}).conversation(turns)
    assert pieces(rendered, rendered.responses) == ["yes", thought]
    assert pieces(rendered, rendered.content)[-3:] == ["sure?", "first this, then that", "yes"]
    rendered = ChatTemplate(open_tokenizers.REASON, {}).conversation(TURNS)
    assert pieces(rendered, rendered.responses) == [" 2 ", "<think>\n\n</think>\n\nyes"]


@pytest.mark.parametrize(
    "source, message",
    [
        ("{% for m in messages %}{{ m.content }}", "does not parse"),
        ("{{ raise_exception('no system please') }}", "no system please"),
        ("{{ messages.append(1) }}", "refuses"),
        ("{{ ''.__class__.__mro__ }}", "refuses"),
        (
            "{% for m in messages %}A{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %}B{% endif %}",
            "otherwise than it asks",
        ),
    ],
)
def test_what_cannot_be_told_is_an_error(source, message):
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


@pytest.mark.parametrize("cut", ["[:2]", " | upper", " | replace('y', 'Y')", ".split('?')[0]"])
def test_a_template_may_change_what_is_said(cut):
    source = "{% for m in messages %}<{{ m.role }}>{{ m.content" + cut + " }}</>{% endfor %}"
    source += "{% if add_generation_prompt %}<assistant>{% endif %}"
    rendered = ChatTemplate(source, {}).conversation(TURNS)
    changed = jinja2.Template("{{ m" + cut + " }}")
    assert pieces(rendered, rendered.responses) == [changed.render(m=m) for m in (" 2 ", "yes")]


# Like DeepSeek-R1's distillates and QwQ: the prompt opens a thought, earlier turns show none.
OPENED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}\n"
    "{{ '<A>' + m.content.split('</think>')[-1] + '</s>' }}\n"
    "{% else %}{{ '<U>' + m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<A><think>\n' }}{% endif %}"
)


def test_a_prompt_is_the_template_and_nothing_more():
    template = ChatTemplate(OPENED, {})
    turns = [m | {"content": "<think>no</think>" + m["content"]} for m in TURNS[1:4]]
    text = template.plain(turns, prompt=True).text
    assert text == template.text(turns, True)
    assert "no</think> 2" not in text and text.endswith("sure?<A><think>\n")


def test_an_answer_begins_at_its_own_place_where_it_is_asked_for_with_a_thought():
    turns = [m | {"content": "<think>no</think>" + m["content"]} for m in TURNS]
    rendered = ChatTemplate(OPENED, {}).conversation(turns)
    assert pieces(rendered, rendered.responses) == [" 2 ", "yes"]


def test_what_cannot_be_told_names_the_line_and_what_to_type():
    source = (
        "{% for m in messages %}\n{% if m.role == 'user' %}\n<Q>{{ m.content }}\n{% else %}\n"
        "So: {{ m.content }}</s>\n{% endif %}\n{% endfor %}\n"
        "{% if add_generation_prompt %}<A>{% endif %}"
    )
    with pytest.raises(DataError) as e:
        ChatTemplate(source, {}).conversation(TURNS[1:])
    for part in ("line 5 ", "So: {{ m.content }}", "{% generation %}", "--chat_template=FILE"):
        assert part in str(e.value)
    marked = source.replace("So: {{ m.content }}", "{% generation %}{{ m.content }}")
    marked = marked.replace("</s>", "</s>{% endgeneration %}")
    rendered = ChatTemplate(marked, {}).conversation(TURNS[1:])
    assert pieces(rendered, rendered.responses) == [" 2 </s>", "yes</s>"]


CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "sum", "arguments": {"a": 1}}}],
}
TOOL = [
    {"role": "user", "content": "1 + 1?"},
    CALL,
    {"role": "tool", "content": "2", "tool_call_id": "1", "name": "sum"},
    {"role": "assistant", "content": "It is 2."},
]
CALLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role }}>"
    "{% if m.content %}{{ m.content }}{% endif %}{% for c in m.tool_calls or [] %}"
    "<call>{{ c.function | tojson }}</call>{% endfor %}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_a_tool_call_beside_an_empty_answer_is_learned():
    tools = [{"type": "function", "function": {"name": "sum"}}]
    rendered = ChatTemplate(CALLS, {}).conversation(TOOL, tools)
    assert pieces(rendered, rendered.responses) == [
        '<call>{"name": "sum", "arguments": {"a": 1}}',
        "It is 2.",
    ]
    assert rendered.authors == [1, 3]
    # In a template whose prompt opens a thought, the marker of the call is learned with it.
    asked = CALLS.replace("%}<assistant>{%", "%}<assistant><think>{%")
    rendered = ChatTemplate(asked, {}).conversation(TOOL, tools)
    assert pieces(rendered, rendered.responses)[0].startswith('<call>{"name"')


PLAIN = (
    "{% for m in messages if m.role in ['user', 'assistant'] %}<{{ m.role }}>{{ m.content }}</s>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
THOUGHTFUL = (
    "{% for m in messages %}<{{ m.role }}>{% if loop.last and m.reasoning_content %}<think>"
    "{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.mark.parametrize(
    "messages, tools, what",
    [
        (TURNS, None, r"a system message \(messages\[0\]\)"),
        (TOOL, None, r"tool calls \(messages\[1\]\)"),
        ([TOOL[0], TOOL[2], TOOL[3]], None, r"a tool message \(messages\[1\]\)"),
        (TURNS[1:], [{"name": "sum"}], "the record's tools"),
        ([TURNS[1], TURNS[2] | {"thinking": "hm"}], None, "a message's reasoning"),
        ([TURNS[1], TURNS[2] | {"reasoning_content": "hm"}], None, "a message's reasoning"),
    ],
)
def test_what_a_template_has_no_place_for_is_refused(messages, tools, what):
    with pytest.raises(DataError, match=f"no place for {what}") as e:
        ChatTemplate(PLAIN, {}).conversation(messages, tools)
    assert e.value.reason == "chat_template"
    if "reason" not in what and "calls" not in what:
        with pytest.raises(DataError, match=f"no place for {what}"):
            ChatTemplate(PLAIN, {}).plain(messages, tools, prompt=True)


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_a_thought_is_learned_while_it_is_new_and_may_be_left_out_later(key):
    turns = [m | {key: "hm"} if m["role"] == "assistant" else m for m in TURNS]
    rendered = ChatTemplate(THOUGHTFUL, {}).conversation(turns)
    assert pieces(rendered, rendered.responses) == [" 2 ", "<think>hm</think>yes"]


@pytest.mark.parametrize(
    "shown",
    [
        "{{ call.arguments }}",
        "{{ call.arguments.items() }}",
        "{{ call.arguments | tojson }}",
        "{{ call.arguments | string | indent(2) }}",
        "{{ '%s' % call.arguments }}",
        "{{ '{}'.format(call.arguments) }}",
        "{{ 'a' ~ call.arguments }}",
        "{{ [call.arguments, 1] | join }}",
        "{{ call.arguments | e }}",
        "{{ call.arguments | dictsort }}",
        "{% for k, v in call.arguments.items() %}{{ (k ~ '=' ~ v).replace('=', ':') }}{% endfor %}",
        "{{ call.arguments.a[::-1].upper().title().ljust(9) | reverse }}",
        "{% filter upper %}{{ call.arguments.a }}{% endfilter %}",
        "{% set x %}{{ call.arguments.a }}{% endset %}{{ x.split('<')[1].partition('n')[2] }}",
        "{{ call.arguments.a | list | join }}{{ call.arguments.a.splitlines() | first }}",
    ],
)
def test_what_messages_say_is_known_however_it_is_written(shown):
    source = "{% set call = messages[1].tool_calls[0].function %}{{ messages[0].content }}" + shown
    call = {"function": {"name": "f", "arguments": {"a": "<|end|>"}}}
    turns = [TURNS[1], CALL | {"tool_calls": [call]}]
    rendered = ChatTemplate(source, {}).plain(turns)
    special = [i for i in range(len(rendered.text)) if rendered.text[i] in "|END"]
    assert special and all(any(a <= i < b for a, b in rendered.content) for i in special)


def test_what_is_joined_to_safe_text_is_escaped():
    """Jinja does so, in transformers too, although it escapes nothing else."""
    source = "{% for m in messages %}{{ '<' | safe + m.content + ' &' }}{{ m.content }}{% endfor %}"
    turns = [TURNS[0] | {"content": "a<b>"}]
    rendered = ChatTemplate(source, {}).plain(turns)
    assert rendered.text == "<a&lt;b&gt; &amp;a<b>"
    assert list(filter(None, pieces(rendered, rendered.content))) == ["a", "b", "a<b>"]


def test_contents_are_given_as_parts_to_templates_that_read_nothing_else():
    source = (
        "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}{{ part.text }}"
        "{% endfor %}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    rendered = ChatTemplate(source, {}).conversation(TURNS)
    assert pieces(rendered, rendered.responses) == [" 2 ", "yes"]


def test_the_reason_is_that_of_the_form_in_which_a_template_reads_contents():
    source = (
        "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}{{ part.text }}"
        "{% endfor %}</s>{% endfor %}"
    )
    with pytest.raises(TemplateError, match=r"no place for a message's reasoning \(messages\[1\]"):
        ChatTemplate(source, {}).conversation(
            [TURNS[1], {"role": "assistant", "content": "yes", "reasoning_content": "so"}]
        )
    with pytest.raises(TemplateError, match="str object has no element 0"):
        ChatTemplate("{{ messages[0].content[0][0] }}", {}).text([TURNS[1] | {"content": ""}], True)


def test_contents_are_not_given_as_parts_to_templates_that_refuse_what_they_say():
    source = (
        "{% for m in messages %}{% if 'sure' in m.content %}{{ raise_exception('never!') }}"
        "{% endif %}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(TemplateError, match="never!"):
        ChatTemplate(source, {}).plain(TURNS[:4], prompt=True)
