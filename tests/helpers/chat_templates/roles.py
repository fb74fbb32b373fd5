"""Role tokens, and roles in plain text."""

# ruff: noqa: E501 (templates are long)

from chat_templates.registry import add

# Role tokens.

add(
    "role tokens",
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    "{}<|end|>",
)
add(
    "role tokens, eos",
    "{% for m in messages %}\n{% if m['role'] == 'user' %}\n{{ '<|user|>\n' + m['content'] + "
    "eos_token }}\n{% elif m['role'] == 'system' %}\n{{ '<|system|>\n' + m['content'] + eos_token }}"
    "\n{% elif m['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + m['content'] + eos_token }}\n"
    "{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
    "{% endfor %}",
    "{}</s>",
)
add(
    "role tokens, only the answer ends",
    "{% for m in messages %}{% if m.role == 'user' %}<|prompter|>{{ m.content }}{{ eos_token }}"
    "{% elif m.role == 'assistant' %}<|assistant|>{{ m.content }}{{ eos_token }}{% else %}<|system|>"
    "{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "{}</s>",
)
add(
    "role tokens, without an end for the user",
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|user|>\n' + "
    "m['content'] + '\n' }}{% elif m['role'] == 'system' %}{{ '<|system|>\n' + m['content'] + '\n' }}"
    "{% elif m['role'] == 'assistant' %}{{ '<|assistant|>\n' + m['content'] + eos_token + "
    "('' if loop.last else '\n') }}{% endif %}{% if loop.last and add_generation_prompt %}"
    "{{ '<|assistant|>\n' }}{% endif %}{% endfor %}",
    "{}</s>",
)
add(
    "role tokens, upper case",
    "{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}"
    "{% elif m.role == 'assistant' %}<|Assistant|>{{ m.content }}{{ eos_token }}{% else %}"
    "{{ bos_token + m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|>{% endif %}",
    "{}</s>",
)
add(
    "role tokens, three words",
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set turns = messages[1:] %}"
    "{{ '<|START|><|SYS|>' + messages[0].content + '<|END|>' }}{% else %}{% set turns = messages %}"
    "{% endif %}{% for m in turns %}{% set content = m.content %}{% if m.role == 'user' %}"
    "{{ '<|START|><|HUMAN|>' + content.strip() + '<|END|>' }}{% elif m.role == 'assistant' %}"
    "{{ '<|START|><|BOT|>' + content.strip() + '<|END|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|START|><|BOT|>' }}{% endif %}",
    "{}<|END|>",
)
add(
    "role tokens, a middle",
    "{% for m in messages %}{{ '<|im_' + m.role + '|>' + m.role + '<|middle|>' + m.content + "
    "'<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_assistant|>assistant<|middle|>' }}{% endif %}",
    "{}<|im_end|>",
)
add(
    "role tokens, channels",
    "{% for m in messages %}{% if m.role == 'assistant' %}<|START|>assistant<|channel|>final<|msg|>"
    "{{ m.content }}{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}"
    "{% else %}<|START|>{{ m.role }}<|msg|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|START|>assistant{% endif %}",
    "<|channel|>final<|msg|>{}",  # <|end|> ends a message, not what is generated
    "<|channel|>final<|msg|>{}<|return|>",
)
add(
    "role tokens, separated",
    "{% for m in messages %}{% if not loop.first %}<|sep|>{% endif %}{{ m.role }}: {{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|sep|>assistant: {% endif %}",
    "{}</s>",
)
add(
    "role tokens, an image and an observation",
    "<|begin|>{% for m in messages %}{% if m.role == 'tool' %}<|observation|>\n{% else %}<|"
    "{{ m.role }}|>\n{% endif %}{{ m.content }}{% if m.role == 'assistant' %}<|eos|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "{}<|eos|>",
)


# Plain text.

