"""What a pkcs11: URI may say, and that no message repeats what may be a PIN."""

from __future__ import annotations

import pytest

from keybroker.masterkey.tokenuri import EXAMPLE, TokenUri
from keybroker.wire.problems import KeybrokerError, Problem

MODULE = "?module-path=/usr/lib/p11.so&pin-source=file:/etc/pin"


def test_a_uri_names_token_key_module_and_pin() -> None:
    read = TokenUri.parse(
        "pkcs11:token=My%20token;serial=12ab;object=k%C3%A9y;id=%01%ff;type=secret-key"
        "?module-path=/usr/lib/p11.so&pin-source=/etc/pin"
    )
    assert read == TokenUri("My token", b"12ab", "kéy", b"\x01\xff", "/usr/lib/p11.so", "file:/etc/pin")
    assert TokenUri.parse(EXAMPLE).label == "master-1"
    assert str(TokenUri.parse(f"pkcs11:serial=7;id=%0a{MODULE}")) == "token 7: key 0a"


@pytest.mark.parametrize(
    ("uri", "what"),
    [
        ("pkcs11:", "does not say which token"),
        (f"pkcs11:object=k{MODULE}", "does not say which token"),
        (f"pkcs11:token=t{MODULE}", "does not say which key"),
        ("pkcs11:token=t;object=k", "module-path must be an absolute path"),
        (
            "pkcs11:token=t;object=k?module-path=p11.so&pin-source=/pin",
            "module-path must be an absolute path",
        ),
        ("pkcs11:token=t;object=k?module-path=/p11.so", "pin-source must be"),
        ("pkcs11:token=t;object=k?module-path=/p11.so&pin-source=pin", "pin-source must be"),
        ("pkcs11:token=t;object=k?module-path=/p11.so&pin-source=|/bin/pin", "percent-encoded"),
        (f"pkcs11:token=t;object=k;type=private{MODULE}", "type is not secret-key"),
        (f"pkcs11:token=t;object=k;object=l{MODULE}", "object is there twice"),
        (f"pkcs11:token=t;object={MODULE}", "object has no value"),
        (f"pkcs11:token=t;object=%zz{MODULE}", "percent-encoded"),
        (f"pkcs11:token=t;object=%ff{MODULE}", "object is not UTF-8"),
        (f"pkcs11:token=t;object=%0a{MODULE}", "cannot be printed"),
        (f"pkcs11:token=t;object=k;slot-id=1{MODULE}", "'slot-id' is not known"),
        (f"pkcs11:token=t;object=k{MODULE}&pin-value=4711", "a PIN does not belong into it"),
        (f"pkcs11:token=t;object=k;pin-value=4711{MODULE}", "a PIN does not belong into it"),
        ("file:/k", "is no pkcs11: URI"),
    ],
)
def test_any_other_uri_is_refused(uri: str, what: str) -> None:
    with pytest.raises(KeybrokerError) as caught:
        TokenUri.parse(uri)
    assert caught.value.problem is Problem.CONFIGURATION
    assert what in caught.value.detail
    assert "4711" not in str(caught.value)
