"""The package's pages."""

from .db import Repository


def basket(count):
    with Repository() as repository:
        return "basket: " + str(repository.value("SELECT %s::int * 5", count))


def invoice(number):
    with Repository() as repository:
        return repository.value("SELECT 'invoice ' || %s::int", number)
