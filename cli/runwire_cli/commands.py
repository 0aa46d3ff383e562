"""The commands by name and in a line each, in the groups in which the whole and the bare install list them."""

GROUPS = {
    "Start": {
        "demo": "train on real images, kill a rank, see that nothing is lost",
        "up": "read the log into the database; serve SQL and metrics",
    },
    "Look": {
        "runs": "list the runs",
        "show": "show everything about one run",
        "watch": "watch runs train, live: states, pace, curves",
        "sql": "answer one SELECT",
        "shell": "open a snapshot in the duckdb shell: any SQL",
        "verify": "print a run's receipt: sent, stored, dead, lost, missing",
    },
    "Change and keep": {
        "edit": "change a run's name, group, tags or note",
        "delete": "delete runs: their data goes for good, their late rows too",
        "export": "write a run into Parquet, CSV or JSON files",
        "archive": "write runs into checked Parquet files; may delete them then",
    },
    "Operate": {
        "doctor": "check home, store and log; say what is wrong and what to do",
        "sync": "send what the dead left; --follow: what the living write",
        "bridge": "forward from an MQTT broker to Kafka or into a folder",
        "dead-letters": "list what could not be stored; replay it, or give it up",
        "snapshot": "take a backup of the database; --list shows them",
        "restore": "put a backup in the place of the database",
    },
    "Access": {
        "token": "make, list and revoke tokens for others",
        "login": "keep a token for a consumer elsewhere",
        "logout": "forget the token for a consumer",
    },
}

COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}
