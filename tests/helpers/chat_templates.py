"""A hundred chat templates of the shapes that occur, each written for these tests.

`SHAPES[name]` is (template, form of an answer that is learned, form of the last one); "{}" stands
for the answer. Those in `NO_SYSTEM` refuse a system message.
"""

# ruff: noqa: E501 (templates are long)

import json

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

# Special tokens that the templates below write.
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
# Tokens that were added without being special, as thoughts and tool calls often are.
ADDED = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>"]
TEXTS = [
    "The capital of France is Paris, and Lyon is not. What is it? Be brief, please.\n\n\n",
    "user assistant system model User: Assistant: ### Instruction: ### Response:\nhello hello yes\n",
    "  two  spaces   three, tabs\tand 1234567890 numbers (brackets) [INST] <tags> {braces} ``` == \n",
]

SHAPES: dict[str, tuple[str, str, str]] = {}
NO_SYSTEM = set()


def _add(name, source, answer, last="", system=True):
    assert name not in SHAPES, name
    SHAPES[name] = (source, answer, last or answer)
    if not system:
        NO_SYSTEM.add(name)


# ChatML and its kin.

_add(
    "chatml",
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, one expression",
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + "
    "'\n' }}{% endfor %}{{ '<|im_start|>assistant\n' if add_generation_prompt else '' }}",
    "{}<|im_end|>",
)
_add(
    "chatml, tilde",
    "{%- for m in messages -%}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}",
    "{}<|im_end|>",
)
_add(
    "chatml, bos once",
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, bos in the loop",
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}{{ '<|im_start|>' + m.role "
    "+ '\n' + m.content.strip() + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, default system",
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant."
    "<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, prompt by default",
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, no newline at the end",
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}"
    "{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n<|im_start|>assistant\n' }}{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, roles by branches",
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>user\n{{ m.content }}<|im_end|>\n"
    "{% elif m.role == 'assistant' %}<|im_start|>assistant\n{{ m.content }}<|im_end|>\n"
    "{% elif m.role == 'system' %}<|im_start|>system\n{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, a macro",
    "{% macro turn(role, content) %}<|im_start|>{{ role }}\n{{ content }}<|im_end|>\n{% endmacro %}"
    "{% for m in messages %}{{ turn(m.role, m.content) }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, a macro of parts",
    "{% macro show(content) %}{% if content is string %}{{ content }}{% else %}"
    "{% for part in content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"
    "{% endif %}{% endmacro %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{{ show(m.content) }}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, marked",
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>"
    "{% endif %}\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, marked through the newline",
    "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\n' -}}{%- if m.role == 'assistant' -%}"
    "{%- generation -%}{{- m.content + '<|im_end|>\n' -}}{%- endgeneration -%}{%- else -%}"
    "{{- m.content + '<|im_end|>\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}",
    "{}<|im_end|>\n",
)
_add(
    "chatml, a block",
    "{% block turns %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% endblock %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, a set block",
    "{% for m in messages %}{% set turn %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>"
    "{% endset %}{{ turn + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, a filter block",
    "{% for m in messages %}{% filter trim %} <|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|> "
    "{% endfilter %}\n\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, joined",
    "{% set ns = namespace(turns=[]) %}{% for m in messages %}{% set ns.turns = ns.turns + "
    "['<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>'] %}{% endfor %}"
    "{{ ns.turns | join('\n') }}\n\n"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, formatted",
    "{% for m in messages %}{{ '<|im_start|>{}\n{}<|im_end|>\n'.format(m.role, m.content) }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>%s\n' % 'assistant' }}{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, percent",
    "{% for m in messages %}{{ '<|im_start|>%s\n%s<|im_end|>\n' % (m.role, m.content) }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>%s\n' | format('assistant') }}{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, replaced",
    "{% for m in messages %}{{ '<|im_start|>ROLE\nTEXT<|im_end|>\n'.replace('ROLE', m.role)"
    ".replace('TEXT', m.content) }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, grown in a namespace",
    "{% set ns = namespace(text='') %}{% for m in messages %}{% set ns.text = ns.text + "
    "'<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' %}{% endfor %}{{ ns.text }}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, a role map",
    "{% set names = {'user': 'human', 'assistant': 'bot', 'system': 'rules'} %}"
    "{% for m in messages %}<|im_start|>{{ names[m.role] }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{{ names['assistant'] }}\n{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, loop controls",
    "{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant'] %}{% continue %}"
    "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% if loop.index > 500 %}{% break %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, a date",
    "<|im_start|>system\nKnowledge until 2023. Today: {{ strftime_now('%Y') }}.\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}\n{% set messages = messages[1:] "
    "%}{% endif %}<|im_end|>\n{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, a recursive loop",
    "{% for m in messages recursive %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, filtered loops",
    "{% for m in messages if m.role == 'system' %}<|im_start|>system\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, selected",
    "{% set rules = messages | selectattr('role', 'equalto', 'system') | map(attribute='content') "
    "| list %}{% if rules %}<|im_start|>system\n{{ rules | join('\n') }}<|im_end|>\n{% endif %}"
    "{% for m in messages | rejectattr('role', 'equalto', 'system') %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, pairs",
    "{% if messages[0].role == 'system' %}{{ '<|im_start|>system\n' + messages[0].content + "
    "'<|im_end|>\n' }}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
    "{% for pair in rest | batch(2) %}{{ '<|im_start|>user\n' + pair[0].content + '<|im_end|>\n' }}"
    "{% if pair | length > 1 %}{{ '<|im_start|>assistant\n' + pair[1].content + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "{}<|im_end|>",
)

