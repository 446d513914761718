"""Tests of the test cluster's certificate authority."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cryptography import x509

from tests.cluster.authority import Authority
from tests.cluster.network import Network
from tests.support.skipping import skip_or_fail


def test_concurrent_requests_get_valid_certificates_with_different_serials(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        skip_or_fail("openssl is not installed (Debian package openssl)")
    authority = Authority(tmp_path, Network(0))
    authority.create()
    names = [f"node-{number}" for number in range(16)]
    with ThreadPoolExecutor(len(names)) as pool:
        list(
            pool.map(lambda name: authority.certificate(name, f"/CN={name}", f"DNS:{name}"), names)
        )
    files = [tmp_path / f"{name}.crt" for name in names]
    command = ["openssl", "verify", "-CAfile", str(tmp_path / "ca.crt"), *map(str, files)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    serials = {x509.load_pem_x509_certificate(file.read_bytes()).serial_number for file in files}
    assert len(serials) == len(names)
