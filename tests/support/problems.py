"""What a refusal must look like."""

import httpx


def check_field(answer: httpx.Response, field: str) -> str:
    """The answer is a 422 that names the field, or one inside it; return what it says of it."""
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert problem["code"] == "invalid_field"
    said = {e["field"]: e["message"] for e in problem["errors"]}
    named = [
        message for name, message in said.items() if name == field or name.startswith(f"{field}.")
    ]
    assert named, f"{field} is not named in {said}"
    return str(named[0])
