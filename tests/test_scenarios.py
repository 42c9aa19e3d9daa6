"""Every program of `scenarios/` is judged as its header says: each leak found at its line, each clean twin silent."""

import importlib.util
import sys
from pathlib import Path

import pytest

# By path: under `--import-mode=importlib`, tests do not import each other by name.
_spec = importlib.util.spec_from_file_location("scenario_harness", Path(__file__).parent / "scenarios" / "harness.py")
harness = importlib.util.module_from_spec(_spec)
sys.modules["scenario_harness"] = harness
_spec.loader.exec_module(harness)

pytestmark = [pytest.mark.slow, pytest.mark.zoo]
SCENARIOS = [harness.load(path) for path in harness.discover()]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_scenario(scenario, postgres, tmp_path):
    """Bare and guarded: same output, same status; the report says what the header promises, and nothing else."""
    if missing := scenario.missing():
        pytest.skip(f"needs {missing}")
    problems = harness.check(scenario, postgres, tmp_path)
    assert not problems, "\n".join(problems)


def test_each_leak_has_a_clean_twin():
    """A false alarm is as bad as a miss: no leak is written down without its harmless look-alike."""
    assert not {s.name for s in SCENARIOS if s.leaks and not (harness.HERE / "clean" / s.path.name).exists()}
