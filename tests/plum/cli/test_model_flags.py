from plum.cli.model_flags import DEFAULT_ABOUT_SEVERAL, DEFAULT_NEW_TOKENS
from plum.inference.predictor import default_new_tokens


def test_the_limit_that_the_help_names_is_the_predictors() -> None:
    """Constants of their own, because the help must not import the predictor."""
    assert [default_new_tokens(number) for number in (0, 1, 2, 5)] == [DEFAULT_NEW_TOKENS] * 2 + [
        DEFAULT_ABOUT_SEVERAL
    ] * 2
