"""Chat templates of the kinds that models come with, written anew and cut down, and a tokenizer.

They differ in what matters to who learns from them: where a prompt for an answer ends, what ends an
answer, and what becomes of a message once others follow it.
"""

from pathlib import Path
from typing import Any

import torch
from families import build
from families import tokenizer as of_family
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

# Qwen 2.5: words of the system by default, tools, calls.
CHATML = """
{%- if messages[0].role != 'system' and not tools %}
{{- '<|im_start|>system\nbe good<|im_end|>\n' }}{% endif %}
{%- if tools %}{{- '<|im_start|>system\n' }}
{%- for tool in tools %}{{- tool | tojson + '\n' }}{% endfor %}{{- '<|im_end|>\n' }}{% endif %}
{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + (m.content or '') }}
{%- for call in m.tool_calls or [] %}{%- set call = call.function or call %}
{{- '<tool_call>' + {'name': call.name, 'arguments': call.arguments} | tojson + '</tool_call>' }}
{%- endfor %}{{- '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"""

# Qwen 3: thinking is shown in the last answer alone, empty if there was none.
THINKING = """
{%- set ns = namespace(last=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for m in messages %}{%- set thought = m.reasoning_content or '' %}{%- set said = m.content %}
{%- if '</think>' in said %}
{%- set thought = said.split('</think>')[0].split('<think>')[-1].strip() %}
{%- set said = said.split('</think>')[-1].strip() %}{% endif %}
{{- '<|im_start|>' + m.role + '\n' }}
{%- if m.role == 'assistant' and loop.index0 > ns.last %}
{{- '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}
{{- said + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"""

# DeepSeek R1's distillates: the prompt opens a thought, and no answer given has one.
OPENING = """
{{- bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{- '[user]' + m.content }}
{%- else %}{{- '[assistant]' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{- '[assistant]<think>\n' }}{% endif %}"""

# Mistral: roles alternate; the system's words stand before the last question, while it is last.
STRICT = """
{{- bos_token }}{% set ns = namespace(user=true, system='') %}
{%- for m in messages %}{% if m.role == 'system' %}{% set ns.system = m.content + '\n\n' %}
{%- elif (m.role == 'user') != ns.user %}
{{- raise_exception('roles must alternate user/assistant') }}
{%- else %}{% set ns.user = not ns.user %}{% if m.role == 'user' %}
{{- '[INST] ' + (ns.system if loop.last else '') + m.content + '[/INST]' }}
{%- else %}{{- ' ' + m.content | trim + eos_token }}{% endif %}{% endif %}{% endfor %}"""

# Llama 3: a text begins in the template, and blanks go.
HEADERS = """
{%- for m in messages %}{{- bos_token if loop.first }}
{{- '<|head|>' + m.role + '<|/head|>\n\n' + m.content | trim + '<|eot|>' }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|head|>assistant<|/head|>\n\n' }}{% endif %}"""

# Nothing ends an answer, and the prompt ends with a blank.
PLAIN = """
{%- for m in messages %}{{- m.role + ': ' + m.content + '\n' }}{% endfor %}
{%- if add_generation_prompt %}{{- 'assistant: ' }}{% endif %}"""

# Some roles have no place.
DEAF = """
{%- for m in messages %}{% if m.role in ('user', 'assistant') %}
{{- m.role + '\n' + m.content + eos_token }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{- 'assistant\n' }}{% endif %}"""

MARKS = ("<|im_start|>", "<|im_end|>", "<|head|>", "<|/head|>", "<|eot|>", "[INST]", "[/INST]")


def tokenizer(
    template: str | dict[str, str] | None, family: str = "gpt2"
) -> PreTrainedTokenizerBase:
    """A tokenizer of a family, with such a template and the marks of all of them."""
    made = of_family(family)
    made.add_tokens(list(MARKS), special_tokens=True)
    made.chat_template = template
    return made


def checkpoint(folder: Path, family: str, template: str | dict[str, str] | None) -> Path:
    """A random model, whose tokenizer has a template and the marks of all."""
    reader = tokenizer(template, family)
    model: Any = build(family, AutoModelForCausalLM)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.resize_token_embeddings(len(reader), mean_resizing=False)
    model.save_pretrained(folder)
    reader.save_pretrained(folder)
    return folder
