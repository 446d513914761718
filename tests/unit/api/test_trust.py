"""Who may call `/internal`: every way in which a token can be wrong."""

import os
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from task_service.api.auth.trusted_issuers import (
    InternalClosedError,
    Trust,
)
from task_service.domain.errors import ForbiddenError, UnauthorizedError
from tests.support.tokens import SUBJECT, TokenIssuer, unsigned_token, write_trust

NOW = int(time.time())


@pytest.fixture(scope="module")
def issuer() -> TokenIssuer:
    return TokenIssuer()


@pytest.fixture
def trust(tmp_path: Path, issuer: TokenIssuer) -> Trust:
    return Trust(write_trust(tmp_path / "issuers.json", issuer.entry()))


def ask(trust: Trust, token: str) -> str:
    return trust.authenticate(f"Bearer {token}", "operator").subject


def test_a_good_token_is_let_in(trust: Trust, issuer: TokenIssuer) -> None:
    assert ask(trust, issuer.token()) == SUBJECT
    assert trust.authenticate(f"bearer {issuer.token()}", "operator").role == "operator"


def test_elliptic_keys_work_too(tmp_path: Path) -> None:
    issuer = TokenIssuer("ec", "ES256")
    assert ask(Trust(write_trust(tmp_path / "t.json", issuer.entry())), issuer.token()) == SUBJECT


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": NOW - 60},
        {"exp": None},
        {"nbf": NOW + 86_400},
        {"aud": ["task-service/other/demo"]},
        {"aud": None},
        {"iss": "https://elsewhere"},
        {"iss": None},
        {"iss": ["https://kubernetes.default.svc"]},
        {"sub": None},
        {"headers": {"kid": "two"}},
        {"headers": {"kid": None}},
        {"headers": {"crit": ["x"], "x": 1}},
        {"exp": "later"},
    ],
    ids=str,
)
def test_a_wrong_token_is_refused(
    trust: Trust, issuer: TokenIssuer, claims: dict[str, Any]
) -> None:
    with pytest.raises(UnauthorizedError):
        ask(trust, issuer.token(**claims))


def test_a_token_that_another_key_signed_is_refused(trust: Trust) -> None:
    with pytest.raises(UnauthorizedError):
        ask(trust, TokenIssuer("one").token())


def test_other_algorithms_are_refused(trust: Trust, issuer: TokenIssuer) -> None:
    claims = jwt.decode(issuer.token(), options={"verify_signature": False})
    for token in (
        unsigned_token(claims, kid="one"),
        jwt.encode(claims, "s" * 64, "HS256", headers={"kid": "one"}),
        jwt.encode(claims, TokenIssuer("one", "ES256").key, "ES256", headers={"kid": "one"}),
        jwt.encode(claims, issuer.key, "RS512", headers={"kid": "one"}),
    ):
        with pytest.raises(UnauthorizedError):
            ask(trust, token)


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer a.b.c", "Bearer x", "x" * 10_000]
)
def test_what_is_no_token_is_refused(trust: Trust, header: str | None) -> None:
    with pytest.raises(UnauthorizedError):
        trust.authenticate(header, "operator")


def test_another_account_or_role_is_forbidden(
    tmp_path: Path, trust: Trust, issuer: TokenIssuer
) -> None:
    with pytest.raises(ForbiddenError):
        ask(trust, issuer.token(sub="system:serviceaccount:operators:other"))
    viewer = Trust(write_trust(tmp_path / "viewer.json", issuer.entry(role="viewer")))
    with pytest.raises(ForbiddenError):
        ask(viewer, issuer.token())


def test_without_a_file_or_issuers_everything_is_closed(
    tmp_path: Path, issuer: TokenIssuer
) -> None:
    for path in (None, tmp_path / "missing.json", write_trust(tmp_path / "empty.json")):
        with pytest.raises(InternalClosedError):
            ask(Trust(path), issuer.token())


def test_one_issuer_may_serve_several_audiences(tmp_path: Path, issuer: TokenIssuer) -> None:
    other = issuer.entry(
        audience="task-service/tenant/other", subject="system:serviceaccount:other:operator"
    )
    trust = Trust(write_trust(tmp_path / "t.json", other, issuer.entry()))
    assert ask(trust, issuer.token()) == SUBJECT
    with pytest.raises(ForbiddenError):
        ask(trust, issuer.token(aud=["task-service/tenant/other"]))


def test_a_rotated_key_is_found_without_a_restart(tmp_path: Path, issuer: TokenIssuer) -> None:
    path = write_trust(tmp_path / "t.json", issuer.entry())
    trust, new = Trust(path), TokenIssuer("two")
    assert ask(trust, issuer.token()) == SUBJECT
    with pytest.raises(UnauthorizedError):
        ask(trust, new.token())
    write_trust(path, new.entry())
    assert ask(trust, new.token()) == SUBJECT
    with pytest.raises(UnauthorizedError):
        ask(trust, issuer.token())


def test_an_unknown_key_is_looked_for_even_in_a_file_that_looks_unchanged(
    tmp_path: Path, issuer: TokenIssuer
) -> None:
    path = write_trust(tmp_path / "t.json", issuer.entry())
    trust, new = Trust(path), TokenIssuer("two")
    assert ask(trust, issuer.token()) == SUBJECT
    before = path.stat()
    with path.open("r+") as file:  # the same inode; size and time are put back
        old = file.read()
        fresh = write_trust(tmp_path / "other.json", new.entry()).read_text()
        file.seek(0)
        file.write(fresh.ljust(len(old)))
        file.truncate(max(len(old), len(fresh)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert ask(trust, new.token()) == SUBJECT


def test_a_broken_file_keeps_the_last_good_keys_and_a_missing_one_closes(
    tmp_path: Path, issuer: TokenIssuer
) -> None:
    path = write_trust(tmp_path / "t.json", issuer.entry())
    trust = Trust(path)
    assert ask(trust, issuer.token()) == SUBJECT
    path.write_text("{")
    assert ask(trust, issuer.token()) == SUBJECT
    path.write_text('{"issuers": [{"issuer": 1}]}')
    assert ask(trust, issuer.token()) == SUBJECT
    path.unlink()
    with pytest.raises(InternalClosedError):
        ask(trust, issuer.token())


def test_unusable_keys_in_the_file_harm_nobody(tmp_path: Path, issuer: TokenIssuer) -> None:
    keys = [
        {"kid": "one"},
        {"kid": "two", "kty": "RSA"},
        {"kty": "EC", "kid": "three", "crv": "P-256", "x": "!", "y": "!"},
    ]
    trust = Trust(
        write_trust(tmp_path / "t.json", issuer.entry(jwks={"keys": keys}), issuer.entry())
    )
    assert ask(trust, issuer.token()) == SUBJECT
    for key_id in ("two", "three"):
        with pytest.raises(UnauthorizedError):
            ask(trust, issuer.token(headers={"kid": key_id}))
