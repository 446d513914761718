"""What people may say of users: the forms that requests are checked by."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from task_service.domain.password_rules import LENGTH_MAX, LENGTH_MIN
from task_service.domain.permissions import Role
from task_service.schemas.tasks import ABSENT, Input

USERNAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}$"
RESERVED = frozenset({"anonymous", "system"})
"""Names that stand in the history for nobody and for the service itself."""


def check_username(name: str) -> str:
    """Return the name when users may have it.

    >>> check_username("Ada.L")
    'Ada.L'
    >>> check_username("system")
    Traceback (most recent call last):
    ValueError: is a name that the service itself uses
    """
    if not re.fullmatch(USERNAME_PATTERN.strip("^$"), name):
        raise ValueError(
            "must be a letter or digit, then letters, digits and ._@+-, at most 100 characters"
        )
    if name.lower() in RESERVED:
        raise ValueError("is a name that the service itself uses")
    return name


Username = Annotated[
    str,
    AfterValidator(check_username),
    Field(examples=["ada"], json_schema_extra={"pattern": USERNAME_PATTERN}),
]
Secret = Annotated[SecretStr, Field(max_length=1000)]
"""A password as it was typed, whichever it is."""
NewPassword = Annotated[
    SecretStr,
    Field(
        description="Not a common password, and not the user name.",
        json_schema_extra={"minLength": LENGTH_MIN, "maxLength": LENGTH_MAX},
    ),
]


class NewUser(Input):
    """A user to register. Case makes no difference in names."""

    username: Username
    password: NewPassword = Field(examples=["correct horse battery"])
    role: Role = Role.VIEWER


class UserChange(Input):
    """What to change of a user; what is left out stays. Any change ends their log-ins."""

    role: Role = ABSENT
    disabled: Annotated[bool, Field(strict=True)] = ABSENT
    password: NewPassword = ABSENT


class PasswordChange(Input):
    """One's own password."""

    current_password: Secret
    new_password: NewPassword


class RefreshRequest(Input):
    """The refresh token of the last answer."""

    refresh_token: Annotated[SecretStr, Field(max_length=10_000)]
