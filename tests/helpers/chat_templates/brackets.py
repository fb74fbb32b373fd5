"""Instruction brackets, headers, and turns in which the assistant is a model."""

# ruff: noqa: E501 (templates are long)

from chat_templates.registry import add

# Instruction brackets.

add(
    "inst",
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + "
    "' [/INST]' }}{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
    "{}</s>",
    system=False,
)
add(
    "inst, a space before the answer",
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% if m.role == 'user' %}[INST] "
    "{{ m.content }} [/INST]{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
    " {}</s>",
    system=False,
)
add(
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
add(
    "inst, system in the first",
    "{{ bos_token }}{% set ns = namespace(rules='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set ns.rules = m.content + '\n\n' %}{% elif m.role == 'user' %}"
    "[INST]{{ ns.rules + m.content }}[/INST]{% set ns.rules = '' %}{% else %}{{ m.content }}"
    "{{ eos_token }}{% endif %}{% endfor %}",
    "{}</s>",
)
add(
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
add(
    "inst, system of its own",
    "{{- bos_token }}{%- for m in messages %}{%- if m.role == 'system' %}"
    "{{- '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}{%- elif m.role == 'user' %}"
    "{{- '[INST]' + m.content + '[/INST]' }}{%- elif m.role == 'assistant' %}"
    "{{- m.content + eos_token }}{%- else %}{{- raise_exception('no such role: ' + m.role) }}"
    "{%- endif %}{%- endfor %}",
    "{}</s>",
)
add(
    "inst, tools shown",
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{% if tools and loop.last %}"
    "[TOOLS]{{ tools | tojson }}[/TOOLS]{% endif %}[INST]{{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content | trim }}{{ eos_token }}{% else %}"
    "{{ m.content }}\n\n{% endif %}{% endfor %}",
    " {}</s>",
)
add(
    "inst, marked",
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{% generation %} "
    "{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}[INST] {{ m.content }} [/INST]"
    "{% endif %}{% endfor %}",
    " {}</s>",
)


# Headers.

add(
    "headers",
    "{% set loop_messages = messages %}{% for m in loop_messages %}{% set content = '<|header|>' + "
    "m['role'] + '<|/header|>\n\n' + m['content'] | trim + '<|eot|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|header|>assistant<|/header|>\n\n' }}{% endif %}",
    "{}<|eot|>",
)
add(
    "headers, always asking",
    "{{ bos_token }}{% for m in messages %}{{ '<|header|>' + m.role + '<|/header|>\n\n' + "
    "m.content.strip() + '<|eot|>' }}{% endfor %}{{ '<|header|>assistant<|/header|>\n\n' }}",
    "{}<|eot|>",
)
add(
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
add(
    "headers, one newline",
    "{{ bos_token }}{% for m in messages %}<|header|>{{ m.role }}<|/header|>\n{{ m.content }}<|eot|>"
    "{% endfor %}{% if add_generation_prompt %}<|header|>assistant<|/header|>\n{% endif %}",
    "{}<|eot|>",
)
add(
    "headers, parts",
    "{{ bos_token }}{% for m in messages %}{{ '<|header|>' + m.role + '<|/header|>\n\n' }}"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part['type'] == 'image' %}{{ '<|image|>' }}{% elif part['type'] == 'text' %}"
    "{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|header|>assistant<|/header|>\n\n' }}{% endif %}",
    "{}<|eot|>",
)
add(
    "headers, role tokens",
    "{% for m in messages %}{{ '<|role|>' + m.role + '<|/role|>' + m.content + '<|eos|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|role|>assistant<|/role|>' }}{% endif %}",
    "{}<|eos|>",
)
add(
    "headers, role tokens and thoughts for the last",
    "{% for m in messages %}<|role|>{{ m.role }}<|/role|>"
    "{{ m.content.split('</think>')[-1].strip() if not loop.last else m.content }}<|eos|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|role|>assistant<|/role|>{% endif %}",
    "{}<|eos|>",
)
add(
    "headers, bos and eos around",
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ '<|header|>system<|/header|>"
    "\n\nDefault.<|eot|>' }}{% endif %}{{ '<|header|>' ~ m.role ~ '<|/header|>\n\n' ~ m.content ~ "
    "'<|eot|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|header|>' ~ 'assistant' ~ "
    "'<|/header|>\n\n' }}{% else %}{{ eos_token }}{% endif %}",
    "{}<|eot|>",
)


# Turns in which the assistant is a model.

add(
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
add(
    "turns, system in the first",
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' "
    "%}{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}"
    "{% endif %}{% for m in turns %}{{ '<|turn|>' + ('model' if m.role == 'assistant' else m.role) + "
    "'\n' + (first if loop.first else '') }}{{ m.content | trim }}{{ '<|/turn|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>model\n' }}{% endif %}",
    "{}<|/turn|>",
)
add(
    "turns, parts",
    "{{ bos_token }}{%- for m in messages -%}{%- if m.role == 'assistant' -%}{%- set role = 'model' "
    "-%}{%- else -%}{%- set role = m.role -%}{%- endif -%}{{ '<|turn|>' + role + '\n' }}"
    "{%- if m.content is string -%}{{ m.content | trim }}{%- elif m.content is iterable -%}"
    "{%- for item in m.content -%}{{ item.text | trim }}{%- endfor -%}{%- else -%}"
    "{{ raise_exception('Invalid content type') }}{%- endif -%}{{ '<|/turn|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|turn|>model\n' }}{%- endif -%}",
    "{}<|/turn|>",
)
add(
    "turns, marked",
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|turn|>model\n' }}"
    "{% generation %}{{ m.content | trim + '<|/turn|>\n' }}{% endgeneration %}{% else %}"
    "{{ '<|turn|>' + m.role + '\n' + m.content | trim + '<|/turn|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>model\n' }}{% endif %}",
    "{}<|/turn|>\n",
)
