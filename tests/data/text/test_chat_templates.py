"""A hundred chat templates: ids equal those of transformers, masks equal hand-written ones."""

import json

import numpy as np
import pytest
from chat_templates.shapes import NO_SYSTEM, SHAPES
from chat_templates.tokenizer_files import byte_level, metaspace

from data.text.chat import render, render_prompt
from data.text.chat_template import ChatTemplate, TemplateError
from data.text.hf_tokenizer import HFTokenizer

SYSTEM = {"role": "system", "content": "Be brief, please."}
TURNS = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris, it is."},
    {"role": "user", "content": "And  Lyon?\n\n\tno \u00e9\u4e2d\U0001f600"},
    {"role": "assistant", "content": "Lyon is not."},
]
KINDS = {
    "byte-level": byte_level,
    "metaspace": metaspace,
    "prefix everywhere": lambda: metaspace(scheme="always"),
    "prefix nowhere": lambda: metaspace(scheme="never", split=False),
    "prefix by normalizer": lambda: metaspace(scheme="normalizer"),
}
ALL = list(enumerate(SHAPES))


@pytest.fixture(scope="module", params=KINDS)
def files(request):
    return KINDS[request.param]()


def with_source(files, source):
    config = json.loads(files["tokenizer_config.json"]) | {"chat_template": source}
    return HFTokenizer(files | {"tokenizer_config.json": json.dumps(config).encode()})


def conversations(name):
    """One turn and two, with and without a system message."""
    firsts = [[]] if name in NO_SYSTEM else [[], [SYSTEM]]
    return [first + TURNS[:n] for first in firsts for n in (2, 4)]


def as_parts(messages):
    return [m | {"content": [{"type": "text", "text": m["content"]}]} for m in messages]