# Instruction brackets.

_add(
    "inst",
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + "
    "' [/INST]' }}{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
    "{}</s>",
    system=False,
)
_add(
    "inst, a space before the answer",
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% if m.role == 'user' %}[INST] "
    "{{ m.content }} [/INST]{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
    " {}</s>",
    system=False,
)
_add(
    "inst, spaces around the answer",
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    "{% set rules = messages[0]['content'] %}{% else %}{% set rest = messages %}{% set rules = false "
    "%}{% endif %}{% for m in rest %}{% if loop.index0 == 0 and rules != false %}"
    "{% set content = '<<SYS>>\n' + rules + '\n<</SYS>>\n\n' + m['content'] %}{% else %}"
    "{% set content = m['content'] %}{% endif %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% else %}"
    "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    " {} </s>",
)
_add(
    "inst, system in the first",
    "{{ bos_token }}{% set ns = namespace(rules='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set ns.rules = m.content + '\n\n' %}{% elif m.role == 'user' %}"
    "[INST]{{ ns.rules + m.content }}[/INST]{% set ns.rules = '' %}{% else %}{{ m.content }}"
    "{{ eos_token }}{% endif %}{% endfor %}",
    "{}</s>",
)
_add(
    "inst, system in the last",
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set rules = messages[0].content %}"
    "{% set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}"
    "{% set users = turns | selectattr('role', 'equalto', 'user') | list %}{% for m in turns %}"
    "{% if m.role == 'user' %}{% if rules is defined and m == users[-1] %}"
    "{{ '[INST]' + rules + '\n\n' + m.content + '[/INST]' }}{% else %}"
    "{{ '[INST]' + m.content + '[/INST]' }}{% endif %}{% else %}{{ m.content + eos_token }}"
    "{% endif %}{% endfor %}",
    "{}</s>",
)
_add(
    "inst, system of its own",
    "{{- bos_token }}{%- for m in messages %}{%- if m.role == 'system' %}"
    "{{- '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}{%- elif m.role == 'user' %}"
    "{{- '[INST]' + m.content + '[/INST]' }}{%- elif m.role == 'assistant' %}"
    "{{- m.content + eos_token }}{%- else %}{{- raise_exception('no such role: ' + m.role) }}"
    "{%- endif %}{%- endfor %}",
    "{}</s>",
)
_add(
    "inst, tools shown",
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{% if tools and loop.last %}"
    "[TOOLS]{{ tools | tojson }}[/TOOLS]{% endif %}[INST]{{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content | trim }}{{ eos_token }}{% else %}"
    "{{ m.content }}\n\n{% endif %}{% endfor %}",
    " {}</s>",
)
_add(
    "inst, marked",
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{% generation %} "
    "{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}[INST] {{ m.content }} [/INST]"
    "{% endif %}{% endfor %}",
    " {}</s>",
)

# Headers.

