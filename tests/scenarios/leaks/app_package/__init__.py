"""A shop in a package of several modules: the leak is in one of them, and two others lead to it."""
