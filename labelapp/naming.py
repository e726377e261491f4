"""Whether an answer gives away which model wrote it: labelers are to judge what it says."""

import re

_SURE = (
    r"smollm\w*|hugging ?face|chat-?gpt|gpt-?[2-5]\w*|openai|anthropic|deepseek|qwen\w*|qianwen|lmsys|vicuna"
    r"|chatglm\w*|open[- ]assistant|laion|eleuther\w*|pythia-\w+|llama-?\d\w*|gemma-?\d\w*"
)
_WORDS = "llama|claude|gemini|gemma|mistral|mixtral|bard|falcon|phi|koala|hermes"
_MAKERS = "google|meta|microsoft|mistral|alibaba|cohere|databricks|apple|amazon"
_WHO = (
    r"i am|i['’]m|my name is|call me|ich bin|ich hei(?:ß|ss)e|mein name ist"
    r"|(?:model|modell|assistant|assistent)\b[^.!?\n]{0,20}?\b(?:called|named|namens)"
)
_BY = r"(?:trained|made|created|developed|built|entwickelt|trainiert)\b[^.!?\n]{0,20}?\b(?:by|at|von|bei)\b"
_NAMED = re.compile(
    rf"\b(?P<sure>{_SURE})\b|\b(?:{_WHO})[\s:,\"“*]+(?P<word>{_WORDS})\b"
    rf"|\b(?:model|assistant|i am|i['’]m|i was|modell|assistent|ich wurde)\b[^.!?\n]{{0,40}}?\b{_BY}"
    rf"[^.!?\n]{{0,20}}?\b(?P<maker>{_MAKERS})\b",
    re.IGNORECASE,
)


def named_model(text: str, prompt: str = "") -> str:
    """The model, or its maker, that ``text`` names first and ``prompt`` does not; else empty.

    Names that are words too (claude, llama) count only where the text says who it is or who made
    it. Chatbot Arena leaves out battles with such answers (arXiv 2403.04132).
    """
    asked = prompt.lower()
    for found in _NAMED.finditer(text):
        name = found["sure"] or found["word"] or found["maker"]
        if name.lower() not in asked:
            return name[:40]
    return ""
