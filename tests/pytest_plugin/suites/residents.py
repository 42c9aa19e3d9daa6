"""Tests that leak through a thread that is older than they are."""

import concurrent.futures
import os

import psycopg
import pytest

DSN = os.environ["DSN"]
KEPT = []


@pytest.fixture(scope="session")
def executor():
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        executor.submit(int).result()
        yield executor


def test_first(executor):
    pass


def test_leaks_by_keeping(executor):
    executor.submit(lambda: KEPT.append(psycopg.connect(DSN))).result()


def test_leaks_by_drop(executor):
    def work():
        psycopg.connect(DSN)

    executor.submit(work).result()


def test_dropped_three_tests_later_leaks(executor):
    executor.submit(lambda: KEPT.append(psycopg.connect(DSN))).result()
    test_dropped_three_tests_later_leaks.mine = KEPT.pop()


def test_between(executor):
    pass


def test_innocent(executor):
    vars(test_dropped_three_tests_later_leaks).pop("mine", None)  # in another process under xdist
