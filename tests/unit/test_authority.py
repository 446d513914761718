"""The test cluster's certificate authority."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cluster.authority import Authority
from tests.cluster.network import Network
from tests.support.skipping import skip_or_fail


def test_nodes_may_ask_for_their_certificates_at_once(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        skip_or_fail("no openssl on this machine (Debian's package is openssl)")
    authority = Authority(tmp_path, Network(0))
    authority.create()
    names = [f"node-{number}" for number in range(16)]
    with ThreadPoolExecutor(len(names)) as pool:
        list(
            pool.map(lambda name: authority.certificate(name, f"/CN={name}", f"DNS:{name}"), names)
        )
    argv = [
        "openssl",
        "verify",
        "-CAfile",
        tmp_path / "ca.crt",
        *(tmp_path / f"{name}.crt" for name in names),
    ]
    assert subprocess.run(argv, capture_output=True, check=False).returncode == 0
    serials = {
        subprocess.check_output(
            ["openssl", "x509", "-serial", "-noout", "-in", tmp_path / f"{n}.crt"]
        )
        for n in names
    }
    assert len(serials) == len(names)
