"""The schema of the one SQLite file, as numbered migrations. A migration that has shipped is never edited."""

from __future__ import annotations

MIGRATIONS: tuple[str, ...] = (
    # 1: services and replicas, keys, files and batches, the event log
    """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE services (
        name TEXT PRIMARY KEY,
        generation INTEGER NOT NULL,
        manifest TEXT NOT NULL,             -- JSON: {"manifests": [object…], "pvc": {claim: folder}}
        created_s REAL NOT NULL,
        pinned INTEGER,                     -- replicas asked for by hand; NULL leaves it to the autoscaler
        deleting INTEGER NOT NULL DEFAULT 0
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE replicas (
        id TEXT PRIMARY KEY,
        service TEXT NOT NULL,
        generation INTEGER NOT NULL,
        engine TEXT NOT NULL DEFAULT '',
        state TEXT NOT NULL,
        pid INTEGER,
        process_started INTEGER,            -- start time of the process in clock ticks since boot
        boot_id TEXT NOT NULL DEFAULT '',
        port INTEGER NOT NULL DEFAULT 0,
        devices TEXT NOT NULL DEFAULT '[]', -- JSON list
        log_path TEXT NOT NULL DEFAULT '',
        launch TEXT NOT NULL DEFAULT '{}',  -- JSON
        changed_s REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE keys (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        digest BLOB NOT NULL UNIQUE,        -- sha256 of the key; the key itself is kept nowhere
        scope TEXT NOT NULL,
        services TEXT NOT NULL,             -- JSON list; empty is all
        created_s REAL NOT NULL,
        last_used_s REAL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE files (
        id TEXT PRIMARY KEY,
        filename TEXT NOT NULL,
        purpose TEXT NOT NULL,
        num_bytes INTEGER NOT NULL,
        created_s REAL NOT NULL,
        key_id TEXT NOT NULL DEFAULT '',
        content BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE batches (
        id TEXT PRIMARY KEY,
        endpoint TEXT NOT NULL,
        input_file_id TEXT NOT NULL,
        output_file_id TEXT,
        error_file_id TEXT,
        status TEXT NOT NULL,
        key_id TEXT NOT NULL DEFAULT '',
        metadata TEXT NOT NULL DEFAULT '{}',
        times TEXT NOT NULL DEFAULT '{}',   -- JSON: {created_at, in_progress_at, …}
        errors TEXT,
        expires_s REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE batch_rows (
        batch_id TEXT NOT NULL,
        line INTEGER NOT NULL,
        custom_id TEXT NOT NULL,
        request TEXT NOT NULL,
        status INTEGER,                     -- NULL until it was answered
        response TEXT,
        prompt_tokens INTEGER NOT NULL DEFAULT 0,
        completion_tokens INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (batch_id, line)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY,
        wall_time_s REAL NOT NULL,
        monotonic_s REAL NOT NULL,
        boot_id TEXT NOT NULL,
        kind TEXT NOT NULL,
        service TEXT NOT NULL,
        replica TEXT NOT NULL,
        reason TEXT NOT NULL,
        message TEXT NOT NULL,
        devices TEXT NOT NULL,              -- JSON list
        data TEXT NOT NULL                  -- JSON object
    ) STRICT;
    CREATE INDEX events_by_service ON events (service, seq);
    CREATE TABLE requests (
        seq INTEGER PRIMARY KEY,
        request_id TEXT NOT NULL,
        service TEXT NOT NULL,
        key_id TEXT NOT NULL,
        path TEXT NOT NULL,
        stream INTEGER NOT NULL,
        wall_time_s REAL NOT NULL,
        monotonic_s REAL NOT NULL,
        boot_id TEXT NOT NULL,
        outcome TEXT,                       -- NULL while it runs
        status INTEGER,
        replica TEXT,
        prompt_tokens INTEGER,
        completion_tokens INTEGER,
        ttft_s REAL,
        duration_s REAL,
        held_s REAL,
        num_retries INTEGER
    ) STRICT;
    CREATE INDEX requests_running ON requests (seq) WHERE outcome IS NULL;
    """,
    # 2: revoked keys stay for the ledger; files in parts, so that none is in memory whole; what a batch row failed with
    """
    ALTER TABLE keys ADD COLUMN revoked_s REAL;
    DROP TABLE files;
    CREATE TABLE files (
        id TEXT PRIMARY KEY,
        filename TEXT NOT NULL,
        purpose TEXT NOT NULL,
        num_bytes INTEGER NOT NULL,
        created_s REAL NOT NULL,
        expires_s REAL,                     -- NULL is never
        key_id TEXT NOT NULL DEFAULT ''     -- of the key that made it; '' on loopback without keys
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE file_parts (
        file_id TEXT NOT NULL,
        part INTEGER NOT NULL,
        data BLOB NOT NULL,
        PRIMARY KEY (file_id, part)
    ) STRICT;
    ALTER TABLE batches ADD COLUMN created_s REAL NOT NULL DEFAULT 0;
    ALTER TABLE batches ADD COLUMN completion_window TEXT NOT NULL DEFAULT '24h';
    ALTER TABLE batches ADD COLUMN output_expires_after_s REAL;
    ALTER TABLE batch_rows ADD COLUMN service TEXT NOT NULL DEFAULT '';
    ALTER TABLE batch_rows ADD COLUMN error TEXT;   -- JSON: {code, message}; response or error, never both
    """,
    # 3: training runs: as they were declared, and the present attempt of each
    """
    CREATE TABLE runs (
        name TEXT PRIMARY KEY,
        generation INTEGER NOT NULL,
        manifest TEXT NOT NULL,             -- JSON: the object as applied
        created_s REAL NOT NULL,
        deleting INTEGER NOT NULL DEFAULT 0
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE attempts (
        run TEXT PRIMARY KEY,
        mark TEXT NOT NULL,                 -- what its processes carry
        attempt INTEGER NOT NULL,
        state TEXT NOT NULL,
        boot_id TEXT NOT NULL DEFAULT '',
        facts TEXT NOT NULL DEFAULT '{}',   -- JSON: ranks with their processes, devices, failures, device-seconds
        changed_s REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
)
