"""The page as HTML: one file with its style and script inside, which asks the network for nothing.

Style and script are the same for every page, so a Content-Security-Policy names them by their hashes; whatever else a
page held could neither run nor be loaded. Foreign strings come into the markup through Jinja2's autoescape alone, and
into the script's elements as text.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from leakguard.errors import LeakguardError
from leakguard.html.data import to_data, to_json
from leakguard.html.page import Page
from leakguard.version import __version__

if TYPE_CHECKING:
    import jinja2

_SCRIPTS: Final = ("dom.js", "rows.js", "chart.js", "track.js", "detail.js", "app.js")
_PLAIN: Final = 200
"""How many places a page shows where its script cannot run."""


class MissingJinjaError(LeakguardError, ImportError):
    """Jinja2 is not installed."""


@dataclass(frozen=True, slots=True)
class _Assets:
    template: jinja2.Template
    style: str
    script: str

    def policy(self, *, live: bool) -> str:
        """The Content-Security-Policy of a page; a live one may fetch its own data again."""
        allowed = ["default-src 'none'", f"style-src {_hash(self.style)}", f"script-src {_hash(self.script)}"]
        allowed += ["connect-src 'self'"] if live else []
        return "; ".join([*allowed, "base-uri 'none'", "form-action 'none'"])


def require() -> None:
    """Raise MissingJinjaError where no page can be made."""
    _assets()


def policy(*, live: bool) -> str:
    """The Content-Security-Policy that a page of this kind needs, and no more."""
    return _assets().policy(live=live)


def to_html(page: Page) -> str:
    """The page. Raises MissingJinjaError."""
    import markupsafe

    assets, data = _assets(), to_data(page)
    return assets.template.render(
        page=data,
        plain=_PLAIN,
        data=markupsafe.Markup(to_json(data)),
        style=markupsafe.Markup(assets.style),
        script=markupsafe.Markup(assets.script),
        policy=assets.policy(live=page.live),
        version=__version__,
    )


@cache
def _assets() -> _Assets:
    try:
        import jinja2
    except ImportError:
        raise MissingJinjaError("needs Jinja2: pip install 'leakguard[html]'") from None
    directory = files("leakguard.html") / "assets"
    read = {file.name: file.read_text(encoding="utf-8") for file in directory.iterdir()}
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    pieces = "\n".join(read[name] for name in _SCRIPTS)
    return _Assets(
        template=environment.from_string(read["page.html"]),
        style=read["page.css"],
        script=f'"use strict";\n(() => {{\n{pieces}\n}})();',
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
