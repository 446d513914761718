"""Triggers that make chosen tables fail as on a full disk."""

SIMULATE_FULL_DISK = """
CREATE TABLE disk (full_tables text[] NOT NULL);
INSERT INTO disk VALUES ('{}');
CREATE FUNCTION refuse_when_full() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = ANY (SELECT unnest(full_tables) FROM disk) THEN
        RAISE 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON tasks
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_when_full();
CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON queue
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_when_full();
CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON runs
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_when_full();
CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON workers
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_when_full();
"""
SET_FULL_TABLES = "UPDATE disk SET full_tables = $1"
