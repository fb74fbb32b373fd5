"""Tools."""

# ruff: noqa: E501 (templates are long)

from chat_templates.registry import add

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
add(
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
add(
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
add(
    "tools, by token",
    "{{ bos_token }}{% if tools %}[TOOLS]{{ tools | tojson }}[/TOOLS]{% endif %}{% for m in messages "
    "%}{% if m.role == 'tool' %}<|tool|>{{ m.content }}<|end|>{% else %}<|{{ m.role }}|>"
    "{{ m.content or '' }}{% for c in m.tool_calls or [] %}<|call|>{{ c.function | tojson }}"
    "{% endfor %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "{}<|end|>",
)
add(
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
