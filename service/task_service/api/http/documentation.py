"""The pages `/docs` and `/redoc`, with vendored scripts: they load nothing from other hosts.

`scripts/vendor-documentation` renews the files in `documentation_assets/`.
"""

from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.responses import HTMLResponse

from task_service.api.http.headers import CLOSED

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; worker-src blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""Own scripts only. Both pages create styles at run time."""
ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "redoc.standalone.js": "text/javascript",
    "favicon.png": "image/png",
}
REMOTE_LOGO = b"https://cdn.redoc.ly/redoc/logo-mini.svg"
NO_LOGO = b"data:,"
"""Replaces the logo that ReDoc would fetch; it omits one that cannot be shown."""
START = """\
window.ui = SwaggerUIBundle({
  url: document.getElementById("swagger-ui").dataset.url,
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
});
"""
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="{root}/docs/assets/favicon.png">
{head}</head>
<body>
{body}
</body>
</html>
"""
SWAGGER_HEAD = '<link rel="stylesheet" href="{root}/docs/assets/swagger-ui.css">\n'
SWAGGER = """\
<div id="swagger-ui" data-url="{root}/openapi.json"></div>
<script src="{root}/docs/assets/swagger-ui-bundle.js"></script>
<script src="{root}/docs/assets/start.js"></script>"""
REDOC = """\
<redoc spec-url="{root}/openapi.json"></redoc>
<script src="{root}/docs/assets/redoc.standalone.js"></script>"""


def install_documentation(app: FastAPI) -> None:
    """Add the pages to an app without FastAPI's own documentation pages."""
    folder = files(__package__) / "documentation_assets"

    async def docs(request: Request) -> Response:
        return _page(request, f"{app.title}: try the API", SWAGGER_HEAD, SWAGGER)

    async def redoc(request: Request) -> Response:
        return _page(request, f"{app.title}: API reference", "", REDOC)

    async def start(_: Request) -> Response:
        return Response(START, media_type="text/javascript", headers=_cached())

    app.add_route("/docs", docs, include_in_schema=False)
    app.add_route("/redoc", redoc, include_in_schema=False)
    app.add_route("/docs/assets/start.js", start, include_in_schema=False)
    for name, kind in ASSETS.items():
        app.add_route(
            f"/docs/assets/{name}", _asset(Path(str(folder / name)), kind), include_in_schema=False
        )


def _asset(path: Path, kind: str) -> Any:
    async def asset(_: Request) -> Response:
        return Response(_content(path), media_type=kind, headers=_cached())

    return asset


@cache
def _content(path: Path) -> bytes:
    return path.read_bytes().replace(REMOTE_LOGO, NO_LOGO)


def _page(request: Request, title: str, head: str, body: str) -> Response:
    root = escape(request.scope.get("root_path", "").rstrip("/"))
    parts = {"head": head.format(root=root), "body": body.format(root=root)}
    return HTMLResponse(
        PAGE.format(title=escape(title), root=root, **parts),
        headers={"Content-Security-Policy": CSP},
    )


def _cached() -> dict[str, str]:
    return {"Cache-Control": "public, max-age=86400", "Content-Security-Policy": CLOSED.decode()}
