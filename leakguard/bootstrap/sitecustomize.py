"""Installs leakguard, then steps aside for the ``sitecustomize`` that this one stands in front of.

Python imports it at start-up because ``leakguard run`` put its directory on ``PYTHONPATH``. Whatever goes wrong with
leakguard, the application starts.
"""

import os
import sys

_here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != _here]

try:
    from leakguard import bootstrap
except Exception as error:  # another interpreter than the one that leakguard is installed for
    print(
        f"leakguard: {sys.executable} runs unguarded: it cannot import leakguard ({error}). "
        f"Install leakguard there, or name the interpreter that has it: leakguard run -- /path/to/python ...",
        file=sys.stderr,
    )
else:
    try:
        bootstrap.start()
    except Exception as error:  # an environment that turned bad: the application is not to suffer for it
        bootstrap.explain(error)

# The user's own sitecustomize, as if ours did not exist; what it raises is shown by Python as ever.
_ours = sys.modules.pop("sitecustomize", None)
try:
    import sitecustomize as _theirs  # type: ignore[import-not-found]  # noqa: F401
except ImportError as error:
    if getattr(error, "name", None) != "sitecustomize":
        raise
finally:
    if _ours is not None:
        sys.modules.setdefault("sitecustomize", _ours)
