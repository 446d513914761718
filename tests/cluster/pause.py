"""The pods' sandbox image, made from one static binary: an OCI archive by hand."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

NAME = "localhost/pause:1"


def write_pause_archive(binary: Path, target: Path) -> None:
    """Write an OCI archive with `binary` as /pause."""
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {
            "mediaType": f"application/vnd.oci.image.{media_type}",
            "digest": f"sha256:{digest}",
            "size": len(data),
        }

    layer = blob(_tar({"pause": binary.read_bytes()}), "layer.v1.tar")
    config = blob(
        _json(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Entrypoint": ["/pause"]},
                "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
            }
        ),
        "config.v1+json",
    )
    manifest = blob(
        _json({"schemaVersion": 2, "config": config, "layers": [layer]}), "manifest.v1+json"
    )
    index = {
        "schemaVersion": 2,
        "manifests": [manifest | {"annotations": {"io.containerd.image.name": NAME}}],
    }
    files = {f"blobs/sha256/{digest}": data for digest, data in blobs.items()}
    target.write_bytes(
        _tar(
            files
            | {"index.json": _json(index), "oci-layout": _json({"imageLayoutVersion": "1.0.0"})}
        )
    )


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
