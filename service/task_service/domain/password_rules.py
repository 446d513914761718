"""Password rules: length, characters, and common passwords that are refused."""

import unicodedata

LENGTH_MIN, LENGTH_MAX = 8, 128
COMMON_TEXT = """
password passw0rd password1 password12 password123 passwort p@ssw0rd p@ssword 12345678 123456789
1234567890 87654321 11111111 00000000 qwertyui qwerty123 qwertyuiop 1q2w3e4r 1qaz2wsx abcdefgh
abcd1234 abc12345 iloveyou sunshine princess football baseball superman trustno1 whatever changeme
changeit changethis letmein1 welcome1 admin123 admin1234 administrator adminadmin rootroot
secret123 testtest test1234 default1 taskservice
"""
COMMON = frozenset(COMMON_TEXT.split())


def normalise(password: str) -> str:
    """Normalise equivalent Unicode characters (NFKC).

    >>> normalise("A" + chr(0x30A)) == normalise(chr(0xC5))
    True
    """
    return unicodedata.normalize("NFKC", password)


def check_password(password: str, username: str) -> str:
    """Return the normalised password. Raises ValueError, which does not contain it, if weak.

    >>> check_password("correct horse", "ada")
    'correct horse'
    >>> check_password("changeme", "ada")
    Traceback (most recent call last):
    ValueError: is one of the most common passwords
    """
    try:
        password = normalise(password)
        password.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode (a lone surrogate is not)") from None
    if not LENGTH_MIN <= len(password) <= LENGTH_MAX:
        raise ValueError(f"must have {LENGTH_MIN} to {LENGTH_MAX} characters")
    if any(unicodedata.category(c) == "Cc" for c in password):
        raise ValueError("must not contain control characters")
    folded = password.casefold()
    if folded in COMMON or len(set(folded)) < 3:
        raise ValueError("is one of the most common passwords")
    if folded == username.casefold():
        raise ValueError("must not be the user name")
    return password