_add(
    "headers",
    "{% set loop_messages = messages %}{% for m in loop_messages %}{% set content = '<|header|>' + "
    "m['role'] + '<|/header|>\n\n' + m['content'] | trim + '<|eot|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|header|>assistant<|/header|>\n\n' }}{% endif %}",
    "{}<|eot|>",
)
_add(
    "headers, always asking",
    "{{ bos_token }}{% for m in messages %}{{ '<|header|>' + m.role + '<|/header|>\n\n' + "
    "m.content.strip() + '<|eot|>' }}{% endfor %}{{ '<|header|>assistant<|/header|>\n\n' }}",
    "{}<|eot|>",
)
_add(
    "headers, a date in the system",
    "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = '26 Jul 2024' %}"
    "{%- endif %}{%- if messages[0]['role'] == 'system' %}"
    "{%- set rules = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}{%- else %}"
    "{%- set rules = '' %}{%- endif %}{{- '<|header|>system<|/header|>\n\n' }}"
    "{{- 'Today Date: ' + date_string + '\n\n' }}{{- rules }}{{- '<|eot|>' }}"
    "{%- for m in messages %}{{- '<|header|>' + m['role'] + '<|/header|>\n\n' + m['content'] | trim "
    "+ '<|eot|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|header|>assistant<|/header|>\n\n' }}{%- endif %}",
    "{}<|eot|>",
)
_add(
    "headers, one newline",
    "{{ bos_token }}{% for m in messages %}<|header|>{{ m.role }}<|/header|>\n{{ m.content }}<|eot|>"
    "{% endfor %}{% if add_generation_prompt %}<|header|>assistant<|/header|>\n{% endif %}",
    "{}<|eot|>",
)
_add(
    "headers, parts",
    "{{ bos_token }}{% for m in messages %}{{ '<|header|>' + m.role + '<|/header|>\n\n' }}"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part['type'] == 'image' %}{{ '<|image|>' }}{% elif part['type'] == 'text' %}"
    "{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|header|>assistant<|/header|>\n\n' }}{% endif %}",
    "{}<|eot|>",
)
_add(
    "headers, role tokens",
    "{% for m in messages %}{{ '<|role|>' + m.role + '<|/role|>' + m.content + '<|eos|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|role|>assistant<|/role|>' }}{% endif %}",
    "{}<|eos|>",
)
_add(
    "headers, role tokens and thoughts for the last",
    "{% for m in messages %}<|role|>{{ m.role }}<|/role|>"
    "{{ m.content.split('</think>')[-1].strip() if not loop.last else m.content }}<|eos|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|role|>assistant<|/role|>{% endif %}",
    "{}<|eos|>",
)
_add(
    "headers, bos and eos around",
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ '<|header|>system<|/header|>"
    "\n\nDefault.<|eot|>' }}{% endif %}{{ '<|header|>' ~ m.role ~ '<|/header|>\n\n' ~ m.content ~ "
    "'<|eot|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|header|>' ~ 'assistant' ~ "
    "'<|/header|>\n\n' }}{% else %}{{ eos_token }}{% endif %}",
    "{}<|eot|>",
)

# Turns in which the assistant is a model.

_add(
    "turns",
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<|turn|>' + role + '\n' + m['content'] | trim + '<|/turn|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>model\n' }}{% endif %}",
    "{}<|/turn|>",
    system=False,
)
_add(
    "turns, system in the first",
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' "
    "%}{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}"
    "{% endif %}{% for m in turns %}{{ '<|turn|>' + ('model' if m.role == 'assistant' else m.role) + "
    "'\n' + (first if loop.first else '') }}{{ m.content | trim }}{{ '<|/turn|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>model\n' }}{% endif %}",
    "{}<|/turn|>",
)
_add(
    "turns, parts",
    "{{ bos_token }}{%- for m in messages -%}{%- if m.role == 'assistant' -%}{%- set role = 'model' "
    "-%}{%- else -%}{%- set role = m.role -%}{%- endif -%}{{ '<|turn|>' + role + '\n' }}"
    "{%- if m.content is string -%}{{ m.content | trim }}{%- elif m.content is iterable -%}"
    "{%- for item in m.content -%}{{ item.text | trim }}{%- endfor -%}{%- else -%}"
    "{{ raise_exception('Invalid content type') }}{%- endif -%}{{ '<|/turn|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|turn|>model\n' }}{%- endif -%}",
    "{}<|/turn|>",
)
_add(
    "turns, marked",
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|turn|>model\n' }}"
    "{% generation %}{{ m.content | trim + '<|/turn|>\n' }}{% endgeneration %}{% else %}"
    "{{ '<|turn|>' + m.role + '\n' + m.content | trim + '<|/turn|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>model\n' }}{% endif %}",
    "{}<|/turn|>\n",
)

# Role tokens.

