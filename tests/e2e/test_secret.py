"""A missing Secret sets a condition, and the TaskService recovers when it is created."""

from tests.support.e2e.environment import SECRET, Environment, condition, secret, small
from tests.support.e2e.installation import Installation


def test_missing_secret_sets_a_condition_until_it_is_created(environment: Environment) -> None:
    installation = Installation.prepare(environment, "no-secret", with_secret=False)
    installation.apply(**small())
    reason = "jsonpath={.status.conditions[?(@.type=='Ready')].reason}=SecretNotFound"
    installation.kube.wait(installation.target, reason)
    message = condition(installation.live(), "Ready")["message"]
    assert message.startswith(f"Secret {SECRET}, named in spec.database.secretRef, does not exist")
    installation.kube.apply(secret(installation.database_url))
    installation.until_ready()
    (task,) = installation.create(1, "noop")
    assert installation.until_ended([task])[task][0].outcome == "completed"
    installation.kube.run("delete", "namespace", installation.kube.namespace, "--wait=false")
    installation.close()
