"""A Secret that does not exist becomes a condition, and heals when it appears."""

from tests.e2e.installation import Installation
from tests.e2e.stage import SECRET, Stage, condition, secret, small


def test_a_missing_secret_is_a_condition_until_it_appears(stage: Stage) -> None:
    installation = Installation.prepare(stage, "no-secret", with_secret=False)
    installation.apply(**small())
    reason = "jsonpath={.status.conditions[?(@.type=='Ready')].reason}=SecretNotFound"
    installation.kube.wait(installation.target, reason)
    said = condition(installation.live(), "Ready")["message"]
    assert said.startswith(f"Secret {SECRET}, named in spec.database.secretRef, does not exist")
    installation.kube.apply(secret(installation.database_url))
    installation.until_ready()
    (task,) = installation.create(1, "noop")
    assert installation.until_ended([task])[task][0].outcome == "completed"
    installation.kube.run("delete", "namespace", installation.kube.namespace, "--wait=false")
    installation.close()
