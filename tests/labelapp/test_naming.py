"""Answers that give away who wrote them."""

import pytest

from labelapp.naming import named_model


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("I am SmolLM, a helpful assistant.", "SmolLM"),
        ("I'm an assistant trained by Hugging Face.", "Hugging Face"),
        ("As a model of OpenAI I have no body.", "OpenAI"),
        ("I’m Claude. How can I help?", "Claude"),
        ("This is GPT-4o speaking.", "GPT-4o"),
        ("I was developed by Google and have no legs.", "Google"),
        ("A language model developed by researchers at Meta AI.", "Meta"),
        ("I'm a large language model called Gemini.", "Gemini"),
        ("Ich heiße Llama und helfe gern.", "Llama"),
    ],
)
def test_an_answer_that_says_who_wrote_it_is_found(text: str, name: str) -> None:
    assert named_model(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "Claude Monet painted water lilies.",
        "A llama is not an alpaca. I am sure of that.",
        "The mistral blows from the north, as every sailor knows.",
        "As an AI language model, I have no opinion.",
        "Search for it with Google.",
        "I am going to google it. I am a bard, and sing.",
        "As you know, the car was made by Google.",
        "",
    ],
)
def test_a_word_that_is_also_a_name_is_not(text: str) -> None:
    assert named_model(text) == ""


def test_what_the_prompt_names_may_be_answered() -> None:
    asked = "Who founded OpenAI?"
    assert named_model("OpenAI was founded in 2015.", asked) == ""
    assert named_model("OpenAI was founded in 2015. I am ChatGPT.", asked) == "ChatGPT"


def test_a_long_answer_is_read_in_no_time() -> None:
    assert named_model("as i am " * 20_000) == ""
