"""Readers on mutated files: they read them, or refuse them with a message; nothing else."""

import importlib.util
import sys
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SOURCE = Path(__file__).parent / "bench" / "fuzz.py"
spec = importlib.util.spec_from_file_location("fuzz", SOURCE)
assert spec is not None
assert spec.loader is not None
fuzz = sys.modules["fuzz"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)

edits = st.lists(
    st.builds(
        fuzz.Edit,
        st.sampled_from(fuzz.EDITS),
        st.floats(0, 1, allow_nan=False),
        st.integers(0, 12),
        st.sampled_from(fuzz.PAYLOADS) | st.binary(max_size=8),
    ),
    max_size=4,
)


def test_the_samples_are_valid(tmp_path):
    for name, data in fuzz.SAMPLES.items():
        assert fuzz.attempt(tmp_path, name, data) == "read", name


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(fuzz.SAMPLES)), edits=edits)
def test_a_mutated_file_is_read_or_refused(tmp_path, name, edits):
    assert fuzz.attempt(tmp_path, name, fuzz.mutate(fuzz.SAMPLES[name], edits)) in ("read", "FileFormatError")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(fuzz.SAMPLES)), data=st.binary(max_size=200))
def test_junk_is_refused(tmp_path, name, data):
    assert fuzz.attempt(tmp_path, name, data) in ("read", "FileFormatError")


def test_every_prefix_is_refused_or_shorter(tmp_path):
    for name, data in fuzz.SAMPLES.items():
        for stop in range(0, len(data), 7):
            assert fuzz.attempt(tmp_path, name, data[:stop]) in ("read", "FileFormatError"), (name, stop)
