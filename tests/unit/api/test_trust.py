"""Access to `/internal`: every way in which a token can be invalid."""

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


def authenticate(trust: Trust, token: str) -> str:
    return trust.authenticate(f"Bearer {token}", "operator").subject


def test_valid_token_is_accepted(trust: Trust, issuer: TokenIssuer) -> None:
    assert authenticate(trust, issuer.token()) == SUBJECT
    assert trust.authenticate(f"bearer {issuer.token()}", "operator").role == "operator"


def test_elliptic_curve_keys_are_accepted(tmp_path: Path) -> None:
    issuer = TokenIssuer("ec", "ES256")
    assert (
        authenticate(Trust(write_trust(tmp_path / "t.json", issuer.entry())), issuer.token())
        == SUBJECT
    )


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
def test_invalid_token_is_rejected(
    trust: Trust, issuer: TokenIssuer, claims: dict[str, Any]
) -> None:
    with pytest.raises(UnauthorizedError):
        authenticate(trust, issuer.token(**claims))


def test_token_of_another_key_is_rejected(trust: Trust) -> None:
    with pytest.raises(UnauthorizedError):
        authenticate(trust, TokenIssuer("one").token())


def test_other_algorithms_are_rejected(trust: Trust, issuer: TokenIssuer) -> None:
    claims = jwt.decode(issuer.token(), options={"verify_signature": False})
    for token in (
        unsigned_token(claims, kid="one"),
        jwt.encode(claims, "s" * 64, "HS256", headers={"kid": "one"}),
        jwt.encode(claims, TokenIssuer("one", "ES256").key, "ES256", headers={"kid": "one"}),
        jwt.encode(claims, issuer.key, "RS512", headers={"kid": "one"}),
    ):
        with pytest.raises(UnauthorizedError):
            authenticate(trust, token)


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer a.b.c", "Bearer x", "x" * 10_000]
)
def test_malformed_authorization_header_is_rejected(trust: Trust, header: str | None) -> None:
    with pytest.raises(UnauthorizedError):
        trust.authenticate(header, "operator")


def test_another_subject_or_role_is_forbidden(
    tmp_path: Path, trust: Trust, issuer: TokenIssuer
) -> None:
    with pytest.raises(ForbiddenError):
        authenticate(trust, issuer.token(sub="system:serviceaccount:operators:other"))
    viewer = Trust(write_trust(tmp_path / "viewer.json", issuer.entry(role="viewer")))
    with pytest.raises(ForbiddenError):
        authenticate(viewer, issuer.token())


def test_internal_api_is_closed_without_trusted_issuers(
    tmp_path: Path, issuer: TokenIssuer
) -> None:
    for path in (None, tmp_path / "missing.json", write_trust(tmp_path / "empty.json")):
        with pytest.raises(InternalClosedError):
            authenticate(Trust(path), issuer.token())


def test_one_issuer_may_serve_several_audiences(tmp_path: Path, issuer: TokenIssuer) -> None:
    other = issuer.entry(
        audience="task-service/tenant/other", subject="system:serviceaccount:other:operator"
    )
    trust = Trust(write_trust(tmp_path / "t.json", other, issuer.entry()))
    assert authenticate(trust, issuer.token()) == SUBJECT
    with pytest.raises(ForbiddenError):
        authenticate(trust, issuer.token(aud=["task-service/tenant/other"]))


def test_rotated_key_is_loaded_without_a_restart(tmp_path: Path, issuer: TokenIssuer) -> None:
    path = write_trust(tmp_path / "t.json", issuer.entry())
    trust, new = Trust(path), TokenIssuer("two")
    assert authenticate(trust, issuer.token()) == SUBJECT
    with pytest.raises(UnauthorizedError):
        authenticate(trust, new.token())
    write_trust(path, new.entry())
    assert authenticate(trust, new.token()) == SUBJECT
    with pytest.raises(UnauthorizedError):
        authenticate(trust, issuer.token())


def test_unknown_key_reloads_a_file_that_looks_unchanged(
    tmp_path: Path, issuer: TokenIssuer
) -> None:
    path = write_trust(tmp_path / "t.json", issuer.entry())
    trust, new = Trust(path), TokenIssuer("two")
    assert authenticate(trust, issuer.token()) == SUBJECT
    before = path.stat()
    with path.open("r+") as file:  # the same inode, with size and times restored
        old = file.read()
        fresh = write_trust(tmp_path / "other.json", new.entry()).read_text()
        file.seek(0)
        file.write(fresh.ljust(len(old)))
        file.truncate(max(len(old), len(fresh)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert authenticate(trust, new.token()) == SUBJECT


def test_invalid_file_keeps_the_last_keys_and_a_missing_one_closes(
    tmp_path: Path, issuer: TokenIssuer
) -> None:
    path = write_trust(tmp_path / "t.json", issuer.entry())
    trust = Trust(path)
    assert authenticate(trust, issuer.token()) == SUBJECT
    path.write_text("{")
    assert authenticate(trust, issuer.token()) == SUBJECT
    path.write_text('{"issuers": [{"issuer": 1}]}')
    assert authenticate(trust, issuer.token()) == SUBJECT
    path.unlink()
    with pytest.raises(InternalClosedError):
        authenticate(trust, issuer.token())


def test_unusable_keys_in_the_file_are_ignored(tmp_path: Path, issuer: TokenIssuer) -> None:
    keys = [
        {"kid": "one"},
        {"kid": "two", "kty": "RSA"},
        {"kty": "EC", "kid": "three", "crv": "P-256", "x": "!", "y": "!"},
    ]
    trust = Trust(
        write_trust(tmp_path / "t.json", issuer.entry(jwks={"keys": keys}), issuer.entry())
    )
    assert authenticate(trust, issuer.token()) == SUBJECT
    for key_id in ("two", "three"):
        with pytest.raises(UnauthorizedError):
            authenticate(trust, issuer.token(headers={"kid": key_id}))
