"""Threads of compiled loops."""

from __future__ import annotations

import subprocess
import sys

import numba
import torch

from mrfq.kernels import GRAIN, threads_for

FRESH = """
import torch
torch.set_num_threads(1)
from mrfq.kernels import threads_for
with threads_for(10**12) as count:
    assert count == 1, count
assert torch.get_num_threads() == 1, torch.get_num_threads()
"""


def test_small_work_gets_one_thread_and_large_work_no_more_than_torch_has() -> None:
    before = numba.get_num_threads(), torch.get_num_threads()
    with threads_for(GRAIN - 1) as count:
        assert count == numba.get_num_threads() == 1
    with threads_for(GRAIN * 1000) as count:
        assert count == numba.get_num_threads() == min(before)
    assert (numba.get_num_threads(), torch.get_num_threads()) == before


def test_the_number_of_torch_stays_in_a_process_in_which_numba_has_not_run_yet() -> None:
    subprocess.run([sys.executable, "-c", FRESH], check=True)