add(
    "vicuna",
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% set turns = messages[1:] %}"
    "{% else %}A chat between a user and an assistant.{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if m.role == 'user' %} USER: {{ m.content | trim }}{% else %} ASSISTANT: "
    "{{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}",
    " {}</s>",
)
add(
    "vicuna, a space at the end",
    "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}{{ eos_token if m.role == "
    "'assistant' else ' ' }}{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}",
    "{}</s>",
)
add(
    "alpaca",
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '\n\n' }}"
    "{% elif m.role == 'user' %}{{ '### Instruction:\n' + m.content + '\n\n' }}{% else %}"
    "{{ '### Response:\n' + m.content + eos_token + '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}",
    "{}</s>",
)
add(
    "alpaca, trimmed",
    "{%- for m in messages %}\n{%- if m['role'] == 'user' %}\n{{- '### Instruction:\n' + "
    "m['content'] + '\n' }}\n{%- elif m['role'] == 'assistant' %}\n{{- '### Response:\n' + "
    "m['content'] + '\n' + eos_token + '\n' }}\n{%- else %}\n{{- m['content'] }}\n{%- endif %}\n"
    "{%- endfor %}\n{%- if add_generation_prompt %}\n{{- '### Response:\n' }}\n{%- endif %}",
    "{}\n</s>",
)
add(
    "falcon",
    "{% for m in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}{% if m.role == 'system' %}"
    "{{ m.content }}{% elif m.role == 'user' %}{{ '\nUser: ' + m.content.replace('\r\n', '\n')"
    ".replace('\n\n', '\n') }}{% else %}{{ '\nAssistant: ' + m.content + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}",
    " {}</s>",
)
add(
    "human and assistant",
    "{% for m in messages %}{% if m.role == 'user' %}{{ '\n\nHuman: ' + m.content + "
    "'\n\nAssistant:' }}{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% else %}"
    "{{ m.content }}{% endif %}{% endfor %}",
    " {}</s>",
)
add(
    "question and answer",
    "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}\nA:{% elif m.role == "
    "'assistant' %} {{ m.content }}{{ eos_token }}\n{% else %}{{ m.content }}\n{% endif %}"
    "{% endfor %}",
    " {}</s>",
)
add(
    "turns by number",
    "{{ bos_token }}{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.n = ns.n + 1 %}{{ '[Round ' ~ ns.n ~ ']\n\nAsk: ' ~ m.content ~ '\n\nTell:' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' ~ m.content ~ eos_token ~ '\n\n' }}{% else %}"
    "{{ m.content ~ '\n\n' }}{% endif %}{% endfor %}",
    " {}</s>",
)
add(
    "gpt4 correct",
    "{{ bos_token }}{% for m in messages %}{{ 'GPT4 Correct ' + m['role'].title() + ': ' + "
    "m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'GPT4 Correct Assistant:' }}{% endif %}",
    " {}<|end|>",
)
add(
    "xml",
    "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}\n</{{ m.role }}>"
    "{{ eos_token if m.role == 'assistant' }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}",
    "{}\n</assistant></s>",
)
add(
    "content alone",
    "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% else %}"
    "{{ '\n' }}{% endif %}{% endfor %}",
    "{}</s>",
)
add(
    "merged neighbours",
    "{% set ns = namespace(role='') %}{% for m in messages %}{% set role = 'user' if m.role == "
    "'system' else m.role %}{% if role == ns.role %}{{ '\n\n' + m.content }}{% else %}"
    "{% if ns.role == 'user' %}{{ '<|/turn|>\n' }}{% endif %}{{ '<|turn|>' + role + '\n' + m.content "
    "}}{% endif %}{% if role == 'assistant' %}{{ '<|/turn|>\n' }}{% endif %}{% set ns.role = role %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|/turn|>\n<|turn|>assistant\n' }}{% endif %}",
    "{}<|/turn|>",
)
add(
    "merged neighbours, looking ahead",
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ '[INST] ' + m.content + "
    "'\n\n' }}{% elif m.role == 'user' %}{{ '[INST] ' if loop.first or loop.previtem.role != "
    "'system' else '' }}{{ m.content }}{{ '\n\n' if loop.nextitem is defined and loop.nextitem.role "
    "== 'user' else ' [/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}",
    "{}</s>",
)
