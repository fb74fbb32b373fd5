"""Thoughts."""

# ruff: noqa: E501 (templates are long)

from chat_templates.registry import add

_CUT = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ bos_token + m.content }}{% elif m.role == "
    "'user' %}{{ '<|User|>' + m.content }}{% else %}{% set content = m.content %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<|Assistant|>' + content + eos_token }}{% endif %}{% endfor %}"
)
add(
    "thought opened, history without",
    _CUT + "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}",
    "{}</s>",
)
add(
    "thought opened on the line",
    _CUT + "{% if add_generation_prompt %}{{ '<|Assistant|><think>' }}{% endif %}",
    "{}</s>",
)
add(
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
add(
    "chatml, thought opened",
    _QWQ + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n' }}{%- endif %}",
    "{}<|im_end|>",
)
add(
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
add(
    "chatml, thought of the last shown",
    _LAST + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}",
    "{}<|im_end|>",
    "<think>\n\n</think>\n\n{}<|im_end|>",
)
add(
    "chatml, thought of the last shown and opened",
    _LAST + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n' }}{%- endif %}",
    "{}<|im_end|>",
    "\n</think>\n\n{}<|im_end|>",
)
add(
    "chatml, every thought shown",
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{{ '<think>' + (m.reasoning_content or '') + '</think>' }}{% endif %}{{ m.content + "
    "'<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "<think></think>{}<|im_end|>",
)
add(
    "chatml, every thought shown and opened",
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{{ '<think>\n' + (m.thinking or '') + '\n</think>\n' }}{% endif %}{{ m.content + "
    "'<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}",
    "\n</think>\n{}<|im_end|>",
)
add(
    "no thought asked for",
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<|Assistant|></think>"
    "{{ m.content }}{{ eos_token }}{% elif m.role == 'user' %}<|User|>{{ m.content }}{% else %}"
    "{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|></think>{% endif %}",
    "{}</s>",
)
add(
    "a thought for what is new, none for the past",
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<|Assistant|></think>"
    "{{ m.content }}{{ eos_token }}{% elif m.role == 'user' %}<|User|>{{ m.content }}{% else %}"
    "{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>{% endif %}",
    "{}</s>",
)
add(
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
