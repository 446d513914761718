"""Upgrades under load: migration, then rollout; a failed migration changes nothing."""

from tests.support.e2e.environment import condition
from tests.support.e2e.installation import Installation
from tests.support.e2e.load import Load, Tally

LONGER_SECONDS = 8


def check_requests_and_tasks(demo: Installation, tally: Tally) -> None:
    assert not tally.failures
    assert tally.created
    attempts = demo.until_ended(tally.created)
    assert {(len(runs), runs[-1].outcome) for runs in attempts.values()} == {(1, "completed")}
    assert set(map(tuple, demo.effects(tally.created).values())) == {("begin", "end")}


def columns(demo: Installation) -> set[str]:
    rows = demo.query(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'tasks'"
    )
    return {name for (name,) in rows}


def versions(demo: Installation) -> set[str]:
    return {
        version for (version,) in demo.query("SELECT version FROM workers WHERE state <> 'dead'")
    }


def test_upgrade_with_a_migration_fails_no_request_and_repeats_no_task(
    demo: Installation,
) -> None:
    demo.require_direct_url()
    with Load(demo.url) as tally:
        longer = demo.create(4, "side_effect", {"seconds": LONGER_SECONDS})
        demo.set_image("2")
        demo.until_ready()
        demo.until_old_pods_are_gone()
        demo.until_workers()
    check_requests_and_tasks(demo, tally)
    assert "color" in columns(demo)
    assert versions(demo) == {"2"}
    assert demo.live()["status"]["version"] == "2"
    assert set(map(tuple, demo.effects(longer).values())) == {("begin", "end")}, (
        "long tasks end within the grace period"
    )


def test_old_version_keeps_serving_after_a_failed_migration(
    demo: Installation,
) -> None:
    demo.require_direct_url()
    before = demo.live()["spec"]["image"]["tag"]
    with Load(demo.url) as tally:
        demo.set_image("3")
        demo.kube.wait(
            demo.target,
            "jsonpath={.status.conditions[?(@.type=='Ready')].reason}=MigrationFailed",
            60,
        )
        live = demo.live()
        assert "this migration fails on purpose" in condition(live, "Migrated")["message"]
        assert condition(live, "Degraded")["status"] == "True"
        assert live["status"]["version"] == before
        row = demo.kube.run("get", "taskservices").splitlines()[1]
        assert "MigrationFailed" in row
        assert "flavour" not in columns(demo)
        demo.set_image(before)
        demo.until_ready()
        demo.until_old_pods_are_gone()
    check_requests_and_tasks(demo, tally)
    assert versions(demo) == {before}
