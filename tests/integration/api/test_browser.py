"""`/docs` and `/redoc` in a real browser: they render, without errors or external requests."""

from collections.abc import Iterator

import pytest

from tests.support.api_process import ApiProcess, api_processes
from tests.support.browser import Browser, browser
from tests.support.secured_app import PASSWORD
from tests.support.secured_processes import log_in_admin, secured_settings

AUTHORIZE = "document.querySelector('.auth-wrapper .btn.authorize')"
FILL = """
for (const [id, value] of Object.entries({values})) {{
  const input = document.getElementById(id);
  Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(input, value);
  input.dispatchEvent(new Event('input', {{bubbles: true}}));
}}
"""


@pytest.fixture
def process(database: str) -> Iterator[ApiProcess]:
    with api_processes(1, **secured_settings(database)) as [started]:
        yield started


@pytest.fixture
def page() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def check_no_errors(page: Browser, process: ApiProcess) -> None:
    """Assert that the page logged no errors and requested nothing from other hosts."""
    assert page.complaints == []
    assert page.requests
    others = [
        url for url in page.requests if not url.startswith((f"{process.url}/", "data:", "blob:"))
    ]
    assert others == []


def test_swagger_ui_renders_and_its_authorize_dialog_logs_in(
    page: Browser, process: ApiProcess
) -> None:
    log_in_admin(process)
    page.open(f"{process.url}/docs")
    page.wait_for(f"{AUTHORIZE} !== null")
    assert page.wait_for("document.querySelectorAll('.opblock').length") > 40
    page.run(f"{AUTHORIZE}.click()")
    page.wait_for("document.getElementById('oauth_username') !== null")
    page.run(FILL.format(values={"oauth_username": "root", "oauth_password": PASSWORD}))
    page.run("document.querySelector('.auth-btn-wrapper .authorize').click()")
    page.wait_for(
        "[...document.querySelectorAll('.auth-btn-wrapper button')].some(b => b.innerText === 'Logout')"
    )
    assert (
        page.run("JSON.stringify(window.ui.authSelectors.authorized())").count("access_token") >= 1
    )
    assert f"{process.url}/api/v1/auth/token" in page.requests
    check_no_errors(page, process)


def test_redoc_renders(page: Browser, process: ApiProcess) -> None:
    page.open(f"{process.url}/redoc")
    page.wait_for("document.querySelectorAll('[data-section-id]').length > 40")
    assert "Create a task" in page.run("document.body.innerText")
    check_no_errors(page, process)
