# SPDX-License-Identifier: Apache-2.0
"""The command line as tests call it."""

import pytest
from typer.testing import CliRunner

from butd_hf.cli import app


@pytest.fixture(scope="session")
def call():
    """Runs a command and checks its exit code."""

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture(scope="session")
def plain():
    """A message without the frame and the line breaks that it is printed with."""
    return lambda text: " ".join(text.replace("│", "").split())
