from plum.cli.model_flags import DEFAULT_NEW_TOKENS
from plum.inference.predictor import MAX_NEW_TOKENS


def test_the_limit_that_the_help_names_is_the_predictors() -> None:
    """Two constants, because the help must not import the predictor."""
    assert DEFAULT_NEW_TOKENS == MAX_NEW_TOKENS