def runs(tokenizer, ids, mask):
    """The text of each run of the mask, special tokens written out."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]]))).reshape(-1, 2)
    decode = tokenizer._tokenizer.decode
    return [decode([int(i) for i in ids[a:b]], skip_special_tokens=False) for a, b in edges]


def bare(text):
    """Text without the space that a tokenizer adds, or joins to the next word."""
    return text.replace(" ", "")


def test_there_are_a_hundred():
    assert len({source for source, _, _ in SHAPES.values()}) >= 100


@pytest.mark.parametrize(
    "name",
    [name if n % 8 == 0 else pytest.param(name, marks=pytest.mark.slow) for n, name in ALL],
)
def test_what_is_learned_is_found_in_the_text(name):
    source, answer, last = SHAPES[name]
    template = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})
    for messages in conversations(name):
        rendered = template.conversation(messages)
        texts = [m["content"] for m in messages if m["role"] == "assistant"]
        expected = [answer.format(text) for text in texts[:-1]] + [last.format(texts[-1])]
        responses = [rendered.text[a:b] for a, b in rendered.responses]
        assert len(responses) == len(expected)
        for part, whole in zip(responses, expected, strict=True):
            assert whole.startswith(part) and part
        assert [messages[i]["role"] for i in rendered.authors] == ["assistant"] * len(texts)


@pytest.fixture(scope="module")
def reference(files):
    transformers = pytest.importorskip("transformers")
    inner = type(HFTokenizer(files)._tokenizer).from_str(files["tokenizer.json"].decode())
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


@pytest.mark.slow
def test_ids_are_transformers_and_masks_are_the_answers(files, reference):
    inner = HFTokenizer(files)._tokenizer
    for name, (source, answer, last) in SHAPES.items():
        tokenizer = with_source(files, source)

        def theirs(messages, prompt, source=source, name=name):
            messages = as_parts(messages) if name.startswith("parts alone") else messages
            return reference.apply_chat_template(
                messages, chat_template=source, add_generation_prompt=prompt, return_dict=False
            )

        for messages in conversations(name):
            prompt = render_prompt(tokenizer, messages[:-1])
            assert prompt.tolist() == theirs(messages[:-1], True), name
            ids, mask = render(tokenizer, messages)
            texts = [m["content"] for m in messages if m["role"] == "assistant"]
            expected = [answer.format(text) for text in texts[:-1]] + [last.format(texts[-1])]
            learned = runs(tokenizer, ids, mask)
            assert len(learned) == len(expected), name
            for part, form in zip(map(bare, learned), map(bare, expected), strict=True):
                # In an earlier answer, a token that begins in the prompt is not learned.
                assert part in (form, form[1:] if form[0] == "\n" else form), name
            whole = inner.decode(theirs(messages, False), skip_special_tokens=False)
            assert bare(inner.decode(ids, skip_special_tokens=False)) == bare(whole), name


def call(name, **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


TOOLS = [call("sum")["function"] | {"parameters": {"type": "object", "properties": {"a": {}}}}]
TOOL_TURNS = [
    {"role": "user", "content": "1 + 1?"},
    {"role": "assistant", "content": "", "tool_calls": [call("sum", a=[1, 1], b="\u00e9\n")]},
    {"role": "tool", "content": "2", "name": "sum"},
    {"role": "assistant", "content": "It is 2."},
]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SHAPES if name.startswith("tools")])
def test_tools_are_rendered_as_by_transformers(files, reference, name):
    source = SHAPES[name][0]
    tokenizer = with_source(files, source)
    more = dict(chat_template=source, tools=TOOLS, return_dict=False)
    for n in (1, 3):
        prompt = render_prompt(tokenizer, TOOL_TURNS[:n], TOOLS)
        theirs = reference.apply_chat_template(TOOL_TURNS[:n], add_generation_prompt=True, **more)
        assert prompt.tolist() == theirs
    ids, mask = render(tokenizer, TOOL_TURNS, TOOLS)
    theirs = reference.apply_chat_template(TOOL_TURNS, **more)
    decode = tokenizer._tokenizer.decode
    assert bare(decode(ids, False)) == bare(decode(theirs, False))
    called, answered = map(bare, runs(tokenizer, ids, mask))
    assert '"sum"' in called or "=sum>" in called
    assert called.startswith(("<tool_call>", "<|call|>", '{"name"', "\n<tool_call>"))
    assert answered.startswith("Itis2.") and "user" not in called + answered


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SHAPES if "generation %}" in SHAPES[name][0]])
def test_marked_templates_have_transformers_masks(files, reference, name):
    source = SHAPES[name][0]
    tokenizer = with_source(files, source)
    for messages in conversations(name):
        theirs = reference.apply_chat_template(
            messages, chat_template=source, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, mask = render(tokenizer, messages)
        if ids.tolist() == theirs["input_ids"]:
            assert mask.astype(int).tolist() == theirs["assistant_masks"]
        else:  # the last answer is separated from the prompt within a token
            assert len(ids) > len(theirs["input_ids"]) and sum(mask) >= sum(
                theirs["assistant_masks"]
            )


# Expressions of `m`, a message.
EXPRESSIONS = """
m.content|truncate(9)
m.content|wordcount
m.content|title
m.content|center(40)
m.content|indent(3,true)
m.content|replace('a','bb',1)
m.content|e
m.content|e|e
m.content|e|forceescape
m.content|escape + '&'
'<"' + (m.content|e)
m.content|safe + '<b>'
'<'|safe + m.content + m.role
('<'|safe) ~ m.content
(m.content|safe|trim)[2:]*2 + '<'
m.content|length
m.content[3:]
m.content[-1]
m.content[99]
m.content[::-1]
m.content.split()
m.content.split(' ',1)
m.content.rsplit('a',1)|join('|')
m.content.partition('i')|list
m.content.rpartition('i')[2]
m.content.splitlines(true)
m.content.strip('W.')
m.content.lstrip('What ')
m.content.zfill(40)
m.content.find('is')
m.content.count('a')
m.content.startswith('W')
m.content.isupper()
'%5s|%-5s|%r|%.2f|%s' % (m.content, m.role, m.content, 1.5, m)
'{:>40}|{!r}|{0[0]}'.format(m.content, m.role)
'{a}{b.content}'.format(a=1,b=m)
'%(role)s:%(content)s' % m
[m.content, m.role]|join('-')
[m.content,1,none]|join
(m.content~1~none~[1])
m.content*2
2*m.content
m|tojson(indent=2)
m|tojson(sort_keys=true)
m|items|list
m|dictsort
m.items()|list
[m.content]|map('upper')|list
[m]|map(attribute='content')|list
m.content|list|batch(3)|list
m.content|list|slice(3)|list
m.content|first
m.content|last
m.content|reverse
m.content|upper|lower|capitalize
m.content is string
m.content is mapping
m.content is iterable
m.content in ['x']
'a' in m.content
m.content|default('x')
(m.nope)|default(m.content)
m.content|string|safe
m.content|int
m.content|float
[3,1,2]|sort|join
['b','A']|sort|unique|list
[1,2,3]|sum
[m.content,'z']|max
[[1],[2]]|sum(start=[])
m.content|abs
{'a':m.content}
[m.content]
(m.content,)
range(5)|list
m.content.expandtabs(2)
m.content.swapcase()
m.content.casefold()
m.content.removeprefix('What').removesuffix('?')
m.content.replace('','-')
m.content.replace('a','')
','.join(m.content)
m.content|join(',')
m.content.format()
'%s' % m.content
'%d%%' % 5
m.content|groupby(0)
m.content|select('equalto','a')|list
messages|selectattr('role','equalto','user')|map(attribute='content')|join('+')
messages|groupby('role')|length
loop.index ~ loop.last ~ loop.length ~ loop.revindex
loop.previtem.role if loop.previtem else '-'
loop.cycle('a','b')
namespace(a=m.content).a
dict(a=m.content)
joiner('|')()
cycler('a','b').next()
strftime_now('%Y')
m.content|forceescape
m['content']
m.get('content')
m.get('x','d')
m.keys()|list
m.values()
m.content|filesizeformat
7|filesizeformat
3.7|round
-3|abs
10 // 3
10 % 3
2 ** 8
'x' < 'y'
m.content == 'x'
m.content|trim|length > 3
not m.content
m.content and 'y'
m.content or 'y'
none
true
m
messages
messages[::-1]|length
[m.content, m.content]|unique|list
m.content|replace('W', m.role)
m.role|replace('u', m.content)
m.content.join(['a','b'])
m.content.ljust(40,'.')
m.content|sort
m.content|list|sort|join
m.content|max
""".strip().splitlines()


@pytest.mark.slow
def test_expressions_are_written_as_by_transformers():
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    turns = [m | {"content": m["content"] + " <b>\n\ta  b</b>"} for m in TURNS[:2]]
    for expression in EXPRESSIONS:
        source = "{% for m in messages %}{{ " + expression + " }}{% endfor %}"
        try:
            theirs = utils.render_jinja_template([turns], chat_template=source)[0][0]
        except Exception:
            with pytest.raises(TemplateError):
                ChatTemplate(source, {}).text(turns, False)
        else:
            assert ChatTemplate(source, {}).text(turns, False) == theirs, expression
