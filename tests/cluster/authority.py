"""The cluster's certificate authority, and the kubeconfigs that it makes possible."""

import base64
import json
import secrets
from pathlib import Path

from tests.cluster.machine import sh
from tests.cluster.network import Network

CURVE = ("-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
API_NAMES = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
)


class Authority:
    """Keys and certificates in one folder: NAME.key, NAME.crt, NAME.kubeconfig."""

    def __init__(self, folder: Path, network: Network) -> None:
        self.folder, self.network = folder, network

    def create(self) -> None:
        """Make the authority, the signing key of service accounts, and the control plane's
        certificates.
        """
        folder, network = self.folder, self.network
        ca = (
            "-keyout",
            folder / "ca.key",
            "-out",
            folder / "ca.crt",
            "-days",
            "3650",
            "-subj",
            "/CN=cluster-ca",
        )
        usage = (
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        )  # Python 3.13 refuses an authority without it
        sh("openssl", "req", "-x509", "-newkey", "ec", *CURVE, *ca, *usage)
        sh("openssl", "genrsa", "-out", folder / "sa.key", "2048")
        sh("openssl", "rsa", "-in", folder / "sa.key", "-pubout", "-out", folder / "sa.pub")
        addresses = [f"IP:{ip}" for ip in (network.control_ip, network.api_ip, "127.0.0.1")]
        self.certificate(
            "apiserver",
            "/CN=kube-apiserver",
            ",".join(addresses + [f"DNS:{name}" for name in API_NAMES]),
        )
        self.certificate("admin", "/O=system:masters/CN=admin", "DNS:admin")
        for name in ("kube-controller-manager", "kube-scheduler", "kube-proxy"):
            self.certificate(name, f"/CN=system:{name}", f"DNS:{name}")
        self.certificate("front-proxy", "/CN=front-proxy", "DNS:front-proxy")

    def certificate(self, name: str, subject: str, names: str) -> None:
        """Make NAME.key and NAME.crt; `names` are the subject's alternative names as openssl writes
        them.
        """
        key, csr, crt, ext = (
            self.folder / f"{name}.{suffix}" for suffix in ("key", "csr", "crt", "ext")
        )
        sh("openssl", "req", "-newkey", "ec", *CURVE, "-keyout", key, "-out", csr, "-subj", subject)
        ext.write_text(
            f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\nauthorityKeyIdentifier=keyid\n"
        )
        # A serial number of its own: openssl's file of the next one is torn when two nodes ask at
        # once.
        serial = f"0x{secrets.token_hex(16)}"
        issuer = (
            "-CA",
            self.folder / "ca.crt",
            "-CAkey",
            self.folder / "ca.key",
            "-set_serial",
            serial,
        )
        sh(
            "openssl",
            "x509",
            "-req",
            "-in",
            csr,
            *issuer,
            "-days",
            "3650",
            "-out",
            crt,
            "-extfile",
            ext,
        )

    def kubeconfig(self, user: str) -> Path:
        """Write and return USER.kubeconfig."""
        path = self.folder / f"{user}.kubeconfig"
        server = {
            "server": f"https://{self.network.control_ip}:6443",
            "certificate-authority-data": self._base64("ca.crt"),
        }
        client = {
            "client-certificate-data": self._base64(f"{user}.crt"),
            "client-key-data": self._base64(f"{user}.key"),
        }
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "default",
                    "clusters": [{"name": "local", "cluster": server}],
                    "users": [{"name": user, "user": client}],
                    "contexts": [
                        {"name": "default", "context": {"cluster": "local", "user": user}}
                    ],
                }
            )
        )
        return path

    def _base64(self, name: str) -> str:
        return base64.b64encode((self.folder / name).read_bytes()).decode()