_add(
    "role tokens",
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    "{}<|end|>",
)
_add(
    "role tokens, eos",
    "{% for m in messages %}\n{% if m['role'] == 'user' %}\n{{ '<|user|>\n' + m['content'] + "
    "eos_token }}\n{% elif m['role'] == 'system' %}\n{{ '<|system|>\n' + m['content'] + eos_token }}"
    "\n{% elif m['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + m['content'] + eos_token }}\n"
    "{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
    "{% endfor %}",
    "{}</s>",
)
_add(
    "role tokens, only the answer ends",
    "{% for m in messages %}{% if m.role == 'user' %}<|prompter|>{{ m.content }}{{ eos_token }}"
    "{% elif m.role == 'assistant' %}<|assistant|>{{ m.content }}{{ eos_token }}{% else %}<|system|>"
    "{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "{}</s>",
)
_add(
    "role tokens, without an end for the user",
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|user|>\n' + "
    "m['content'] + '\n' }}{% elif m['role'] == 'system' %}{{ '<|system|>\n' + m['content'] + '\n' }}"
    "{% elif m['role'] == 'assistant' %}{{ '<|assistant|>\n' + m['content'] + eos_token + "
    "('' if loop.last else '\n') }}{% endif %}{% if loop.last and add_generation_prompt %}"
    "{{ '<|assistant|>\n' }}{% endif %}{% endfor %}",
    "{}</s>",
)
_add(
    "role tokens, upper case",
    "{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}"
    "{% elif m.role == 'assistant' %}<|Assistant|>{{ m.content }}{{ eos_token }}{% else %}"
    "{{ bos_token + m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|>{% endif %}",
    "{}</s>",
)
_add(
    "role tokens, three words",
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set turns = messages[1:] %}"
    "{{ '<|START|><|SYS|>' + messages[0].content + '<|END|>' }}{% else %}{% set turns = messages %}"
    "{% endif %}{% for m in turns %}{% set content = m.content %}{% if m.role == 'user' %}"
    "{{ '<|START|><|HUMAN|>' + content.strip() + '<|END|>' }}{% elif m.role == 'assistant' %}"
    "{{ '<|START|><|BOT|>' + content.strip() + '<|END|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|START|><|BOT|>' }}{% endif %}",
    "{}<|END|>",
)
_add(
    "role tokens, a middle",
    "{% for m in messages %}{{ '<|im_' + m.role + '|>' + m.role + '<|middle|>' + m.content + "
    "'<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_assistant|>assistant<|middle|>' }}{% endif %}",
    "{}<|im_end|>",
)
_add(
    "role tokens, channels",
    "{% for m in messages %}{% if m.role == 'assistant' %}<|START|>assistant<|channel|>final<|msg|>"
    "{{ m.content }}{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}"
    "{% else %}<|START|>{{ m.role }}<|msg|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|START|>assistant{% endif %}",
    "<|channel|>final<|msg|>{}",  # <|end|> ends a message, not what is generated
    "<|channel|>final<|msg|>{}<|return|>",
)
_add(
    "role tokens, separated",
    "{% for m in messages %}{% if not loop.first %}<|sep|>{% endif %}{{ m.role }}: {{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|sep|>assistant: {% endif %}",
    "{}</s>",
)
_add(
    "role tokens, an image and an observation",
    "<|begin|>{% for m in messages %}{% if m.role == 'tool' %}<|observation|>\n{% else %}<|"
    "{{ m.role }}|>\n{% endif %}{{ m.content }}{% if m.role == 'assistant' %}<|eos|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "{}<|eos|>",
)

# Plain text.

