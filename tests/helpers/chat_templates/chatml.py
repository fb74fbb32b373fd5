"""ChatML and templates like it."""

# ruff: noqa: E501 (templates are long)

from chat_templates.registry import add

add(
    "chatml",
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, one expression",
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + "
    "'\n' }}{% endfor %}{{ '<|im_start|>assistant\n' if add_generation_prompt else '' }}",
    "{}<|im_end|>",
)
add(
    "chatml, tilde",
    "{%- for m in messages -%}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}",
    "{}<|im_end|>",
)
add(
    "chatml, bos once",
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, bos in the loop",
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}{{ '<|im_start|>' + m.role "
    "+ '\n' + m.content.strip() + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, default system",
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant."
    "<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, prompt by default",
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, no newline at the end",
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}"
    "{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n<|im_start|>assistant\n' }}{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, roles by branches",
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>user\n{{ m.content }}<|im_end|>\n"
    "{% elif m.role == 'assistant' %}<|im_start|>assistant\n{{ m.content }}<|im_end|>\n"
    "{% elif m.role == 'system' %}<|im_start|>system\n{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, a macro",
    "{% macro turn(role, content) %}<|im_start|>{{ role }}\n{{ content }}<|im_end|>\n{% endmacro %}"
    "{% for m in messages %}{{ turn(m.role, m.content) }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, a macro of parts",
    "{% macro show(content) %}{% if content is string %}{{ content }}{% else %}"
    "{% for part in content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"
    "{% endif %}{% endmacro %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{{ show(m.content) }}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, marked",
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>"
    "{% endif %}\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, marked through the newline",
    "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\n' -}}{%- if m.role == 'assistant' -%}"
    "{%- generation -%}{{- m.content + '<|im_end|>\n' -}}{%- endgeneration -%}{%- else -%}"
    "{{- m.content + '<|im_end|>\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}",
    "{}<|im_end|>\n",
)
add(
    "chatml, a block",
    "{% block turns %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% endblock %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, a set block",
    "{% for m in messages %}{% set turn %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>"
    "{% endset %}{{ turn + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, a filter block",
    "{% for m in messages %}{% filter trim %} <|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|> "
    "{% endfilter %}\n\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, joined",
    "{% set ns = namespace(turns=[]) %}{% for m in messages %}{% set ns.turns = ns.turns + "
    "['<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>'] %}{% endfor %}"
    "{{ ns.turns | join('\n') }}\n\n"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, formatted",
    "{% for m in messages %}{{ '<|im_start|>{}\n{}<|im_end|>\n'.format(m.role, m.content) }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>%s\n' % 'assistant' }}{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, percent",
    "{% for m in messages %}{{ '<|im_start|>%s\n%s<|im_end|>\n' % (m.role, m.content) }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>%s\n' | format('assistant') }}{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, replaced",
    "{% for m in messages %}{{ '<|im_start|>ROLE\nTEXT<|im_end|>\n'.replace('ROLE', m.role)"
    ".replace('TEXT', m.content) }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, grown in a namespace",
    "{% set ns = namespace(text='') %}{% for m in messages %}{% set ns.text = ns.text + "
    "'<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' %}{% endfor %}{{ ns.text }}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, a role map",
    "{% set names = {'user': 'human', 'assistant': 'bot', 'system': 'rules'} %}"
    "{% for m in messages %}<|im_start|>{{ names[m.role] }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{{ names['assistant'] }}\n{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, loop controls",
    "{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant'] %}{% continue %}"
    "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% if loop.index > 500 %}{% break %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, a date",
    "<|im_start|>system\nKnowledge until 2023. Today: {{ strftime_now('%Y') }}.\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}\n{% set messages = messages[1:] "
    "%}{% endif %}<|im_end|>\n{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, a recursive loop",
    "{% for m in messages recursive %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, filtered loops",
    "{% for m in messages if m.role == 'system' %}<|im_start|>system\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, selected",
    "{% set rules = messages | selectattr('role', 'equalto', 'system') | map(attribute='content') "
    "| list %}{% if rules %}<|im_start|>system\n{{ rules | join('\n') }}<|im_end|>\n{% endif %}"
    "{% for m in messages | rejectattr('role', 'equalto', 'system') %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
add(
    "chatml, pairs",
    "{% if messages[0].role == 'system' %}{{ '<|im_start|>system\n' + messages[0].content + "
    "'<|im_end|>\n' }}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
    "{% for pair in rest | batch(2) %}{{ '<|im_start|>user\n' + pair[0].content + '<|im_end|>\n' }}"
    "{% if pair | length > 1 %}{{ '<|im_start|>assistant\n' + pair[1].content + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "{}<|im_end|>",
)
