"""Other things that templates do."""

# ruff: noqa: E501 (templates are long)

from chat_templates.registry import add

add(
    "parts alone",
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
add(
    "parts alone, the first capital",
    "{{ bos_token }}{% for m in messages %}{{ m['role'] | capitalize }}:"
    "{% if m['content'][0]['type'] == 'image' %}{{ '' }}{% else %}{{ ' ' }}{% endif %}"
    "{% for line in m['content'] %}{{ line['text'] }}{% endfor %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
    " {}<|end|>",
)
add(
    "every prompt asks",
    "{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}<|Assistant|>"
    "{% elif m.role == 'assistant' %}{{ m.content }}<|eos|>{% else %}{{ m.content }}{% endif %}"
    "{% endfor %}",
    "{}<|eos|>",
)
add(
    "bos for every turn",
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + "
    "' [/INST] ' }}{% elif m.role == 'assistant' %}{{ m.content + ' ' + eos_token }}{% else %}"
    "{{ m.content }}{% endif %}{% endfor %}",
    "{} </s>",
)
add(
    "roles checked",
    "{%- for m in messages %}{%- if m.role not in ('user', 'assistant', 'system') %}"
    "{{- raise_exception('Unknown role: ' + m.role) }}{%- endif %}{%- if m.role == 'system' and not "
    "loop.first %}{{- raise_exception('The system message comes first') }}{%- endif %}"
    "{{- '<|' ~ m.role ~ '|>' ~ m.content ~ '<|end|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}",
    "{}<|end|>",
)
add(
    "only the last is a question",
    "{{ bos_token }}{% for m in messages %}{% if loop.last and m.role == 'user' %}<|user|>\n"
    "{{ m.content }}<|end|>\n{% elif m.role == 'user' %}<|user|>\n{{ m.content }}<|end|>\n"
    "{% elif m.role == 'system' and m.content %}<|system|>\n{{ m.content }}<|end|>\n{% else %}"
    "<|assistant|>\n{{ m.content }}<|end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt and messages[-1].role != 'assistant' %}<|assistant|>\n{% endif %}",
    "{}<|end|>",
)
add(
    "documents and a default",
    "{% set rules = 'Answer from the documents.' if documents else 'Answer.' %}<|system|>\n"
    "{{ messages[0].content if messages[0].role == 'system' else rules }}<|end|>\n"
    "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>\n{{ m.content | default('', true) "
    "}}<|end|>\n{% endfor %}{{ '<|assistant|>\n' if add_generation_prompt }}",
    "{}<|end|>",
)
add(
    "a preamble after the system",
    "{{ bos_token }}{{ '<|START|><|SYS|># Style\n' }}{% if messages[0].role == 'system' %}"
    "{{ messages[0].content }}{% else %}{{ 'Full sentences.' }}{% endif %}{{ '\n# End<|END|>' }}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|START|><|HUMAN|>' + m.content + '<|END|>' "
    "}}{% elif m.role == 'assistant' %}{{ '<|START|><|BOT|>' + m.content + '<|END|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|START|><|BOT|>' }}{% endif %}",
    "{}<|END|>",
)
add(
    "text upside down",
    "{% for m in messages | reverse | list | reverse %}{{ '<|' ~ m.role ~ '|>' }}"
    "{{ (m.content | list | join) }}{{ '<|end|>' }}{% endfor %}"
    "{{ '<|assistant|>' if add_generation_prompt else '' }}",
    "{}<|end|>",
)


add(
    "queries that are tool responses are none",
    "{%- set ns = namespace(looking=true, last=0) %}{%- for m in messages[::-1] %}"
    "{%- set index = messages | length - 1 - loop.index0 %}{%- if ns.looking and m.role == 'user' and "
    "m.content is string and not (m.content.startswith('<tool_response>') and "
    "m.content.endswith('</tool_response>')) %}{%- set ns.looking = false %}{%- set ns.last = index "
    "%}{%- endif %}{%- endfor %}{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}"
    "{%- if m.role == 'assistant' and loop.index0 > ns.last %}{{- '<think>\n\n</think>\n\n' }}"
    "{%- endif %}{{- m.content + '<|im_end|>\n' }}{%- endfor %}{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\n' }}{%- endif %}",
    "{}<|im_end|>",
    "<think>\n\n</think>\n\n{}<|im_end|>",
)
add(
    "state in a namespace",
    "{% set ns = namespace(is_first=false, rules='', n=0) %}{%- for m in messages %}"
    "{%- if m['role'] == 'system' %}{% set ns.rules = ns.rules + m['content'] %}{%- endif %}"
    "{%- endfor %}{{ bos_token }}{{ ns.rules }}{%- for m in messages %}{%- if m['role'] == 'user' %}"
    "{%- set ns.n = ns.n + 1 -%}{{ '<|User|>' + m['content'] }}{%- endif %}"
    "{%- if m['role'] == 'assistant' and m['content'] is not none %}"
    "{{ '<|Assistant|>' + m['content'] + '<|eos|>' }}{%- endif %}{%- endfor -%}"
    "{% if add_generation_prompt and ns.n > 0 %}{{ '<|Assistant|>' }}{% endif %}",
    "{}<|eos|>",
)
add(
    "thoughts in a channel",
    "{%- macro message(role, channel, text, end='<|end|>') -%}{{- '<|START|>' + role }}"
    "{%- if channel %}{{- '<|channel|>' + channel }}{%- endif %}{{- '<|msg|>' + text + end }}"
    "{%- endmacro -%}{{- message('system', none, 'Reasoning: low') }}{%- for m in messages -%}"
    "{%- if m.role == 'system' %}{{- message('developer', none, '# Instructions\n\n' + m.content) }}"
    "{%- elif m.role == 'assistant' %}{%- if m.thinking and loop.last %}"
    "{{- message('assistant', 'analysis', m.thinking) }}{%- endif %}"
    "{{- message('assistant', 'final', m.content, end='<|return|>' if loop.last else '<|end|>') }}"
    "{%- else %}{{- message(m.role, none, m.content) }}{%- endif %}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|START|>assistant{%- endif -%}",
    "<|channel|>final<|msg|>{}",
    "<|channel|>final<|msg|>{}<|return|>",
)
add(
    "a caller",
    "{% macro turn(role) %}{{ '<|im_start|>' ~ role ~ '\n' ~ caller() ~ '<|im_end|>\n' }}"
    "{% endmacro %}{% for m in messages %}{% call turn(m.role) %}{{ m.content }}{% endcall %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
add(
    "commands in the content",
    "{% for m in messages %}{% set text = m.content %}{% if text.startswith('/') %}"
    "{% set text = text.split(' ', 1)[1] %}{% endif %}{% set text = text.removesuffix('!') %}"
    "{{ '<|' ~ m.role ~ '|>' ~ text.rstrip() ~ '<|end|>' }}{% endfor %}"
    "{{ '<|assistant|>' if add_generation_prompt }}",
    "{}<|end|>",
)
add(
    "lines, one by one",
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% for line in m.content.splitlines() %}"
    "{{ line }}{{ '' if loop.last else '\n' }}{% endfor %}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
    "{}</s>",
)
add(
    "asked in another way than shown",
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\nSure: ' }}{% endif %}",
    "{}<|im_end|>",
)
add(
    "two systems of its own",
    "{{ bos_token }}<|system|>Rules.<|end|>{% for m in messages %}{% if m.role == 'user' %}<|user|>"
    "{{ m.content }}<|end|><|system|>Think of the rules.<|end|>{% else %}<|{{ m.role }}|>"
    "{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "{}<|end|>",
)


_REMINDED = (
    "{% set asked = messages | selectattr('role', 'equalto', 'user') | list %}{% for m in messages %}"
    "{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ (' /think' if m == asked[-1]) ~ '<|im_end|>\n' }}"
    "{% endfor %}"
)
add(
    "a reminder for the last question",
    _REMINDED + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
add(
    "a reminder for the last question, and a thought opened",
    _REMINDED + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}",
    "{}<|im_end|>",
)
add(
    "no reminder for the last question",
    _REMINDED.replace("' /think' if", "'' if").replace(
        "[-1])", "[-1] or m.role != 'user' else ' /no')"
    )
    + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