_add(
    "vicuna",
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% set turns = messages[1:] %}"
    "{% else %}A chat between a user and an assistant.{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if m.role == 'user' %} USER: {{ m.content | trim }}{% else %} ASSISTANT: "
    "{{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}",
    " {}</s>",
)
_add(
    "vicuna, a space at the end",
    "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}{{ eos_token if m.role == "
    "'assistant' else ' ' }}{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}",
    "{}</s>",
)
_add(
    "alpaca",
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '\n\n' }}"
    "{% elif m.role == 'user' %}{{ '### Instruction:\n' + m.content + '\n\n' }}{% else %}"
    "{{ '### Response:\n' + m.content + eos_token + '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}",
    "{}</s>",
)
_add(
    "alpaca, trimmed",
    "{%- for m in messages %}\n{%- if m['role'] == 'user' %}\n{{- '### Instruction:\n' + "
    "m['content'] + '\n' }}\n{%- elif m['role'] == 'assistant' %}\n{{- '### Response:\n' + "
    "m['content'] + '\n' + eos_token + '\n' }}\n{%- else %}\n{{- m['content'] }}\n{%- endif %}\n"
    "{%- endfor %}\n{%- if add_generation_prompt %}\n{{- '### Response:\n' }}\n{%- endif %}",
    "{}\n</s>",
)
_add(
    "falcon",
    "{% for m in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}{% if m.role == 'system' %}"
    "{{ m.content }}{% elif m.role == 'user' %}{{ '\nUser: ' + m.content.replace('\r\n', '\n')"
    ".replace('\n\n', '\n') }}{% else %}{{ '\nAssistant: ' + m.content + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}",
    " {}</s>",
)
_add(
    "human and assistant",
    "{% for m in messages %}{% if m.role == 'user' %}{{ '\n\nHuman: ' + m.content + "
    "'\n\nAssistant:' }}{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% else %}"
    "{{ m.content }}{% endif %}{% endfor %}",
    " {}</s>",
)
_add(
    "question and answer",
    "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}\nA:{% elif m.role == "
    "'assistant' %} {{ m.content }}{{ eos_token }}\n{% else %}{{ m.content }}\n{% endif %}"
    "{% endfor %}",
    " {}</s>",
)
_add(
    "turns by number",
    "{{ bos_token }}{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.n = ns.n + 1 %}{{ '[Round ' ~ ns.n ~ ']\n\nAsk: ' ~ m.content ~ '\n\nTell:' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' ~ m.content ~ eos_token ~ '\n\n' }}{% else %}"
    "{{ m.content ~ '\n\n' }}{% endif %}{% endfor %}",
    " {}</s>",
)
_add(
    "gpt4 correct",
    "{{ bos_token }}{% for m in messages %}{{ 'GPT4 Correct ' + m['role'].title() + ': ' + "
    "m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'GPT4 Correct Assistant:' }}{% endif %}",
    " {}<|end|>",
)
_add(
    "xml",
    "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}\n</{{ m.role }}>"
    "{{ eos_token if m.role == 'assistant' }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}",
    "{}\n</assistant></s>",
)
_add(
    "content alone",
    "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% else %}"
    "{{ '\n' }}{% endif %}{% endfor %}",
    "{}</s>",
)
_add(
    "merged neighbours",
    "{% set ns = namespace(role='') %}{% for m in messages %}{% set role = 'user' if m.role == "
    "'system' else m.role %}{% if role == ns.role %}{{ '\n\n' + m.content }}{% else %}"
    "{% if ns.role == 'user' %}{{ '<|/turn|>\n' }}{% endif %}{{ '<|turn|>' + role + '\n' + m.content "
    "}}{% endif %}{% if role == 'assistant' %}{{ '<|/turn|>\n' }}{% endif %}{% set ns.role = role %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|/turn|>\n<|turn|>assistant\n' }}{% endif %}",
    "{}<|/turn|>",
)
_add(
    "merged neighbours, looking ahead",
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ '[INST] ' + m.content + "
    "'\n\n' }}{% elif m.role == 'user' %}{{ '[INST] ' if loop.first or loop.previtem.role != "
    "'system' else '' }}{{ m.content }}{{ '\n\n' if loop.nextitem is defined and loop.nextitem.role "
    "== 'user' else ' [/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}",
    "{}</s>",
)

# Thoughts.

_CUT = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ bos_token + m.content }}{% elif m.role == "
    "'user' %}{{ '<|User|>' + m.content }}{% else %}{% set content = m.content %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<|Assistant|>' + content + eos_token }}{% endif %}{% endfor %}"
)
_add(
    "thought opened, history without",
    _CUT + "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}",
    "{}</s>",
)
_add(
    "thought opened on the line",
    _CUT + "{% if add_generation_prompt %}{{ '<|Assistant|><think>' }}{% endif %}",
    "{}</s>",
)
_add(
    "thought asked for, history without",
    _CUT + "{% if add_generation_prompt %}{{ '<|Assistant|>' }}{% endif %}",
    "{}</s>",
)
_QWQ = (
    "{%- for m in messages %}{%- if m.role != 'assistant' %}{{- '<|im_start|>' + m.role + '\n' + "
    "m.content + '<|im_end|>\n' }}{%- else %}"
    "{%- set content = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{{- '<|im_start|>assistant\n' + content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
)
_add(
    "chatml, thought opened",
    _QWQ + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n' }}{%- endif %}",
    "{}<|im_end|>",
)
_add(
    "chatml, thought closed for the impatient",
    _QWQ
    + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- if enable_thinking is "
    "defined and not enable_thinking %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}",
    "{}<|im_end|>",
)
_LAST = (
    "{%- set ns = namespace(last=messages | length - 1, found=false) %}{%- for m in messages[::-1] %}"
    "{%- if not ns.found and m.role == 'user' %}{%- set ns.found = true %}"
    "{%- set ns.last = messages | length - 1 - loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for m in messages %}{%- if m.role != 'assistant' %}{{- '<|im_start|>' + m.role + '\n' + "
    "m.content + '<|im_end|>\n' }}{%- else %}{%- set content = m.content %}{%- set thought = '' %}"
    "{%- if m.reasoning_content is string %}{%- set thought = m.reasoning_content %}"
    "{%- elif '</think>' in content %}"
    "{%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{{- '<|im_start|>assistant\n' }}{%- if loop.index0 > ns.last and (loop.last or thought) %}"
    "{{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}{%- else %}"
    "{{- content }}{%- endif %}{{- '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
)
_add(
    "chatml, thought of the last shown",
    _LAST + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}",
    "{}<|im_end|>",
    "<think>\n\n</think>\n\n{}<|im_end|>",
)
_add(
    "chatml, thought of the last shown and opened",
    _LAST + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n' }}{%- endif %}",
    "{}<|im_end|>",
    "\n</think>\n\n{}<|im_end|>",
)
_add(
    "chatml, every thought shown",
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{{ '<think>' + (m.reasoning_content or '') + '</think>' }}{% endif %}{{ m.content + "
    "'<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "<think></think>{}<|im_end|>",
)
_add(
    "chatml, every thought shown and opened",
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{{ '<think>\n' + (m.thinking or '') + '\n</think>\n' }}{% endif %}{{ m.content + "
    "'<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}",
    "\n</think>\n{}<|im_end|>",
)
_add(
    "no thought asked for",
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<|Assistant|></think>"
    "{{ m.content }}{{ eos_token }}{% elif m.role == 'user' %}<|User|>{{ m.content }}{% else %}"
    "{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|></think>{% endif %}",
    "{}</s>",
)
_add(
    "a thought for what is new, none for the past",
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<|Assistant|></think>"
    "{{ m.content }}{{ eos_token }}{% elif m.role == 'user' %}<|User|>{{ m.content }}{% else %}"
    "{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>{% endif %}",
    "{}</s>",
)
_add(
    "a switch in the system",
    "{%- set on = not (messages[0].role == 'system' and '/no_think' in messages[0].content) %}"
    "{{- '<|im_start|>system\nthinking: ' + ('on' if on else 'off') }}"
    "{%- if messages[0].role == 'system' %}{{- '\n' + messages[0].content.replace('/no_think', '')"
    ".rstrip() }}{%- endif %}{{- '<|im_end|>\n' }}{%- for m in messages if m.role != 'system' %}"
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if not on %}{{- '<think>\n\n</think>\n' }}{%- endif %}{%- endif %}",
    "{}<|im_end|>",
)

# Tools.

_CALLS = (
    "{%- if m.tool_calls %}{%- for call in m.tool_calls %}{%- if call.function %}"
    '{%- set call = call.function %}{%- endif %}{{- \'\n<tool_call>\n{"name": "\' + call.name + '
    "'\", \"arguments\": ' }}{{- call.arguments | tojson }}{{- '}\n</tool_call>' }}{%- endfor %}"
    "{%- endif %}"
)
_TOOLS = (
    "{%- if tools %}{{- '<|im_start|>system\n' }}{%- if messages[0].role == 'system' %}"
    "{{- messages[0].content + '\n\n' }}{%- endif %}{{- '# Tools\n<tools>' }}{%- for tool in tools %}"
    "{{- '\n' }}{{- tool | tojson }}{%- endfor %}{{- '\n</tools><|im_end|>\n' }}"
    "{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\n' + messages[0].content + "
    "'<|im_end|>\n' }}{%- endif %}"
)
_add(
    "tools, hermes",
    _TOOLS
    + "{%- for m in messages %}{%- if m.role == 'user' or (m.role == 'system' and not loop.first) or "
    "(m.role == 'assistant' and not m.tool_calls) %}{{- '<|im_start|>' + m.role + '\n' + m.content + "
    "'<|im_end|>\n' }}{%- elif m.role == 'assistant' %}{{- '<|im_start|>' + m.role }}"
    "{%- if m.content %}{{- '\n' + m.content }}{%- endif %}" + _CALLS + "{{- '<|im_end|>\n' }}"
    "{%- elif m.role == 'tool' %}{%- if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' "
    "%}{{- '<|im_start|>user' }}{%- endif %}{{- '\n<tool_response>\n' + m.content + "
    "'\n</tool_response>' }}{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}"
    "{{- '<|im_end|>\n' }}{%- endif %}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}",
    "{}<|im_end|>",
)
_add(
    "tools, json in the header",
    "{{ bos_token }}{% if tools is not none %}<|header|>system<|/header|>\n\nTools:\n"
    "{% for t in tools %}{{ t | tojson(indent=4) }}\n\n{% endfor %}<|eot|>{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}<|header|>ipython<|/header|>\n\n"
    "{{ {'output': m.content} | tojson }}<|eot|>{% elif m.tool_calls %}"
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    "<|header|>assistant<|/header|>\n\n"
    '{"name": "{{ m.tool_calls[0].function.name }}", "parameters": '
    "{{ m.tool_calls[0].function.arguments | tojson }}}<|eot|>{% else %}<|header|>{{ m.role }}"
    "<|/header|>\n\n{{ m.content }}<|eot|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|header|>assistant<|/header|>\n\n{% endif %}",
    "{}<|eot|>",
)
_add(
    "tools, by token",
    "{{ bos_token }}{% if tools %}[TOOLS]{{ tools | tojson }}[/TOOLS]{% endif %}{% for m in messages "
    "%}{% if m.role == 'tool' %}<|tool|>{{ m.content }}<|end|>{% else %}<|{{ m.role }}|>"
    "{{ m.content or '' }}{% for c in m.tool_calls or [] %}<|call|>{{ c.function | tojson }}"
    "{% endfor %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "{}<|end|>",
)
_add(
    "tools, items of arguments",
    _TOOLS + "{%- for m in messages %}{%- if m.role == 'system' %}{%- continue %}{%- endif %}"
    "{{- '<|im_start|>' + m.role + '\n' + m.content }}{%- for c in m.get('tool_calls', []) %}"
    "{{- '<tool_call>\n<function=' + c.function.name + '>\n' }}"
    "{%- for k, v in c.function.arguments | items %}{{- '<parameter=' + k + '>\n' ~ (v if v is string "
    "else v | tojson) ~ '\n</parameter>\n' }}{%- endfor %}{{- '</function>\n</tool_call>' }}"
    "{%- endfor %}{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}",
    "{}<|im_end|>",
)

# What else templates do.

_add(
    "parts alone",
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
_add(
    "parts alone, the first capital",
    "{{ bos_token }}{% for m in messages %}{{ m['role'] | capitalize }}:"
    "{% if m['content'][0]['type'] == 'image' %}{{ '' }}{% else %}{{ ' ' }}{% endif %}"
    "{% for line in m['content'] %}{{ line['text'] }}{% endfor %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
    " {}<|end|>",
)
_add(
    "every prompt asks",
    "{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}<|Assistant|>"
    "{% elif m.role == 'assistant' %}{{ m.content }}<|eos|>{% else %}{{ m.content }}{% endif %}"
    "{% endfor %}",
    "{}<|eos|>",
)
_add(
    "bos for every turn",
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + "
    "' [/INST] ' }}{% elif m.role == 'assistant' %}{{ m.content + ' ' + eos_token }}{% else %}"
    "{{ m.content }}{% endif %}{% endfor %}",
    "{} </s>",
)
_add(
    "roles checked",
    "{%- for m in messages %}{%- if m.role not in ('user', 'assistant', 'system') %}"
    "{{- raise_exception('Unknown role: ' + m.role) }}{%- endif %}{%- if m.role == 'system' and not "
    "loop.first %}{{- raise_exception('The system message comes first') }}{%- endif %}"
    "{{- '<|' ~ m.role ~ '|>' ~ m.content ~ '<|end|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}",
    "{}<|end|>",
)
_add(
    "only the last is a question",
    "{{ bos_token }}{% for m in messages %}{% if loop.last and m.role == 'user' %}<|user|>\n"
    "{{ m.content }}<|end|>\n{% elif m.role == 'user' %}<|user|>\n{{ m.content }}<|end|>\n"
    "{% elif m.role == 'system' and m.content %}<|system|>\n{{ m.content }}<|end|>\n{% else %}"
    "<|assistant|>\n{{ m.content }}<|end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt and messages[-1].role != 'assistant' %}<|assistant|>\n{% endif %}",
    "{}<|end|>",
)
_add(
    "documents and a default",
    "{% set rules = 'Answer from the documents.' if documents else 'Answer.' %}<|system|>\n"
    "{{ messages[0].content if messages[0].role == 'system' else rules }}<|end|>\n"
    "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>\n{{ m.content | default('', true) "
    "}}<|end|>\n{% endfor %}{{ '<|assistant|>\n' if add_generation_prompt }}",
    "{}<|end|>",
)
_add(
    "a preamble after the system",
    "{{ bos_token }}{{ '<|START|><|SYS|># Style\n' }}{% if messages[0].role == 'system' %}"
    "{{ messages[0].content }}{% else %}{{ 'Full sentences.' }}{% endif %}{{ '\n# End<|END|>' }}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|START|><|HUMAN|>' + m.content + '<|END|>' "
    "}}{% elif m.role == 'assistant' %}{{ '<|START|><|BOT|>' + m.content + '<|END|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|START|><|BOT|>' }}{% endif %}",
    "{}<|END|>",
)
_add(
    "text upside down",
    "{% for m in messages | reverse | list | reverse %}{{ '<|' ~ m.role ~ '|>' }}"
    "{{ (m.content | list | join) }}{{ '<|end|>' }}{% endfor %}"
    "{{ '<|assistant|>' if add_generation_prompt else '' }}",
    "{}<|end|>",
)


_add(
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
_add(
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
_add(
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
_add(
    "a caller",
    "{% macro turn(role) %}{{ '<|im_start|>' ~ role ~ '\n' ~ caller() ~ '<|im_end|>\n' }}"
    "{% endmacro %}{% for m in messages %}{% call turn(m.role) %}{{ m.content }}{% endcall %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
_add(
    "commands in the content",
    "{% for m in messages %}{% set text = m.content %}{% if text.startswith('/') %}"
    "{% set text = text.split(' ', 1)[1] %}{% endif %}{% set text = text.removesuffix('!') %}"
    "{{ '<|' ~ m.role ~ '|>' ~ text.rstrip() ~ '<|end|>' }}{% endfor %}"
    "{{ '<|assistant|>' if add_generation_prompt }}",
    "{}<|end|>",
)
_add(
    "lines, one by one",
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% for line in m.content.splitlines() %}"
    "{{ line }}{{ '' if loop.last else '\n' }}{% endfor %}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
    "{}</s>",
)
_add(
    "asked in another way than shown",
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\nSure: ' }}{% endif %}",
    "{}<|im_end|>",
)
_add(
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
_add(
    "a reminder for the last question",
    _REMINDED + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)
_add(
    "a reminder for the last question, and a thought opened",
    _REMINDED + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}",
    "{}<|im_end|>",
)
_add(
    "no reminder for the last question",
    _REMINDED.replace("' /think' if", "'' if").replace(
        "[-1])", "[-1] or m.role != 'user' else ' /no')"
    )
    + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{}<|im_end|>",
)


def byte_level(source=None, vocab_size=480, trim_offsets=True):
    """Files of a byte-level BPE that knows `SPECIALS`."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner = _train(inner, vocab_size, pre_tokenizers.ByteLevel.alphabet())
    inner.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    return _files(inner, source)


def metaspace(source=None, vocab_size=480, scheme="first", split=True):
    """Files of a BPE that writes spaces as SentencePiece does, with bytes for what it lacks.

    Args:
      scheme: before which texts it puts a space: "always", "first", "never"; or "normalizer", which
        older conversions use.
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
    return _files(_train(inner, vocab_size, ["\u2581", "\n"], first), source)


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
    # The trainer makes what comes first special, and bytes are not.
    spec = json.loads(inner.to_str())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] == "<unk>"]
    inner = tokenizers.Tokenizer.from_str(json.dumps(spec))
    inner.add_special_tokens(SPECIALS)
    inner.add_tokens(ADDED)
    return inner


def _files(inner, source):
    facts = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    if source is not None:
        facts["chat_template"] = source
    return {
        "tokenizer.json": inner.to_str().encode(),
        "tokenizer_config.json": json.dumps(facts).encode(),
    }
